"""What a call costs, counted: round trips, commands of the server; and none that walks over keys."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Any

import pytest
import redis
from real_servers.sent_packets import commands_in, packets_sent

from tidegate.cache.marks import Noted
from tidegate.cache.redis import scripts
from tidegate.cache.redis.scripts import Script
from tidegate.cache.redis.store import RedisStore
from tidegate.cache.store import Change, Filling, Hit, Miss
from tidegate.position import NOWHERE, AskedFor, History, Origin

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.proxy.embedded.valkey import ValkeyNode

ORIGIN = Origin(1, History(1), "s0")
ASKED = AskedFor(History(1))
CHANGES = [Change(f"t{n}", frozenset({"a", "b"}), whole=n == 1) for n in range(5)]
USED = {
    *("INFO", "TIME", "GET", "SET", "DEL", "EXISTS", "UNLINK", "MGET", "STRLEN", "PTTL", "PEXPIRE"),
    *("HGET", "HMGET", "HSET", "HDEL", "HLEN", "HRANDFIELD"),
}


def missed(store: RedisStore) -> Miss:
    found = store.lookup("t0", "d", "a", ASKED, refresh=True)
    assert isinstance(found, Miss)
    return found


CALLS: dict[str, Callable[[RedisStore], object]] = {
    "lookup": lambda store: store.lookup("t0", "d", "a", ASKED),
    "check": lambda store: store.check("t0", Noted("n", 1), ["a", "b"], ASKED),
    "blobs": lambda store: store.blobs("t0", ["h", "i", "j"]),
    "make_root": lambda store: store.make_root("t0", "n", ORIGIN),
    "complete_root": lambda store: store.complete_root("t0", "n", "7", NOWHERE),
    "end_quarantine": lambda store: store.end_quarantine("t0", "n", NOWHERE),
    "open": lambda store: store.open(CHANGES, "5", ORIGIN, ["n"] * 5),
    "stamp": lambda store: store.stamp(CHANGES, "5", ORIGIN, NOWHERE),
    "resolve": lambda store: store.resolve("t0", ["5", "6", "7"], ORIGIN, NOWHERE),
    "bump": lambda store: store.bump(CHANGES, None, NOWHERE),
    "lease": lambda store: store.lease("t0", "d", Miss.__new__(Miss), "k", 1_000),
    "holder": lambda store: store.holder("t0", "d"),
    "release": lambda store: store.release("t0", "d", "k"),
}


COMMANDS = {"check": 2}
"""How many plain commands stand in a packet where no script is asked."""


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    return packets_sent(monkeypatch)


def test_every_method_is_one_round_trip(shared_valkey: ValkeyNode, sent: list[bytes]) -> None:
    store = RedisStore.from_url(shared_valkey.url, secrets.token_hex(8), read_timeout_ms=5_000)
    for tenant in range(5):
        store.make_root(f"t{tenant}", "n", ORIGIN)
    noted = missed(store)
    calls: dict[str, Callable[[RedisStore], object]] = CALLS | {
        "lease": lambda store: store.lease("t0", "d", noted, "k", 60_000),
        "fill": lambda store: store.fill(
            "t0", Filling("d", noted.noted, "k", ORIGIN, ("a",), b"x", 1_000, {"h": b"1", "i": b"2"})
        ),
    }
    for call in calls.values():
        call(store)  # the server learns the scripts
    for name, call in calls.items():
        sent.clear()
        call(store)
        assert list(map(commands_in, sent)) == [5 if name in ("open", "stamp", "bump") else COMMANDS.get(name, 1)], name
    inside = redis.Redis.from_url(shared_valkey.url, protocol=2)
    inside.script_flush()
    sent.clear()
    store.bump(CHANGES, None, NOWHERE)
    assert list(map(commands_in, sent)) == [5, 5]


def test_no_script_walks_over_keys_and_each_uses_what_is_listed() -> None:
    texts = {name: value.text.decode() for name, value in vars(scripts).items() if isinstance(value, Script)}
    assert len(texts) == 15
    used = set()
    for name, text in texts.items():
        commands = set(re.findall(r"(?:redis\.p?call|\bcall|\btext|by_thousands)\(\s*'(\w+)'", text))
        assert commands <= USED, name
        assert not re.search(r"SCAN|'KEYS'|HGETALL|HKEYS|HVALS|RANDOMKEY", text), name
        # every key is declared: none is put together in a script
        assert "tg:" not in text, name
        used |= commands
    assert used | {"MGET"} == USED


def test_what_the_server_runs(start_valkey: Any) -> None:
    node = start_valkey()
    store = RedisStore.from_url(node.url, "aa", read_timeout_ms=5_000)
    store.make_root("t0", "n", ORIGIN)
    store.complete_root("t0", "n", "7", NOWHERE)
    store.end_quarantine("t0", "n", NOWHERE)
    noted = missed(store)
    assert store.lease("t0", "d", noted, "k", 60_000)
    assert store.fill("t0", Filling("d", noted.noted, "k", ORIGIN, ("a", "b"), b"x", 60_000, {})) is None
    inside = redis.Redis.from_url(node.url, protocol=2)
    read = {"info": 1, "get": 1, "hmget": 1}
    for ran in (read | {"evalsha": 1}, read | {"time": 1}):  # what was seen once is asked by plain commands
        inside.config_resetstat()
        assert isinstance(store.lookup("t0", "d", "a", ASKED), Hit)
        stats = inside.info("commandstats")
        counts = {name.removeprefix("cmdstat_"): stats[name]["calls"] for name in stats}
        assert {name: counts[name] for name in counts if not name.startswith(("client", "config"))} == ran


def test_trimming_holds_no_write_up_and_keeps_the_bound(start_valkey: Any) -> None:
    node = start_valkey()
    most = 2_000
    store = RedisStore.from_url(node.url, "aa", read_timeout_ms=5_000, most_tags=most)
    store.make_root("t", "n", ORIGIN)
    inside = redis.Redis.from_url(node.url, protocol=2)
    for first in range(0, 3 * most, 50):
        store.bump([Change("t", frozenset(f"run:{n}" for n in range(first, first + 50)))], None, NOWHERE)
        assert inside.hlen("tg:m:{aa:t}") <= most + 1 + 50
    drawn: dict[str, Any] = {}
    for _ in range(most):
        if drawn:
            break
        inside.config_resetstat()
        store.bump([Change("t", frozenset({"one", secrets.token_hex(8)}))], None, NOWHERE)
        drawn = inside.info("commandstats").get("cmdstat_hrandfield", {})
    assert 1 <= drawn["calls"] <= 2
    # the youngest are kept: what was bumped lately voids by its mark, not by the floor
    found = store.lookup("t", "d", "one", ASKED)
    assert isinstance(found, Miss)
    assert found.guard_generation == found.noted.counter


def test_keys_expire_and_marks_outlive_entries(start_valkey: Any) -> None:
    node = start_valkey()
    store = RedisStore.from_url(node.url, "aa", read_timeout_ms=5_000, marks_ttl_ms=100_000)
    inside = redis.Redis.from_url(node.url, protocol=2)
    store.make_root("t0", "n", ORIGIN)
    store.complete_root("t0", "n", "7", NOWHERE)
    store.end_quarantine("t0", "n", NOWHERE)
    assert 90_000 < inside.pttl("tg:m:{aa:t0}") <= 100_000
    noted = missed(store)
    assert store.lease("t0", "d", noted, "k", 60_000)
    assert store.fill("t0", Filling("d", noted.noted, "k", ORIGIN, ("a",), b"x", 500_000, {"h": b"1"})) is None
    assert inside.pttl("tg:e:{aa:t0}:d") > 400_000
    entry, blob, marks = [inside.pexpiretime(key) for key in ("tg:e:{aa:t0}:d", "tg:b:{aa:t0}:h", "tg:m:{aa:t0}")]
    assert entry <= blob <= marks
    assert store.lease("t0", "d", noted, "k", 60_000)
    assert inside.pttl("tg:l:{aa:t0}:d") <= 60_000
    assert store.fill("t0", Filling("d", noted.noted, "k", ORIGIN, ("a",), b"x", 9_000, {"h": b"1"})) is None
    assert inside.pttl("tg:e:{aa:t0}:d") <= 9_000
    assert inside.pttl("tg:b:{aa:t0}:h") > 400_000
    store.bump([Change("t0", frozenset({"a"}))], None, NOWHERE)
    assert inside.pttl("tg:m:{aa:t0}") <= 100_000
