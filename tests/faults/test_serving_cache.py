"""Several databases, one cache: they decide together whether it is theirs, and one that hangs holds up no other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import pytest
from real_servers.deadlines import patient
from sqlalchemy import create_engine, text

from tidegate.proxy.assembly.serving import CLAIM_S, ServingCache
from tidegate.proxy.database.schema import STATE, make_tables
from tidegate.proxy.database.serving import Serving, record_claim, record_serving, remove_claim, served
from tidegate.proxy.embedded.process import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from real_servers.databases import Databases
    from sqlalchemy import Engine

    from tidegate.cache.redis.store import RedisStore
    from tidegate.cache.store import CacheServer

URL: Final = "redis://cache/0"
ELSEWHERE: Final = Serving("redis://elsewhere/0", "0123456789abcdef", "f" * 40)


@pytest.fixture
def shards(databases: Databases) -> Iterator[list[Engine]]:
    with ExitStack() as stack:
        engines = [create_engine(stack.enter_context(databases.one())) for _ in range(2)]
        for engine in engines:
            stack.callback(engine.dispose)
            make_tables(engine)
        yield engines


@pytest.fixture
def store(store_at: Callable[..., RedisStore], valkey_url: str) -> RedisStore:
    return store_at(valkey_url)


def life(store: RedisStore) -> CacheServer:
    """The server that is used."""
    assert store.expected is not None
    return store.expected


def test_what_one_database_refuses_serves_none(store: RedisStore, shards: list[Engine]) -> None:
    serving = ServingCache(store, URL, lambda: shards)
    assert serving.begin()
    first = life(store)
    assert [served(shard).by for shard in shards] == [Serving(URL, first.id or "", first.life)] * 2
    by = served(shards[1]).by
    record_serving(shards[1], ELSEWHERE, by)
    serving.look(shards[1])
    for shard in (*shards, *shards):
        serving.look(shard)
        assert store.expected is None, "the other database does not bring it back"
    assert not ServingCache(store, URL, lambda: shards).begin()
    assert not ServingCache(store, URL, lambda: shards[::-1]).begin()
    assert by is not None
    record_serving(shards[1], by, ELSEWHERE)
    serving.look(shards[0])
    assert life(store) == first


def test_a_database_that_was_away_when_the_cache_began_anew_follows_by_a_claim(
    store: RedisStore, shards: list[Engine]
) -> None:
    now_s = 0.0
    serving = ServingCache(store, URL, lambda: shards, clock=lambda: now_s)
    former = Serving(URL, "fedcba9876543210", "e" * 40)
    record_serving(shards[1], former, None)
    assert ServingCache(store, URL, lambda: shards[:1]).begin()
    assert store.expected is not None
    assert serving.begin()
    assert store.expected is None, "it waits for an objection"
    claim = served(shards[1]).claim
    assert claim is not None
    now_s += CLAIM_S + 1
    serving.look(shards[0])
    used = life(store)
    assert [served(shard).by for shard in shards] == [Serving(URL, used.id or "", used.life)] * 2
    assert served(shards[1]).claim is None


def test_a_claim_that_somebody_objects_to_takes_nothing(store: RedisStore, shards: list[Engine]) -> None:
    now_s = 0.0
    serving = ServingCache(store, URL, lambda: shards, clock=lambda: now_s)
    former = Serving(URL, "fedcba9876543210", "e" * 40)
    for shard in shards:
        record_serving(shard, former, None)
    assert serving.begin()
    claim = served(shards[0]).claim
    assert claim is not None
    remove_claim(shards[0], claim)
    now_s += CLAIM_S + 1
    for shard in shards:
        serving.look(shard)
        assert store.expected is None
    assert [served(shard).by for shard in shards] == [former] * 2


def test_whoever_uses_the_right_one_objects_on_every_database(store: RedisStore, shards: list[Engine]) -> None:
    serving = ServingCache(store, URL, lambda: shards)
    assert serving.begin()
    for shard in shards:
        record_claim(shard, ELSEWHERE)
        serving.look(shard)
        assert served(shard).claim is None
    assert store.expected is not None


def test_who_finds_another_life_of_his_server_does_not_object(
    store: RedisStore, shards: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = ServingCache(store, URL, lambda: shards)
    assert serving.begin()
    used = life(store)
    monkeypatch.setattr(store, "server", lambda: used._replace(life="e" * 40))
    claim = Serving(URL, used.id or "", "e" * 40)
    record_claim(shards[0], claim)
    serving.look(shards[0])
    assert served(shards[0]).claim == claim, "it is what took over, or a clone: its own claim's time decides"


def test_a_database_that_hangs_holds_up_no_look_at_another_one(store: RedisStore, shards: list[Engine]) -> None:
    serving = ServingCache(store, URL, lambda: shards)
    assert serving.begin()
    with ThreadPoolExecutor(2) as threads, shards[1].connect() as holder:
        holder.execute(text(f"LOCK TABLE {STATE.name} IN ACCESS EXCLUSIVE MODE"))
        threads.submit(serving.look, shards[0]).result(patient(20))
        store.expect(None, "as a server is that was started anew")
        settling = threads.submit(serving.look, shards[0])
        wait_for(serving._settling.locked, "the databases are asked", patient(20))
        threads.submit(serving.look, shards[0]).result(patient(20))
        assert not settling.done()
        holder.rollback()
        settling.result(patient(20))
    assert store.expected is not None


def test_a_database_that_is_away_keeps_the_cache_from_nobody(store: RedisStore, shards: list[Engine]) -> None:
    away = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")
    serving = ServingCache(store, URL, lambda: shards)
    assert serving.begin()
    used, shards[1] = life(store), away
    store.expect(None, "as a server is that was started anew")
    serving.look(shards[0])
    assert life(store) == used
