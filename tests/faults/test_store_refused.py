"""A server that refuses, is no master, lost its marks, or holds what nobody wrote: unavailable, a miss, or no root."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import redis

from tidegate.cache.marks import Noted, Refusal
from tidegate.cache.store import Change, Filling, Hit, Miss, NoRoot, StoreUnavailable
from tidegate.position import NOWHERE, AskedFor, History, Origin
from tidegate.proxy.embedded.process import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.cache.redis.store import RedisStore
    from tidegate.proxy.embedded.valkey import ValkeyNode

    Calls = dict[str, Callable[[RedisStore], object]]

# What a user of the server must be allowed, as docs/redis.md says.
RIGHTS = (
    "~tg:* +eval +evalsha +info +time +get +set +del +exists +unlink +mget +strlen +pttl +pexpire "
    "+hget +hmget +hset +hdel +hlen +hrandfield"
)

ASKED = AskedFor(History(1))


def client(node: ValkeyNode) -> Any:
    return redis.Redis.from_url(node.url, protocol=2)


def test_a_server_restarted_empty_has_no_root(start_valkey: Any, store_at: Any, put_answer: Any) -> None:
    node = start_valkey()
    store = store_at(node.url)
    put_answer(store)
    node.kill()
    with pytest.raises(StoreUnavailable):
        store.lookup("t", "d", "tag", ASKED)
    node.start()
    assert store.lookup("t", "d", "tag", ASKED) == NoRoot()
    assert not store.check("t", Noted("n", 1), ["tag"], ASKED)


def test_a_replica_answers_nothing_and_promoted_it_has_no_root(
    start_valkey: Any, store_at: Any, put_answer: Any, calls: Calls
) -> None:
    master = start_valkey()
    replica = start_valkey("--replicaof", "127.0.0.1", str(master.port))
    inside = client(replica)
    wait_for(lambda: inside.info("replication")["master_link_status"] == "up", "the replica follows")
    # Not before: a server takes a new replication id as its first replica comes.
    put_answer(store_at(master.url))
    wait_for(lambda: bool(inside.keys("tg:e:*")), "the replica has the entry")
    store = store_at(replica.url)
    for name, call in calls.items():
        if name in ("blobs", "holder", "release"):
            continue  # large values are what their names say anywhere; who holds a lease is asked by who gets none
        with pytest.raises(StoreUnavailable):
            call(store_at(replica.url))
    inside.replicaof("NO", "ONE")
    assert store.lookup("t", "d", "tag", ASKED) == NoRoot()
    assert store.fill("t", _filling(Noted("n", 1))) is Refusal.NO_ROOT
    store.bump([Change("t", frozenset({"tag"}))], None, NOWHERE)
    assert store.lookup("t", "d", "tag", ASKED) == NoRoot()
    store.make_root("t", "n2", Origin(0, ASKED.history, ""))
    found = store.lookup("t", "d", "tag", ASKED)
    assert isinstance(found, Miss)
    assert (found.noted, found.reason) == (Noted("n2", 0), Refusal.NONCE)


def _filling(noted: Noted) -> Any:
    return Filling("d", noted, "k", Origin(1, History(1), "s0"), ("tag",), b"x", 60_000, {})


@pytest.mark.parametrize("program", [None, "redis_6_program"])
def test_a_full_server_takes_nothing_answers_still_and_can_forget(
    program: str | None, request: pytest.FixtureRequest, start_valkey: Any, store_at: Any, put_answer: Any
) -> None:
    binary = None if program is None else request.getfixturevalue(program)
    node = start_valkey("--maxmemory", "100mb", "--maxmemory-policy", "noeviction", program=binary)
    store = store_at(node.url)
    put_answer(store)
    client(node).config_set("maxmemory", "1")
    full: list[Callable[[], object]] = [
        lambda: store.lease("t", "other", store.lookup("t", "other", "tag", ASKED), "k", 1_000),
        lambda: store.make_root("t2", "n", Origin(1, History(1), "s0")),
    ]
    for call in full * 2:
        with pytest.raises(StoreUnavailable, match=r"OutOfMemory|OOM"):
            call()
    assert isinstance(store.lookup("t", "d", "tag", ASKED), Hit)
    with pytest.raises(StoreUnavailable, match=r"OutOfMemory|OOM"):
        store.open([Change("t", frozenset({"tag"}))], "5", Origin(1, History(1), "s0"), ["n"])
    assert store.lookup("t", "d", "tag", ASKED) == NoRoot()
    client(node).config_set("maxmemory", "100mb")
    put_answer(store)
    client(node).config_set("maxmemory", "1")
    store.bump([Change("t", frozenset({"tag"}))], None, NOWHERE)
    assert store.lookup("t", "d", "tag", ASKED) == NoRoot()


def test_a_user_needs_these_rights_and_no_other(
    start_valkey: Any, store_at: Any, put_answer: Any, calls: Calls
) -> None:
    node = start_valkey()
    admin = client(node)
    for name, rights in (
        ("full", RIGHTS),
        ("none", "+ping"),
        ("half", "~tg:* +evalsha +eval +info"),
        ("keys", "~other:* +@all"),
    ):
        admin.execute_command("ACL", "SETUSER", name, "on", ">p@ss", *rights.split())
    where = f"@127.0.0.1:{node.port}/0"
    store = store_at(f"redis://full:p%40ss{where}", most_tags=2)
    put_answer(store)
    for call in calls.values():
        call(store)
    for n in range(9):
        store.bump([Change("t", frozenset({f"{n}"}))], None, NOWHERE)
    assert admin.hlen(next(iter(admin.keys("tg:m:*:t}")))) < 9
    for user in ("none:p%40ss", "half:p%40ss", "keys:p%40ss", "full:wrong", "nobody:p%40ss"):
        for name, call in calls.items():
            with pytest.raises(StoreUnavailable) as refused:
                call(store_at(f"redis://{user}{where}"))
            assert "p@ss" not in str(refused.value), name
            assert "wrong" not in str(refused.value), name
    # Each right is needed by something: without it, one of the calls above fails.
    for epoch, right in enumerate(RIGHTS.split()[1:], 2):
        admin.execute_command("ACL", "SETUSER", "full", f"-{right[1:]}")
        admin.script_flush()
        assert _fails(store_at(f"redis://full:p%40ss{where}", most_tags=2), calls, epoch), right
        admin.execute_command("ACL", "SETUSER", "full", right)


def _fails(store: RedisStore, calls: Calls, epoch: int) -> bool:
    try:
        store.make_root("t", "n", origin := Origin(epoch, History(1), "s0"))
        store.complete_root("t", "n", "7", NOWHERE)
        store.end_quarantine("t", "n", NOWHERE)
        for _ in range(2):
            found = store.lookup("t", "d", "tag", ASKED, refresh=True)
            assert isinstance(found, Miss)
            store.release("t", "d", "k")
            assert store.lease("t", "d", found, "k", 60_000)
            assert store.fill("t", replace(_with_blob(found.noted), origin=origin)) is None
        for call in (*calls.values(), *calls.values()):
            call(store)
        for n in range(9):
            store.bump([Change("t", frozenset({f"{n}"}))], None, NOWHERE)
    except StoreUnavailable:
        return True
    return store.lookup("t", "d", "tag", ASKED) == NoRoot()  # what could not be bumped was forgotten


MARKS, ENTRY, LEASE, BLOB = "tg:m:{NS:t}", "tg:e:{NS:t}:d", "tg:l:{NS:t}:d", "tg:b:{NS:t}:h"
AT = "00000000.0000000000000000"
LOST = [
    (MARKS, "string", "a text"),
    (MARKS, "r", ""),
    (MARKS, "r", "1 c 1 1"),
    (MARKS, "r", f"2 c 1 1 {AT} 0 LIFE nn w o1.1.s0"),
    (MARKS, "r", f"1 z 1 1 {AT} 0 LIFE nn w o1.1.s0"),
    (MARKS, "r", f"1 c x 1 {AT} 0 LIFE nn w o1.1.s0"),
    (MARKS, "r", f"1 c 1 1 {AT[:-1]} 0 LIFE nn w o1.1.s0"),
    (MARKS, "r", f"1 c 1 1 {AT} 0 LIF nn w o1.1.s0"),
    (MARKS, "r", f"1 c 1 1 {AT} 0 LIFE nn w o1"),
    (MARKS, "ttag", ""),
    (MARKS, "ttag", "x"),
    (MARKS, "ttag", f"1 {AT[:-1]}"),
    (MARKS, "ttag", f"x {AT}"),
]


def spoil(node: ValkeyNode, ns: str, key: str, kind: str, value: str) -> None:
    inside, key = client(node), key.replace("NS", ns)
    life = inside.info("replication")["master_replid"]
    value = value.replace("LIFE", life).replace("LIF", life[:-1])
    if kind == "string":
        inside.set(key, value)
    elif kind == "list":
        inside.delete(key)
        inside.rpush(key, value)
    else:
        inside.hset(key, kind, value)


@pytest.mark.parametrize(("key", "kind", "value"), LOST)
def test_marks_that_make_no_sense_are_lost_marks(
    shared_valkey: ValkeyNode, ns: str, store_at: Any, put_answer: Any, key: str, kind: str, value: str
) -> None:
    store = store_at(shared_valkey.url)
    put_answer(store)
    spoil(shared_valkey, ns, key, kind, value)
    assert not store.check("t", Noted("n", 1), ["tag"], ASKED)
    assert store.lookup("t", "d", "tag", ASKED) == NoRoot()
    store.make_root("t", "n2", Origin(1, History(1), "s0"))
    assert isinstance(store.lookup("t", "d", "tag", ASKED), Miss)
    spoil(shared_valkey, ns, key, kind, value)
    store.open([Change("t", frozenset({"tag"}))], "5", Origin(1, History(1), "s0"), ["n3"])
    found = store.lookup("t", "d", "tag", ASKED)
    assert isinstance(found, Miss)
    assert (found.noted.nonce, list(found.intents)) == ("n3", ["5"])
    spoil(shared_valkey, ns, key, kind, value)
    store.stamp([Change("t", frozenset({"tag"}))], "5", Origin(1, History(1), "s0"), NOWHERE)
    assert store.lookup("t", "d", "tag", ASKED) == NoRoot()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("list", "x"),
        ("string", ""),
        ("string", "x"),
        ("string", "1 nn 1"),
        ("string", "1 nn x ttag\nbody"),
        ("string", "2 nn 1\nb"),
    ],
)
def test_an_entry_that_makes_no_sense_is_a_miss_and_can_be_replaced(
    shared_valkey: ValkeyNode, ns: str, store_at: Any, put_answer: Any, kind: str, value: str
) -> None:
    store = store_at(shared_valkey.url)
    put_answer(store)
    spoil(shared_valkey, ns, ENTRY, kind, value)
    spoil(shared_valkey, ns, LEASE, kind, value)
    spoil(shared_valkey, ns, BLOB, kind, value)
    found = store.lookup("t", "d", "tag", ASKED)
    assert isinstance(found, Miss)
    assert found.reason is Refusal.NO_ENTRY
    assert store.fill("t", _filling(found.noted)) is None
    put_answer(store)
    assert store.lease("t", "d", found, "k", 60_000)
    assert store.fill("t", _with_blob(found.noted)) is None
    assert store.blobs("t", ["h"]) == [b"large"]


def _with_blob(noted: Noted) -> Any:
    return replace(_filling(noted), blobs={"h": b"large"})


def test_an_entry_that_nobody_can_have_filled_is_void_while_an_intent_is_open(
    shared_valkey: ValkeyNode, ns: str, store_at: Any, put_answer: Any
) -> None:
    store = store_at(shared_valkey.url)
    put_answer(store)
    store.open([Change("t", frozenset({"tag"}))], "5", Origin(1, History(1), "s0"), ["other"])
    spoil(shared_valkey, ns, ENTRY, "string", "1 nn 99 ttag\nbody")
    found = store.lookup("t", "d", "tag", ASKED)
    assert isinstance(found, Miss)
    assert found.reason is Refusal.INTENT
    assert not store.check("t", Noted("n", 99), ["tag"], ASKED)
