"""A store with one answer in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidegate.cache.marks import Noted, Refusal, RootState
from tidegate.cache.store import Change, Filling, Hit, Miss
from tidegate.position import NOWHERE, AskedFor, History, Origin

if TYPE_CHECKING:
    from tidegate.cache.redis.store import RedisStore

ORIGIN = Origin(1, History(1), "s0")
ASKED = AskedFor(ORIGIN.history)
CHANGE = [Change("t", frozenset({"tag"}))]
MISS = Miss(Noted("n", 1), Refusal.NO_ENTRY, RootState.CLEAN, ORIGIN, NOWHERE, {})


def filling(entry: str = "d", counter: int = 1, body: bytes = b"answer", **overrides: Any) -> Filling:
    values: dict[str, Any] = {"token": "k", "origin": ORIGIN, "tags": ("tag",), "ttl_ms": 60_000, "blobs": {}}
    return Filling(entry=entry, noted=Noted("n", counter), body=body, **(values | overrides))


def put(store: RedisStore, entry: str = "d", body: bytes = b"answer") -> None:
    store.make_root("t", "n", ORIGIN)
    store.complete_root("t", "n", "7", NOWHERE)
    store.end_quarantine("t", "n", NOWHERE)
    assert store.lease("t", entry, MISS, "k", 60_000)
    assert store.fill("t", filling(entry, body=body)) is None
    assert isinstance(store.lookup("t", entry, "tag", ASKED), Hit)
