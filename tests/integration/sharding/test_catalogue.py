"""The catalogue on real servers: changed by one at a time, followed by all, and away."""

from __future__ import annotations

import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, cast

import pytest
from real_servers.tcp_proxy import Proxy
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from tidegate.errors import SettingsError, StaleShardMap, UnknownTenant
from tidegate.proxy.embedded.process import wait_for
from tidegate.proxy.shards.catalogue import Catalogue, Entry, FlipPlan, Follower, StaticMap
from tidegate.routing.sharding.shard_map import ShardMap, even_map

if TYPE_CHECKING:
    from real_servers.shards import Shards


def test_a_map_replaces_only_the_one_it_was_made_from(shards: Shards) -> None:
    assert shards.catalogue.load() is None
    first = shards.begin()
    assert shards.catalogue.load() == (first, None, 2)
    second = first.with_slots_moved([1], "s2")
    shards.catalogue.publish(second, 1)
    with pytest.raises(StaleShardMap, match="not at epoch 1 as expected, but at 2"):
        shards.catalogue.publish(first.with_slots_moved([2], "s2"), 1)
    with pytest.raises(StaleShardMap, match="has a shard map already"):
        shards.catalogue.publish(first, None)
    assert shards.catalogue.load() == (second, None, 3)


def test_of_many_that_publish_at_once_one_does(shards: Shards) -> None:
    first = shards.begin()

    def publish(slot: int) -> bool:
        try:
            shards.catalogue.publish(first.with_slots_moved([slot], "s2"), 1)
        except StaleShardMap:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(publish, range(8)))
    assert done.count(True) == 1
    assert shards.map().slots[done.index(True)] == ("s2", 2)


def test_no_map_is_published_while_slots_are_on_their_way(shards: Shards) -> None:
    first = shards.begin()
    plan = FlipPlan((1, 2), "s0", "s1", 2)
    shards.catalogue.plan(plan, 1)
    for epoch in (2, 3):
        with pytest.raises(StaleShardMap, match="at 1, with 2 slots on their way from s0 to s1"):
            shards.catalogue.publish(first.with_shard_known("s9", epoch), 1)
    with pytest.raises(StaleShardMap):
        shards.catalogue.plan(FlipPlan((3,), "s0", "s1", 3), 1)
    shards.catalogue.give_up(plan, 1)
    with pytest.raises(StaleShardMap, match="has given out 2"):  # no two ever have one epoch
        shards.catalogue.publish(first.with_shard_known("s9", 2), 1)
    shards.catalogue.publish(first.with_shard_known("s9", 3), 1)
    assert shards.map().shards == ("s0", "s1", "s2", "s9")


def test_followers_are_notified(shards: Shards) -> None:
    first = shards.begin()
    with closing(shards.follower(poll_s=600)) as follower:
        assert follower.current() == first
        sql = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'tidegate-catalogue' AND query LIKE 'LISTEN%'"
        wait_for(lambda: bool(shards.cluster.shards[0].primary.execute(sql)), "the follower listens")
        second = first.with_slots_moved([1], "s2")
        shards.catalogue.publish(second, 1)
        wait_for(lambda: follower.current() == second, "the follower has the new map")


def test_without_notifications_followers_ask(shards: Shards) -> None:
    first = shards.begin()
    engine = create_engine(shards.engines["s0"].url.set(drivername="postgresql+psycopg2"))
    with closing(Follower.of(engine, poll_s=0.02)) as follower:
        assert follower.current() == first
        second = first.with_slots_moved([1], "s2")
        shards.catalogue.publish(second, 1)
        wait_for(lambda: follower.current() == second, "the follower has the new map")
    engine.dispose()


def test_while_the_catalogue_is_away_the_map_stays_and_none_is_guessed(shards: Shards) -> None:
    first = shards.begin()
    primary = shards.cluster.shards[0].primary
    with closing(shards.follower(poll_s=0.05)) as follower, closing(shards.follower(poll_s=0.05)) as late:
        assert (follower.current(), follower.refresh()) == (first, True)
        primary.kill()
        assert (follower.refresh(), follower.current()) == (False, first)
        with pytest.raises(UnknownTenant, match="never read"):
            late.current()
        primary.start()
        wait_for(late.refresh, "the catalogue answers again")
        assert late.current() == first
        second = first.with_slots_moved([1], "s2")
        shards.catalogue.publish(second, 1)
        wait_for(lambda: follower.current() == second, "the follower has the new map")


def test_a_catalogue_that_says_nothing_is_away_too(shards: Shards) -> None:
    first = shards.begin()
    here = shards.engines["s0"].url
    with Proxy(here.port or 0) as proxy:
        engine = create_engine(here.set(host="127.0.0.1", port=proxy.port))
        with closing(Follower.of(engine, poll_s=0.1, answer_s=0.5)) as follower:
            assert (follower.refresh(), follower.current()) == (True, first)
            proxy.hold()
            second = first.with_slots_moved([1], "s2")
            shards.catalogue.publish(second, 1)
            with ThreadPoolExecutor(8) as pool:
                assert list(pool.map(lambda _: follower.refresh(), range(40))) == [False] * 40
            assert follower.current() == first
            assert engine.pool.checkedout() == 1  # type: ignore[attr-defined]  # however often it was asked
            proxy.resume()
            wait_for(follower.refresh, "the catalogue answers again")
            assert follower.current() == second
        engine.dispose()


def test_a_gate_before_the_first_map_guesses_none(shards: Shards) -> None:
    with closing(shards.follower(poll_s=0.05)) as follower:
        with pytest.raises(UnknownTenant):
            follower.current()
        first = shards.begin()
        wait_for(lambda: follower.refresh() and follower.current() == first, "the follower has the first map")


def test_a_process_forked_off_follows_too(shards: Shards) -> None:
    first = shards.begin()
    engine = create_engine(shards.engines["s0"].url, poolclass=NullPool)
    second = first.with_slots_moved([1], "s2")
    reading, writing = os.pipe()
    with closing(Follower.of(engine, poll_s=1)) as follower, os.fdopen(reading, "rb") as heard:
        assert follower.current() == first
        follower._question._lock.acquire()  # as by a thread that the child does not have
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads is what this is about
            child = os.fork()
        if child == 0:
            try:
                follower.current()
                os.write(writing, b"began")
                wait_for(lambda: follower.current() == second, "the child has the new map")
                os.write(writing, b"ended")
            finally:
                os._exit(0)
        follower._question._lock.release()
        os.close(writing)
        assert heard.read(5) == b"began"
        shards.catalogue.publish(second, 1)
        assert heard.read() == b"ended"
        os.waitpid(child, 0)


class SlowCatalogue:
    """Counts how often it is asked, and answers when it is let."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.asked = threading.Semaphore(0)
        self.answers = threading.Semaphore(0)
        self.count = 0

    def load(self) -> Entry:
        self.count += 1
        self.asked.release()
        assert self.answers.acquire(timeout=30)
        return self.entry


class CountingLock:
    """A lock that tells who has had it."""

    def __init__(self) -> None:
        self.left = threading.Semaphore(0)
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()
        self.left.release()


def follower_of(catalogue: SlowCatalogue) -> Follower:
    return Follower(cast("Catalogue", catalogue), None, poll_s=600)


def test_of_many_who_ask_at_once_one_asks_for_all() -> None:
    slow = SlowCatalogue(Entry(even_map(["a"]), None, 2))
    follower = follower_of(slow)
    follower._question._lock = queue = CountingLock()  # type: ignore[assignment]
    with ThreadPoolExecutor(12) as pool:
        early = pool.submit(follower.refresh)
        assert slow.asked.acquire(timeout=30)
        late = [pool.submit(follower.refresh) for _ in range(10)]
        for _ in range(12):  # of all who ask, and the thread that asks for them
            assert queue.left.acquire(timeout=30)
        slow.answers.release(2)
        assert early.result(30)
        assert all(other.result(30) for other in late)
    # Those who came while one was asking must not be given what it asked before they came.
    assert slow.count == 2


def test_a_catalogue_that_goes_back_is_not_followed() -> None:
    newer = even_map(["a", "b"]).with_slots_moved([1], "b")
    slow = SlowCatalogue(Entry(newer, None, 3))
    slow.answers.release(2)
    follower = follower_of(slow)
    assert follower.refresh()
    slow.entry = Entry(even_map(["a", "b"]), None, 2)
    assert follower.refresh()
    assert follower._map == newer


def test_a_static_map_is_always_the_newest() -> None:
    source = StaticMap(even_map(["a"]))
    assert (source.refresh(), source.current()) == (False, even_map(["a"]))


def test_a_map_of_another_release_is_not_taken(shards: Shards) -> None:
    first = shards.begin()
    with closing(shards.follower()) as follower:
        assert follower.current() == first
        sql = "UPDATE tidegate_catalogue SET map = replace(map, '\"format\":1', '\"format\":2')"
        shards.cluster.shards[0].primary.execute(sql)
        with pytest.raises(SettingsError, match="format 2"):
            shards.catalogue.load()
        assert (follower.refresh(), follower.current()) == (False, first)


def test_a_published_map_is_read_as_it_was_written(shards: Shards) -> None:
    first = even_map(["s0", "s1", "s2"], {"acme": "s1", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11": "s2"})
    shards.catalogue.publish(first, None)
    assert shards.map() == first
    assert isinstance(shards.map(), ShardMap)
