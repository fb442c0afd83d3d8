"""Fills and stamps that are sent without waiting: what becomes of their answers, and of the calls that come after."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import redis
from real_servers.one_answer import ASKED, CHANGE, ORIGIN, filling, put

from tidegate.cache.marks import Noted, Refusal
from tidegate.cache.store import Change, Hit, Miss, OtherHistory, StoreUnavailable
from tidegate.position import NOWHERE, History, Origin

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.cache.redis.store import RedisStore
    from tidegate.proxy.embedded.valkey import ValkeyNode

pytestmark = pytest.mark.fast
OTHER = Origin(1, History(2), "s0")


@pytest.fixture
def store(store_at: Callable[..., RedisStore], shared_valkey: ValkeyNode) -> RedisStore:
    """A store with an answer in it, whose server knows all scripts."""
    return ready(store_at(shared_valkey.url))


def ready(made: RedisStore) -> RedisStore:
    put(made)
    made.stamp([Change("t", frozenset({"nobody's"}))], "4", ORIGIN, NOWHERE)
    return made


def outcome(store: RedisStore) -> Any:
    found = store.lookup("t", "d", "tag", ASKED)
    return found.reason if isinstance(found, Miss) else type(found)


def test_who_comes_next_finds_the_stamp_and_hears_of_it(store: RedisStore) -> None:
    failed: list[StoreUnavailable] = []
    for _ in range(200):
        store.open(CHANGE, "5", ORIGIN, ["n"])
        assert outcome(store) in {Refusal.BUMPED, Refusal.INTENT}
        store.stamp_soon(CHANGE, "5", ORIGIN, NOWHERE, failed.append)
        found = store.lookup("t", "d", "tag", ASKED)
        assert isinstance(found, Miss)
        assert not found.intents
    assert failed == []


def test_a_fill_is_heard_of_once_by_the_next_call(store: RedisStore) -> None:
    told: list[Any] = []
    missed = store.lookup("t", "d", "tag", ASKED, refresh=True)
    assert isinstance(missed, Miss)
    counter = missed.noted.counter
    store.fill_soon("t", filling(counter=counter, body=b"new"), told.append)
    found = store.lookup("t", "d", "tag", ASKED)
    assert isinstance(found, Hit)
    assert (found.body, told) == (b"new", [None])
    store.bump(CHANGE, None, NOWHERE)
    for wrong in (filling(counter=counter), filling(counter=counter, origin=OTHER)):
        store.fill_soon("t", wrong, told.append)
    assert outcome(store) is Refusal.BUMPED
    assert told[1:] == [Refusal.BUMPED, Refusal.BUMPED]


def test_a_fill_gives_the_lease_back_whatever_comes_of_it(store: RedisStore) -> None:
    missed = store.lookup("t", "d", "tag", ASKED, refresh=True)
    assert isinstance(missed, Miss)
    for lost in (False, True):
        assert store.lease("t", "d", missed, "k", 600_000)
        if lost:
            store.forget(["t"])
        store.fill_soon("t", filling(), lambda _outcome: None)
        assert store.holder("t", "d") is None


def test_a_refused_stamp_is_told(store: RedisStore) -> None:
    failed: list[StoreUnavailable] = []
    store.stamp_soon(CHANGE, "5", OTHER, NOWHERE, failed.append)
    assert outcome(store) is Hit
    assert [type(error) for error in failed] == [OtherHistory]


def test_an_observer_that_fails_is_not_the_next_call_s_error(
    store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_error: StoreUnavailable) -> None:
        raise LookupError("an observer's")

    store.stamp_soon(CHANGE, "5", OTHER, NOWHERE, fail)
    assert outcome(store) is Hit
    assert "an observer's" in caplog.text


def test_a_server_that_has_forgotten_its_scripts_is_given_them_again(
    store_at: Callable[..., RedisStore], start_valkey: Callable[[], ValkeyNode]
) -> None:
    node = start_valkey()
    store = ready(store_at(node.url))
    failed: list[StoreUnavailable] = []
    redis.Redis.from_url(node.url).script_flush()
    store.stamp_soon(CHANGE, "5", ORIGIN, NOWHERE, failed.append)
    assert outcome(store) is Hit  # the stamp was lost, which its writer's readers would find out
    assert len(failed) == 1
    store.stamp_soon(CHANGE, "5", ORIGIN, NOWHERE, failed.append)
    assert outcome(store) is Refusal.BUMPED
    assert len(failed) == 1


def test_what_a_server_took_with_it_is_told_and_the_next_call_asks_anew(
    store_at: Callable[..., RedisStore], start_valkey: Callable[[], ValkeyNode]
) -> None:
    node = start_valkey()
    store = ready(store_at(node.url))
    told: list[Any] = []
    node.pause()
    store.fill_soon("t", filling(), told.append)  # nobody reads it, and nobody waits
    store.stamp_soon(CHANGE, "5", ORIGIN, NOWHERE, told.append)
    assert told == []
    node.kill()
    node.start()
    store.make_root("t", "n", ORIGIN)
    assert [type(one) for one in told] == [StoreUnavailable, StoreUnavailable]


def test_no_call_takes_an_answer_for_its_own_that_another_has_left(store: RedisStore) -> None:
    wrong: list[Any] = []

    def work(number: int) -> None:
        tag = f"tag{number}"
        told: list[Any] = []
        for turn in range(150):
            store.stamp_soon([Change("t", frozenset({tag}))], f"{number}", ORIGIN, NOWHERE, wrong.append)
            store.fill_soon("t", filling(f"e{number}", counter=turn, tags=(tag,)), told.append)
            holder = store.holder("t", f"e{number}")
            checked = store.check("t", Noted("n", 10**9), [tag], ASKED)
            if holder is not None or checked is not True:
                wrong.append((holder, checked))
        if not all(isinstance(one, Refusal | None) for one in told):
            wrong.append(told)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
