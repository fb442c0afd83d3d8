"""Look-ups and checks by plain commands, where the server, the records or the process are not as they were."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import redis
from real_servers.one_answer import ASKED, CHANGE, ORIGIN, filling, put
from real_servers.sent_packets import commands_in, packets_sent

from tidegate.cache.marks import Noted, Refusal
from tidegate.cache.redis import link
from tidegate.cache.redis.breaker import Pauses
from tidegate.cache.store import Hit, Miss, NoRoot, StoreUnavailable
from tidegate.position import NOWHERE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.cache.redis.store import RedisStore
    from tidegate.proxy.embedded.valkey import ValkeyNode

pytestmark = pytest.mark.fast
PLAIN, SCRIPT = 4, 1
"""How many commands a packet holds."""


@pytest.fixture
def store(store_at: Callable[..., RedisStore], shared_valkey: ValkeyNode) -> RedisStore:
    made = store_at(shared_valkey.url)
    put(made)
    return made


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    return packets_sent(monkeypatch)


def look(store: RedisStore, entry: str = "d") -> Any:
    found = store.lookup("t", entry, "tag", ASKED)
    return found.reason if isinstance(found, Miss) else type(found)


def key_of(node: ValkeyNode, what: str, ns: str) -> tuple[redis.Redis, bytes]:
    client: redis.Redis = redis.Redis.from_url(node.url, protocol=2)
    return client, next(iter(client.scan_iter(match=f"tg:{what}:{{{ns}:*", count=10_000)))


@pytest.mark.parametrize("what", ["e", "m"])
@pytest.mark.parametrize("other", ["text", "list", "nothing"])
def test_records_that_others_have_written_are_a_miss(
    store: RedisStore, shared_valkey: ValkeyNode, ns: str, what: str, other: str
) -> None:
    assert look(store) is Hit
    client, key = key_of(shared_valkey, what, ns)
    client.delete(key)
    if other == "text":
        client.set(key, b"1 nonsense\n")
    elif other == "list":
        client.rpush(key, b"x")
    expected = Refusal.NO_ENTRY if what == "e" else NoRoot
    assert [look(store) for _ in range(3)] == [expected] * 3
    assert store.check("t", Noted("n", 10**9), ("tag",), ASKED) is (what == "e")


def test_a_miss_is_decided_by_plain_commands_too(store: RedisStore, sent: list[bytes]) -> None:
    store.open(CHANGE, "5", ORIGIN, ["n"])
    sent.clear()
    assert look(store) is Refusal.BUMPED
    store.stamp(CHANGE, "5", ORIGIN, NOWHERE)
    assert look(store) is Refusal.BUMPED
    assert [commands_in(packet) for packet in sent if packet.startswith(b"*2\r\n$3\r\nGET")] == [PLAIN, PLAIN]


def test_other_tags_than_before_are_asked_of_the_script_once(store: RedisStore, sent: list[bytes]) -> None:
    missed = store.lookup("t", "d", "tag", ASKED, refresh=True)
    assert isinstance(missed, Miss)
    assert store.fill("t", filling(counter=missed.noted.counter, tags=("tag", "another"))) is None
    sent.clear()
    assert [look(store) for _ in range(2)] == [Hit, Hit]
    assert list(map(commands_in, sent)) == [PLAIN, SCRIPT, PLAIN]
    store.bump([type(CHANGE[0])("t", frozenset({"another"}))], None, NOWHERE)
    assert look(store) is Refusal.BUMPED


def test_a_large_entry_that_is_void_is_sent_once(store: RedisStore, sent: list[bytes]) -> None:
    put(store, "large", b"x" * 100_000)
    assert look(store, "large") is Hit
    store.bump(CHANGE, None, NOWHERE)
    sent.clear()
    assert [look(store, "large") for _ in range(3)] == [Refusal.BUMPED] * 3
    assert list(map(commands_in, sent)) == [PLAIN, SCRIPT, SCRIPT]


def test_a_server_that_is_no_master_any_more_opens_the_breaker(
    store_at: Callable[..., RedisStore], start_valkey: Callable[..., ValkeyNode]
) -> None:
    node, other = start_valkey(), start_valkey()
    store = store_at(node.url, pauses=Pauses(failures=3, first_s=60))
    put(store)
    assert look(store) is Hit
    redis.Redis.from_url(node.url).replicaof("127.0.0.1", other.port)
    said = []
    for _ in range(6):
        with pytest.raises(StoreUnavailable) as refused:
            look(store)
        said.append("a moment ago" in str(refused.value))
    assert said == [False] * 3 + [True] * 3
    redis.Redis.from_url(node.url).replicaof("NO", "ONE")
    store._link.breaker._probe_at_s = 0.0  # type: ignore[attr-defined]  # the pause is over
    assert look(store) is NoRoot  # by its id it is another server now, and its answer closes the breaker
    put(store)
    assert look(store) is Hit


def test_a_connection_that_another_process_has_opened_is_not_used(
    store: RedisStore, sent: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A program may fork without Python's hooks, as uWSGI does: then the parent's idle connections are still at hand.
    parents = store._link._idle[-1].connection  # type: ignore[attr-defined]
    store.stamp(CHANGE, "5", ORIGIN, NOWHERE)
    store.stamp_soon(CHANGE, "6", ORIGIN, NOWHERE, lambda _error: None)
    process = os.getpid()
    monkeypatch.setattr(link, "getpid", lambda: process + 1)
    sent.clear()
    assert look(store) is Refusal.BUMPED
    assert look(store) is Refusal.BUMPED
    assert parents not in [line.connection for line in store._link._idle]  # type: ignore[attr-defined]
    assert len(store._link._idle) == 1  # type: ignore[attr-defined]
