"""What every store does: in memory, on one server, on one of Redis 6.2, on a cluster of three."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from real_servers.deadlines import patient

from tidegate.cache.marks import Noted, Refusal, RootState
from tidegate.cache.memory_store import MemoryStore
from tidegate.cache.redis.store import RedisStore
from tidegate.cache.store import Change, Filling, Hit, Miss, NoRoot, OtherHistory, Store
from tidegate.position import NOWHERE, UNKNOWN, AskedFor, History, Origin, Position

if TYPE_CHECKING:
    from collections.abc import Callable

TENANT, ENTRY, GUARD, DAY = "7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10", "d1", "runs:app", "runs:app:20260101"
ORIGIN = Origin(1, History(1, "ab"), "s0")
ASKED = AskedFor(ORIGIN.history)


@pytest.fixture(params=["memory", "server", "redis 6.2", "cluster"])
def make_store(request: pytest.FixtureRequest) -> Callable[..., Store]:
    waits = {"connect_timeout_ms": 5_000, "read_timeout_ms": 5_000}

    def make(**bounds: Any) -> Store:
        ns = secrets.token_hex(8)
        if request.param == "memory":
            return MemoryStore(**bounds)
        if request.param != "cluster":
            server = "shared_valkey" if request.param == "server" else "shared_redis_6"
            return RedisStore.from_url(request.getfixturevalue(server).url, ns, **waits, **bounds)
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in request.getfixturevalue("valkey_cluster"))
        store = RedisStore.from_url(f"redis+cluster://{hosts}", ns, **waits, **bounds)
        request.addfinalizer(store.close)
        return store

    return make


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    return make_store()


def clean(store: Store, tenant: str = TENANT, nonce: str = "nonce", origin: Origin = ORIGIN) -> None:
    store.make_root(tenant, nonce, origin)
    store.complete_root(tenant, nonce, "77", NOWHERE)
    store.end_quarantine(tenant, nonce, NOWHERE)


def miss(store: Store, guard: str = GUARD, tenant: str = TENANT, entry: str = ENTRY) -> Miss:
    found = store.lookup(tenant, entry, guard, ASKED)
    assert isinstance(found, Miss), found
    return found


def filling(noted: Noted, **overrides: Any) -> Filling:
    values: dict[str, Any] = {
        "entry": ENTRY,
        "noted": noted,
        "token": "token",
        "origin": ORIGIN,
        "tags": (DAY,),
        "body": b"the answer",
        "ttl_ms": 60_000,
        "blobs": {},
    }
    return Filling(**(values | overrides))


def with_token(noted: Miss, token: str) -> Filling:
    return filling(noted.noted, token=token)


def fill(store: Store, noted: Miss | None = None, tenant: str = TENANT, **overrides: Any) -> Refusal | None:
    entry = overrides.get("entry", ENTRY)
    noted = noted or miss(store, tenant=tenant, entry=entry)
    assert store.lease(tenant, entry, noted, "token", 60_000)
    return store.fill(tenant, filling(noted.noted, **overrides))


def write(store: Store, xid: str, *tags: str, lsn: int = 1, whole: bool = False, origin: Origin = ORIGIN) -> None:
    change = [Change(TENANT, frozenset(tags), whole)]
    store.open(change, xid, origin, ["other"])
    store.stamp(change, xid, origin, Position(1, lsn))


def test_without_a_root_nothing_is_answered_stored_or_closed(store: Store) -> None:
    change = [Change(TENANT, frozenset({DAY}), whole=True)]
    store.stamp(change, "5", ORIGIN, Position(1, 1))
    store.bump(change, None, Position(1, 1))
    store.resolve(TENANT, ["5"], ORIGIN, Position(1, 1))
    store.complete_root(TENANT, "nonce", "5", Position(1, 1))
    store.end_quarantine(TENANT, "nonce", Position(1, 1))
    assert store.lookup(TENANT, ENTRY, GUARD, ASKED) == NoRoot()
    assert not store.check(TENANT, Noted("nonce", 0), [DAY], ASKED)
    assert store.fill(TENANT, filling(Noted("nonce", 0))) is Refusal.NO_ROOT


def test_a_root_is_pending_then_in_quarantine_then_clean(store: Store) -> None:
    store.make_root(TENANT, "nonce", ORIGIN)
    assert miss(store) == Miss(Noted("nonce", 0), Refusal.NO_ENTRY, RootState.PENDING, ORIGIN, NOWHERE, {})
    store.end_quarantine(TENANT, "nonce", Position(1, 9))
    assert miss(store).state is RootState.PENDING
    store.complete_root(TENANT, "another", "77", Position(1, 9))
    assert miss(store).state is RootState.PENDING
    store.complete_root(TENANT, "nonce", "77", Position(1, 3))
    assert miss(store) == Miss(
        Noted("nonce", 0), Refusal.NO_ENTRY, RootState.QUARANTINE, ORIGIN, Position(1, 3), {}, "77"
    )
    store.complete_root(TENANT, "nonce", "78", Position(1, 9))
    store.end_quarantine(TENANT, "another", Position(1, 9))
    assert miss(store).awaits == "77"
    store.end_quarantine(TENANT, "nonce", Position(0, 5))
    assert miss(store) == Miss(Noted("nonce", 1), Refusal.NO_ENTRY, RootState.CLEAN, ORIGIN, Position(1, 5), {})
    assert not store.check(TENANT, Noted("nonce", 0), [DAY], ASKED)


@pytest.mark.parametrize("steps", [0, 1])
def test_a_root_that_is_not_clean_neither_answers_nor_stores(store: Store, steps: int) -> None:
    clean(store)
    assert fill(store) is None
    noted = miss(store, entry="other")
    store.make_root(TENANT, "nonce", newer := ORIGIN._replace(epoch=2))
    if steps:
        store.complete_root(TENANT, "nonce", "77", NOWHERE)
    assert miss(store).reason is Refusal.STATE
    assert not store.check(TENANT, noted.noted, [DAY], ASKED)
    assert fill(store, noted, origin=newer) is Refusal.STATE


def test_a_filled_answer_is_found_with_what_was_noted(store: Store) -> None:
    clean(store)
    write(store, "5", DAY)
    noted = miss(store)
    assert fill(store, noted, tags=(DAY, "run:1"), body=b"\r\n\x00\n 1") is None
    assert store.lookup(TENANT, ENTRY, GUARD, ASKED) == Hit(b"\r\n\x00\n 1", noted.noted, (DAY, "run:1"))
    refreshed = store.lookup(TENANT, ENTRY, GUARD, ASKED, refresh=True)
    assert isinstance(refreshed, Miss)
    assert refreshed.reason is Refusal.NO_ENTRY
    assert store.check(TENANT, noted.noted, [DAY, "run:1"], ASKED)
    assert miss(store, entry="d2").reason is Refusal.NO_ENTRY
    assert store.lookup("another tenant", ENTRY, GUARD, ASKED) == NoRoot()


def test_an_entry_ends_with_its_time(store: Store) -> None:
    clean(store)
    noted = miss(store)
    assert fill(store, noted, ttl_ms=0) is None
    assert miss(store).reason is Refusal.NO_ENTRY
    assert fill(store, noted, ttl_ms=40) is None
    deadline = time.monotonic() + patient(5)
    while isinstance(store.lookup(TENANT, ENTRY, GUARD, ASKED), Hit):
        assert time.monotonic() < deadline
    assert miss(store).reason is Refusal.NO_ENTRY


def test_a_bump_voids_what_depends_on_the_tag_and_nothing_else(store: Store) -> None:
    clean(store)
    assert fill(store) is None
    store.bump([Change(TENANT, frozenset({GUARD, "run:1"}))], None, Position(1, 1))
    assert isinstance(store.lookup(TENANT, ENTRY, GUARD, ASKED), Hit)
    store.bump([Change(TENANT, frozenset({DAY}))], None, Position(1, 1))
    assert miss(store).reason is Refusal.BUMPED


def test_an_open_intent_voids_until_it_is_stamped_and_the_stamp_voids_again(store: Store) -> None:
    clean(store)
    assert fill(store) is None
    change = [Change(TENANT, frozenset({DAY}))]
    store.open(change, "5", ORIGIN, ["other"])
    assert miss(store).reason is Refusal.BUMPED
    noted = miss(store)
    assert fill(store, noted) is Refusal.INTENT
    assert not store.check(TENANT, noted.noted, [DAY], ASKED)
    store.stamp(change, "5", ORIGIN, Position(1, 1))
    assert fill(store, noted) is Refusal.BUMPED
    assert fill(store) is None


def test_a_late_fill_is_refused(store: Store) -> None:
    clean(store)
    noted = miss(store)
    store.bump([Change(TENANT, frozenset({DAY}))], None, Position(1, 1))
    assert fill(store, noted) is Refusal.BUMPED
    store.bump([Change(TENANT, whole=True)], None, Position(1, 1))
    assert fill(store, noted, tags=()) is Refusal.FLOOR
    store.make_root(TENANT, "next", ORIGIN._replace(epoch=2))
    assert fill(store, noted) is Refusal.NONCE
    assert fill(store, entry="d2", origin=ORIGIN) is Refusal.STATE
    assert miss(store).reason is Refusal.NO_ENTRY


def test_an_entry_of_another_life_is_void_although_its_counter_is_high(store: Store) -> None:
    clean(store)
    for _ in range(5):
        store.bump([Change(TENANT, frozenset({"another"}))], None, NOWHERE)
    noted = miss(store)
    assert fill(store, noted) is None
    clean(store, nonce="next", origin=ORIGIN._replace(epoch=2))
    assert miss(store).reason is Refusal.NONCE
    assert not store.check(TENANT, noted.noted, [DAY], ASKED)
    assert fill(store, noted, origin=ORIGIN._replace(history=History(2))) is Refusal.NONCE


def test_what_another_origin_answered_is_not_stored(store: Store) -> None:
    clean(store)
    newer, rival = ORIGIN._replace(history=History(2, "ab")), ORIGIN._replace(history=History(1, "ba"))
    for other in (ORIGIN._replace(epoch=2), newer, rival, ORIGIN._replace(shard="s1"), ORIGIN._replace(epoch=0)):
        assert fill(store, origin=other) is Refusal.ORIGIN
    assert miss(store).reason is Refusal.NO_ENTRY


def test_who_knows_only_of_an_earlier_epoch_neither_hits_nor_is_told_of_another_reason(store: Store) -> None:
    clean(store, origin=ORIGIN._replace(epoch=9, shard="s1"))
    noted = miss(store)
    assert fill(store, noted, origin=noted.origin) is None
    # By number, not as texts; at the root's own epoch, beyond it, and where nobody has an epoch, as ever.
    for known in (9, 10, None):
        assert isinstance(store.lookup(TENANT, ENTRY, GUARD, by(known)), Hit)
        assert store.check(TENANT, noted.noted, [DAY], by(known))
    store.make_root(TENANT, "next", newer := ORIGIN._replace(epoch=10))
    store.complete_root(TENANT, "next", "77", NOWHERE)
    store.end_quarantine(TENANT, "next", Position(1, 5))
    noted = miss(store)
    assert fill(store, noted, origin=newer) is None
    write(store, "5", "another", origin=newer, lsn=7)
    for entry in (ENTRY, "nothing is stored"):
        for refresh in (False, True):
            found = store.lookup(TENANT, entry, "another", by(9), refresh=refresh)
            assert found == Miss(
                Noted("next", 3), Refusal.EPOCH, RootState.CLEAN, newer, Position(1, 7), {}, guard_generation=3
            )
    assert not store.check(TENANT, noted.noted, [DAY], by(9))
    assert store.check(TENANT, noted.noted, [DAY], by(10))
    assert isinstance(store.lookup(TENANT, ENTRY, GUARD, by(10)), Hit)
    store.make_root(TENANT, "pending", pending := ORIGIN._replace(epoch=11, shard="s1"))
    store.open([Change(TENANT, frozenset({GUARD}))], "6", pending, ["other"])
    found = store.lookup(TENANT, ENTRY, GUARD, by(10))
    assert isinstance(found, Miss)
    assert (found.moved, found.state, found.dirty, list(found.intents)) == (True, RootState.PENDING, True, ["6"])


@pytest.mark.parametrize("other", [History(1, "ba"), History(1), History(2, "ab"), History(0, "ab"), UNKNOWN])
def test_who_asks_for_another_history_neither_hits_nor_is_told_of_another_reason(store: Store, other: History) -> None:
    clean(store)
    noted = miss(store)
    assert fill(store, noted) is None
    for refresh in (False, True):
        found = store.lookup(TENANT, ENTRY, GUARD, AskedFor(other), refresh=refresh)
        assert isinstance(found, Miss)
        assert found == replace(noted, reason=Refusal.ORIGIN)
        assert found.foreign
    assert not store.check(TENANT, noted.noted, [DAY], AskedFor(other))
    assert isinstance(store.lookup(TENANT, ENTRY, GUARD, ASKED), Hit)
    store.open([Change(TENANT, frozenset({GUARD}))], "5", ORIGIN, ["other"])
    found = store.lookup(TENANT, ENTRY, GUARD, AskedFor(other))
    assert isinstance(found, Miss)
    assert (found.foreign, found.dirty) == (True, True)


@pytest.mark.parametrize("other", [History(1, "ba"), History(2, "ab"), History(0, "ab")])
def test_what_comes_of_another_history_closes_no_intent_and_is_told_so(store: Store, other: History) -> None:
    clean(store)
    change, origin = [Change(TENANT, frozenset({GUARD}))], ORIGIN._replace(history=other)
    store.open(change, "5", ORIGIN, ["other"])
    store.resolve(TENANT, ["5"], origin, Position(9, 9))
    assert (list(miss(store).intents), miss(store).position) == (["5"], NOWHERE)
    with pytest.raises(OtherHistory):
        store.stamp(change, "5", origin, Position(9, 9))
    assert (list(miss(store).intents), miss(store).position) == (["5"], NOWHERE)
    if not origin.outdates(ORIGIN):
        with pytest.raises(OtherHistory):
            store.open(change, "6", origin, ["never"])
        with pytest.raises(OtherHistory):
            store.bump(change, origin, Position(9, 9))
        assert (list(miss(store).intents), miss(store).position) == (["5"], NOWHERE)


def test_a_bump_of_a_newer_history_forgets_the_marks_of_an_older_one(store: Store) -> None:
    clean(store)
    newer = ORIGIN._replace(history=History(2, "cd"))
    store.bump([Change(TENANT, frozenset({"another"}))], newer, Position(1, 9))
    assert store.lookup(TENANT, ENTRY, GUARD, ASKED) == NoRoot()
    store.bump([Change(TENANT, frozenset({"another"}))], newer, Position(1, 9))  # there is nothing to void
    clean(store, nonce="second")
    store.forget([TENANT, "another"])
    assert store.lookup(TENANT, ENTRY, GUARD, ASKED) == NoRoot()


def test_the_newest_history_that_was_named_stays_for_each_shard(store: Store) -> None:
    assert store.newest_history("s0") is None
    first = History(9, "ab")
    for named in (first, History(9, "ba"), History(8, "ff"), None):
        assert store.newest_history("s0", named) == first
    assert store.newest_history("s 1", History(1)) == History(1)
    assert store.newest_history("s0", newest := History(10, "00")) == newest
    assert (store.newest_history("s0"), store.newest_history("s 1")) == (newest, History(1))


def by(epoch: int | None) -> AskedFor:
    return ASKED._replace(epoch=epoch)


def test_the_whole_tenant_is_voided_by_the_floor(store: Store) -> None:
    clean(store)
    assert fill(store, tags=()) is None
    store.bump([Change(TENANT, whole=True)], None, Position(3, 2))
    found = miss(store)
    assert (found.reason, found.position) == (Refusal.FLOOR, Position(3, 2))
    assert fill(store) is None


def test_an_intent_on_the_whole_tenant_is_everyones(store: Store) -> None:
    clean(store)
    assert fill(store) is None
    change = [Change(TENANT, whole=True)]
    store.open(change, "5", ORIGIN, ["other"])
    found = miss(store, guard="never bumped")
    assert (found.reason, list(found.intents), found.dirty) == (Refusal.INTENT, ["5"], True)
    assert fill(store, found, tags=("never bumped",)) is Refusal.INTENT
    store.stamp(change, "6", ORIGIN, Position(1, 1))
    assert list(miss(store).intents) == ["5"]
    store.stamp(change, "5", ORIGIN, Position(1, 1))
    assert miss(store).intents == {}
    assert fill(store) is None


def test_a_miss_notes_the_greater_position_number_by_number(store: Store) -> None:
    clean(store)
    store.bump([Change(TENANT, whole=True)], None, Position(2, 0xB))
    store.bump([Change(TENANT, whole=True)], None, Position(1, 0xAA))
    assert miss(store).position == Position(2, 0xAA)
    for at, greatest in (
        ((1, 0xB), (2, 0xAA)),
        ((2, 0xFFFF_FFFF_FFFF_FFFF), (2, 2**64 - 1)),
        ((0xFFFF_FFFF, 1), (2**32 - 1, 2**64 - 1)),
    ):
        store.bump([Change(TENANT, frozenset({GUARD}))], None, Position(*at))
        assert miss(store).position == Position(*greatest)
        assert miss(store, guard="another").position == Position(2, 0xAA)


def test_intents_of_several_transactions_are_kept_apart(store: Store) -> None:
    clean(store)
    both, one = [Change(TENANT, frozenset({GUARD, DAY}))], [Change(TENANT, frozenset({GUARD}))]
    store.open(both, "5", ORIGIN, ["other"])
    store.open(one, "51", ORIGIN, ["other"])
    store.open(one, "5", ORIGIN, ["other"])
    assert sorted(miss(store).intents) == ["5", "51"]
    store.stamp(one, "5", ORIGIN, Position(1, 1))
    assert list(miss(store).intents) == ["51"]
    assert list(miss(store, guard=DAY).intents) == ["5"]
    store.stamp(both, "51", ORIGIN, Position(1, 1))
    assert miss(store).intents == {}
    assert list(miss(store, guard=DAY).intents) == ["5"]


def test_an_intent_tells_its_age(store: Store) -> None:
    clean(store)
    before = time.monotonic()
    store.open([Change(TENANT, frozenset({GUARD}))], "5", ORIGIN, ["other"])
    while miss(store).intents["5"] < 30:
        assert time.monotonic() < before + patient(5)
    assert miss(store).intents["5"] <= (time.monotonic() - before) * 1000 + 10


def test_resolving_closes_intents_wherever_they_are_at_that_position(store: Store) -> None:
    clean(store)
    store.open([Change(TENANT, frozenset({GUARD, DAY}), whole=True)], "5", ORIGIN, ["other"])
    store.open([Change(TENANT, frozenset({GUARD}))], "6", ORIGIN, ["other"])
    noted = miss(store, guard=DAY)
    store.resolve(TENANT, ["7", "5"], ORIGIN, Position(1, 8))
    assert list(miss(store).intents) == ["6"]
    found = miss(store, guard=DAY)
    assert (found.intents, found.position) == ({}, Position(1, 8))
    assert fill(store, noted, tags=(DAY,)) is Refusal.FLOOR
    assert fill(store, found, tags=(DAY,)) is None
    store.resolve(TENANT, ["6", "5"], ORIGIN, Position(1, 9))
    assert miss(store, entry="d2").position == Position(1, 9)
    assert miss(store, guard=DAY, entry="d2").position == Position(1, 8)


def test_resolving_closes_what_a_stamp_of_some_tags_left_open(store: Store) -> None:
    clean(store)
    store.open([Change(TENANT, frozenset({GUARD}))], "5", ORIGIN, ["other"])
    store.open([Change(TENANT, frozenset({DAY, "third"}))], "5", ORIGIN, ["other"])
    store.stamp([Change(TENANT, frozenset({DAY}))], "5", ORIGIN, NOWHERE)
    assert [list(miss(store, guard=tag).intents) for tag in (GUARD, DAY, "third")] == [["5"], [], ["5"]]
    store.resolve(TENANT, ["5"], ORIGIN, Position(1, 8))
    found = [miss(store, guard=tag) for tag in (GUARD, DAY, "third")]
    assert [(m.intents, m.position) for m in found] == [({}, Position(1, 8)), ({}, NOWHERE), ({}, Position(1, 8))]


def test_a_root_is_replaced_by_a_newer_origin_only(store: Store) -> None:
    clean(store)
    write(store, "5", DAY, lsn=9)
    shard, rival = ORIGIN._replace(shard="S0"), ORIGIN._replace(history=History(1, "ff"))
    for nonce, older in enumerate((ORIGIN, Origin(0, History(9), "s9"), Origin(1, History(0), "s0"), shard, rival)):
        store.make_root(TENANT, str(nonce), older)
        if older != ORIGIN:
            with pytest.raises(OtherHistory):
                store.open([Change(TENANT, frozenset({GUARD}))], "6", older, [str(nonce)])
    assert miss(store).noted == Noted("nonce", 3)
    assert miss(store).intents == {}
    two, ten = Origin(1, History(2, "00"), "s0"), Origin(1, History(10), "s0")
    for nonce, newer in enumerate((two, ten, Origin(1, History(1), "s0a"), Origin(1, History(0), "t"), Origin(10))):
        store.make_root(TENANT, f"new{nonce}", newer)
        found = store.lookup(TENANT, ENTRY, DAY, AskedFor(newer.history))
        assert found == Miss(Noted(f"new{nonce}", 0), Refusal.NO_ENTRY, RootState.PENDING, newer, NOWHERE, {})


def test_a_writer_finds_or_makes_a_pending_root_and_an_older_one_changes_nothing(store: Store) -> None:
    change = [Change(TENANT, frozenset({GUARD}))]
    store.open(change, "5", ORIGIN, ["made"])
    found = miss(store)
    assert (found.noted, found.state, list(found.intents)) == (Noted("made", 1), RootState.PENDING, ["5"])
    older = ORIGIN._replace(epoch=0)
    with pytest.raises(OtherHistory):
        store.open(change, "6", older, ["never"])
    with pytest.raises(OtherHistory):
        store.stamp(change, "5", older, Position(9, 9))
    assert miss(store).noted == Noted("made", 1)
    assert list(miss(store).intents) == ["5"]
    newer = ORIGIN._replace(epoch=2)
    with pytest.raises(OtherHistory):
        store.stamp(change, "5", newer, Position(9, 9))
    assert list(miss(store).intents) == ["5"]
    store.open(change, "7", newer, ["fresh"])
    found = miss(store)
    assert (found.noted, found.origin, list(found.intents)) == (Noted("fresh", 1), newer, ["7"])


def test_a_completed_root_keeps_what_was_written_meanwhile(store: Store) -> None:
    store.make_root(TENANT, "nonce", ORIGIN)
    store.open([Change(TENANT, frozenset({GUARD}), whole=True)], "5", ORIGIN, ["other"])
    store.bump([Change(TENANT, whole=True)], None, Position(1, 7))
    store.complete_root(TENANT, "nonce", "77", Position(1, 3))
    store.end_quarantine(TENANT, "nonce", Position(1, 5))
    found = miss(store)
    assert (found.position, list(found.intents), found.guard_generation) == (Position(1, 7), ["5"], 1)


def test_only_one_may_fill_until_it_gives_the_lease_back(store: Store) -> None:
    clean(store)
    noted = miss(store)
    assert store.holder(TENANT, ENTRY) is None
    assert store.lease(TENANT, ENTRY, noted, "mine", 60_000)
    assert not store.lease(TENANT, ENTRY, noted, "yours", 60_000)
    assert store.holder(TENANT, ENTRY) == "mine"
    assert store.lease(TENANT, "d2", noted, "yours", 60_000)
    store.release(TENANT, ENTRY, "yours")
    assert not store.lease(TENANT, ENTRY, noted, "yours", 60_000)
    assert store.fill(TENANT, with_token(noted, "yours")) is Refusal.LEASE
    store.release(TENANT, ENTRY, "mine")
    assert store.holder(TENANT, ENTRY) is None
    assert store.lease(TENANT, ENTRY, noted, "yours", 60_000)
    assert store.fill(TENANT, with_token(noted, "mine")) is Refusal.LEASE
    assert store.fill(TENANT, with_token(noted, "yours")) is None
    assert store.holder(TENANT, ENTRY) is None


def test_a_lease_that_has_ended_refuses_no_fill_and_what_was_noted_decides(store: Store) -> None:
    clean(store)
    noted = miss(store)
    assert store.fill(TENANT, with_token(noted, "ended")) is None
    assert isinstance(store.lookup(TENANT, ENTRY, GUARD, ASKED), Hit)
    store.bump([Change(TENANT, frozenset({DAY}))], None, NOWHERE)
    assert store.fill(TENANT, with_token(noted, "ended")) is Refusal.BUMPED
    store.open([Change(TENANT, frozenset({DAY}))], "5", ORIGIN, ["unused"])
    assert store.fill(TENANT, with_token(miss(store), "ended")) is Refusal.INTENT


def test_a_holder_renews_its_lease(store: Store) -> None:
    clean(store)
    noted = miss(store)
    assert store.lease(TENANT, ENTRY, noted, "mine", 1)
    while store.holder(TENANT, ENTRY) is not None:
        pass
    assert store.lease(TENANT, ENTRY, noted, "mine", 200), "nobody else has it"
    assert store.lease(TENANT, ENTRY, noted, "mine", 600_000)
    deadline = time.monotonic() + 0.25
    while time.monotonic() < deadline:
        assert not store.lease(TENANT, ENTRY, noted, "yours", 60_000)
    store.bump([Change(TENANT, frozenset({"another"}))], None, NOWHERE)
    assert not store.lease(TENANT, ENTRY, miss(store), "mine", 60_000), "what was noted is another's"
    store.bump([Change(TENANT, frozenset({GUARD}))], None, NOWHERE)
    assert store.lease(TENANT, ENTRY, miss(store), "yours", 60_000)
    assert not store.lease(TENANT, ENTRY, noted, "mine", 60_000), "it was taken away, and is not renewed"
    assert store.holder(TENANT, ENTRY) == "yours"


def test_who_missed_before_a_fill_gets_no_lease_after_it(store: Store) -> None:
    # One looks and misses; another fills and gives the lease back; the first comes to the lease.
    clean(store)
    late = miss(store)
    fill(store)
    assert not store.lease(TENANT, ENTRY, late, "late", 60_000, unless_filled=True)
    assert store.lease(TENANT, ENTRY, late, "anew", 60_000)  # for an entry that cannot be read
    store.release(TENANT, ENTRY, "anew")
    store.bump([Change(TENANT, frozenset({DAY}))], None, NOWHERE)
    assert store.lease(TENANT, ENTRY, miss(store), "late", 60_000, unless_filled=True)


def test_a_lease_ends_with_its_time(store: Store) -> None:
    clean(store)
    noted = miss(store)
    assert store.lease(TENANT, ENTRY, noted, "dead", 30)
    deadline = time.monotonic() + patient(5)
    while not store.lease(TENANT, ENTRY, noted, "next", 60_000):
        assert time.monotonic() < deadline
    assert store.fill(TENANT, with_token(noted, "dead")) is Refusal.LEASE


def test_a_lease_whose_fill_will_be_refused_is_taken_over(store: Store) -> None:
    clean(store)
    noted = miss(store)
    assert store.lease(TENANT, ENTRY, noted, "late", 60_000)
    store.bump([Change(TENANT, frozenset({"another"}))], None, Position(1, 1))
    assert not store.lease(TENANT, ENTRY, miss(store), "next", 60_000)
    store.bump([Change(TENANT, frozenset({GUARD}))], None, Position(1, 1))
    assert store.lease(TENANT, ENTRY, newer := miss(store), "next", 60_000)
    store.make_root(TENANT, "remade", ORIGIN._replace(epoch=2))
    assert store.lease(TENANT, ENTRY, miss(store), "third", 60_000)
    assert store.fill(TENANT, with_token(newer, "next")) is Refusal.LEASE


def test_large_values_are_stored_with_their_answer_or_not_at_all(store: Store) -> None:
    clean(store)
    assert store.blobs(TENANT, []) == []
    assert fill(store, origin=Origin(9, History(9), ""), blobs={"h0": b"0"}) is Refusal.ORIGIN
    assert fill(store, blobs={"h1": b"\x00" * 100_000, "h2": b""}) is None
    assert fill(store, miss(store, entry="d2"), entry="d2", blobs={"h1": b"\x00" * 100_000}) is None
    assert store.blobs(TENANT, ["h0", "h2", "h1"]) == [None, b"", b"\x00" * 100_000]
    assert store.blobs("another", ["h1"]) == [None]


def test_an_answer_over_the_bound_is_refused_and_gives_the_lease_back(make_store: Callable[..., Store]) -> None:
    store = make_store(most_bytes=100)
    clean(store)
    assert fill(store, body=b"x" * 60, blobs={"h": b"x" * 41}) is Refusal.TOO_LARGE
    assert store.blobs(TENANT, ["h"]) == [None]
    assert fill(store, body=b"x" * 60, blobs={"h": b"x" * 40}) is None


def test_a_transaction_over_several_tenants_marks_each(store: Store) -> None:
    tenants = [f"tenant {n}" for n in range(8)]
    for tenant in tenants[1:]:
        clean(store, tenant)
    changes = [Change(tenant, frozenset({GUARD}), whole=n == 3) for n, tenant in enumerate(tenants)]
    store.open(changes, "5", ORIGIN, [f"made{n}" for n in range(8)])
    assert [list(miss(store, tenant=tenant).intents) for tenant in tenants] == [["5"]] * 8
    store.stamp(changes, "5", ORIGIN, Position(1, 4))
    found = [miss(store, tenant=tenant) for tenant in tenants]
    assert [m.noted.nonce for m in found] == ["made0", *["nonce"] * 7]
    assert {(m.position, tuple(m.intents)) for m in found} == {(Position(1, 4), ())}
    store.open([], "5", ORIGIN, [])


@pytest.mark.parametrize(
    "odd", ["", " ", "a b", "a\nb\r\0c", "}{:", "x\x01y", "tä\U0001f30a", "\ud800", "=,;%20", "t" * 5000]
)
def test_any_text_will_do_for_a_name(store: Store, odd: str) -> None:
    clean(store, odd, f"n{odd}")
    origin = ORIGIN._replace(shard=odd)
    store.make_root(odd, nonce := f"m{odd}", origin._replace(epoch=3))
    store.complete_root(odd, nonce, f"7{odd}", NOWHERE)
    assert miss(store, tenant=odd).awaits == f"7{odd}"
    store.end_quarantine(odd, nonce, NOWHERE)
    noted = miss(store, odd, odd)
    assert (noted.noted.nonce, noted.origin.shard) == (nonce, odd)
    assert store.lease(odd, ENTRY, noted, odd, 60_000)
    assert store.fill(odd, filling(noted.noted, token=odd, tags=(odd, DAY), origin=noted.origin)) is None
    assert store.lookup(odd, ENTRY, odd, ASKED) == Hit(b"the answer", noted.noted, (odd, DAY))
    change = [Change(odd, frozenset({odd}))]
    store.open(change, f"8{odd}", noted.origin, ["other"])
    assert list(miss(store, odd, odd).intents) == [f"8{odd}"]
    assert miss(store, f"{odd}{odd} ", odd).guard_generation == 0
    store.stamp(change, f"8{odd}", noted.origin, NOWHERE)
    assert miss(store, odd, odd).intents == {}
    assert miss(store, odd, odd).reason is Refusal.BUMPED


def test_thousands_of_tags_in_one_change_and_in_one_answer(store: Store) -> None:
    clean(store)
    tags = [f"run:{n:036d}" for n in range(9_000)]
    assert fill(store, tags=tuple(tags)) is None
    assert isinstance(store.lookup(TENANT, ENTRY, GUARD, ASKED), Hit)
    store.open([Change(TENANT, frozenset(tags))], "5", ORIGIN, ["other"])
    assert [list(miss(store, guard=tag).intents) for tag in tags[::1000]] == [["5"]] * 9
    store.stamp([Change(TENANT, frozenset(tags))], "5", ORIGIN, Position(1, 2))
    assert miss(store, guard=tags[-1]).position == Position(1, 2)
    assert fill(store, tags=tuple(tags)) is None
    store.bump([Change(TENANT, frozenset({tags[-1]}))], None, Position(1, 2))
    assert miss(store).reason is Refusal.BUMPED


def test_dropped_marks_leave_their_generation_and_position_with_the_root(make_store: Callable[..., Store]) -> None:
    store = make_store(most_tags=8)
    clean(store)
    store.open([Change(TENANT, frozenset({"open"}))], "5", ORIGIN, ["other"])
    noted, n = {0: miss(store)}, 0
    while noted[n].position == NOWHERE:
        assert n < 50
        store.bump([Change(TENANT, frozenset({f"run:{n}"}))], None, Position(1, 100 + n))
        n += 1
        noted[n] = miss(store)
    assert n >= 8
    # run:0 is among the oldest, so it was dropped; an entry noted before its bump must not come back to life by that.
    assert miss(store, guard="run:0").guard_generation == 0
    assert miss(store, guard="run:0").position >= Position(1, 100)
    assert not store.check(TENANT, noted[0].noted, ["run:0"], ASKED)
    assert fill(store, noted[0], tags=("run:0",)) is Refusal.FLOOR
    assert store.check(TENANT, noted[n].noted, ["run:0"], ASKED)
    # the youngest mark is there, and so is what is open
    assert miss(store, guard=f"run:{n - 1}").guard_generation == noted[n].noted.counter
    assert list(miss(store, guard="open").intents) == ["5"]
    store.stamp([Change(TENANT, frozenset({"open"}))], "5", ORIGIN, Position(1, 1))
    assert miss(store, guard="open").intents == {}


def test_a_switch_is_off_until_it_is_switched_on_again(store: Store) -> None:
    assert store.switched_off() == frozenset()
    store.switch("all", off=True)
    store.switch("method:a b", off=True)
    store.switch("all", off=True)
    assert store.switched_off() == {"all", "method:a b"}
    store.switch("all", off=False)
    assert store.switched_off() == {"method:a b"}
    store.switch("method:a b", off=False)
    assert store.switched_off() == frozenset()


def test_it_has_a_name_for_messages_and_works_on_after_it_was_closed(store: Store) -> None:
    assert store.name
    store.make_root(TENANT, "nonce", ORIGIN)
    store.close()
    store.close()
    assert miss(store).state is RootState.PENDING
    pushes = store.pushes()
    if pushes is not None:
        pushes.close()
        assert not pushes.alive()
