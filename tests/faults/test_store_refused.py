"""A server that refuses, is no master, lost its marks, or holds what nobody wrote: unavailable, a miss, or no root."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import pytest
import redis

from tidegate.cache.marks import Refusal, State
from tidegate.cache.redis_store import RedisStore
from tidegate.cache.store import Change, Filling, Hit, Lookup, Miss, NoRoot, StoreUnavailable
from tidegate.proxy.embedded.process import wait_for
from tidegate.repositories.position import NOWHERE, Origin, Position

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.proxy.embedded.valkey import ValkeyNode

ORIGIN = Origin(1, 1, "s0")
CHANGE = [Change("t", frozenset({"a"}))]
NS = secrets.token_hex(8)
WRITES: dict[str, Callable[[RedisStore], object]] = (
    {
        "make_root": lambda store: store.make_root("new", "n", ORIGIN),
        "complete_root": lambda store: store.complete_root("t", "n", "7", NOWHERE),
        "end_quarantine": lambda store: store.end_quarantine("t", "n", NOWHERE),
        "open": lambda store: store.open(CHANGE, "5", ORIGIN, ["n"]),
        "stamp": lambda store: store.stamp(CHANGE, "5", ORIGIN, NOWHERE),
        "resolve": lambda store: store.resolve("t", ["5"], NOWHERE),
        "bump": lambda store: store.bump(CHANGE, NOWHERE),
        "lookup": look,
        "check": lambda store: store.check("t", miss_of(store).noted, ["a"]),
    }
    if False
    else {}
)


def store_at(url: str, **bounds: Any) -> RedisStore:
    return RedisStore.from_url(url, NS, connect_timeout_ms=5_000, read_timeout_ms=5_000, **bounds)
