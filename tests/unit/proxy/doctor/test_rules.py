"""What doctor makes of facts: each thing that is wrong, and nothing where nothing is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tidegate.cache.redis.server_facts import ServerFacts
from tidegate.cache.store import CacheServer
from tidegate.proxy.database.serving import Serving
from tidegate.proxy.doctor.facts import CacheFacts, DatabaseFacts, Facts, Running
from tidegate.proxy.doctor.rules import LONG_S, all_is_well, findings

NAME = "redis://cache:6379/0"
SERVER = ServerFacts("", "Redis", "6.2.0", "master", "volatile-ttl", 1 << 30, 0.3)
CACHE = CacheFacts(NAME, 50, (SERVER,), server=CacheServer("ab", "cd"))
DATABASE = DatabaseFacts({"some_idx": "valid"}, (), serving=Serving(NAME, "ab", "cd"))
RUNNING = Running("771", LONG_S, 42, "", "idle in transaction", "celery", "dify")


def said(database: DatabaseFacts = DATABASE, cache: CacheFacts | None = CACHE) -> list[str]:
    return [finding.text() for finding in findings(Facts(database, cache))]


def said_of(**changes: object) -> list[str]:
    """Of a cache whose server differs from a good one."""
    return said(cache=replace(CACHE, servers=(replace(SERVER, **changes),)))  # type: ignore[arg-type]


def test_nothing_is_said_where_all_is_well() -> None:
    assert said() == []
    assert all_is_well(Facts(DATABASE, CACHE)) == [
        "all indexes, tables and triggers are there",
        f"the cache {NAME} answers in 0.3 ms, and serves this database",
    ]
    assert said(replace(DATABASE, serving=None)) == []  # the first gate makes it the one that serves
    assert said(cache=None) == []
    assert "was not asked: give --cache-url" in all_is_well(Facts(DATABASE, None))[1]
    assert all_is_well(Facts(replace(DATABASE, serving=None), None)) == ["all indexes, tables and triggers are there"]


def test_indexes_and_tables_that_are_not_there() -> None:
    missing = replace(DATABASE, indexes={"a_idx": "missing", "b_idx": "invalid", "c_idx": "valid"})
    assert [line.partition(":")[0] for line in said(missing)] == ["index a_idx is missing", "index b_idx is invalid"]
    (line,) = said(replace(DATABASE, missing_tables=("tidegate_outbox",)))
    assert line.startswith("table tidegate_outbox is missing: ")
    (line,) = said(replace(DATABASE, closed_tables=("tidegate_state",)))
    assert line.startswith("table tidegate_state may not be read by this user: ")


def test_a_cache_that_is_away_slow_or_refuses() -> None:
    (away,) = said(cache=CacheFacts(NAME, 50, away="ConnectionError: refused"))
    assert away.startswith(f"the cache {NAME} cannot be reached (ConnectionError: refused): ")
    (slow,) = said_of(answer_ms=50.4)
    assert "takes 50 ms to answer, and a gate waits for 50 ms" in slow
    assert said_of(answer_ms=49.9) == []
    (refused,) = said(cache=replace(CACHE, refused="NoPermissionError: no right to EVALSHA"))
    assert "refuses what a gate asks (NoPermissionError: no right to EVALSHA)" in refused


def test_a_cache_that_serves_another_database_or_none() -> None:
    (line,) = said(replace(DATABASE, serving=Serving("redis://other:6379/0", "ef", "01")))
    assert line.startswith(f"the cache {NAME} does not serve this database: the one at redis://other:6379/0 does")


@pytest.mark.parametrize(
    ("version", "too_old"),
    [("6.0.16", True), ("5.0.14", True), ("6.2.0", False), ("7.2.4", False), ("8.0", False), ("10.0.1", False)],
)
def test_a_version_is_compared_by_its_numbers(version: str, *, too_old: bool) -> None:
    lines = said_of(version=version)
    assert lines == ([f"the cache {NAME} is Redis {version}: Redis 6.2 or later, or Valkey, is needed"] * too_old)


def test_a_replica_is_said_once_though_it_refuses_too() -> None:
    replica = replace(CACHE, servers=(replace(SERVER, role="slave"),), refused="ResponseError: NOTMASTER")
    (line,) = said(cache=replica)
    assert line.startswith(f"the cache {NAME} is a replica: ")


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-random"])
def test_an_eviction_policy_that_may_take_marks(policy: str) -> None:
    (line,) = said_of(eviction=policy)
    assert f"may evict marks when it is full (maxmemory-policy {policy})" in line
    assert "volatile-ttl is right" in line
    assert ("kill switches" in line) == policy.startswith("allkeys")
    (unbounded,) = said_of(eviction=policy, most_bytes=0)
    assert "once maxmemory is set" in unbounded


def test_servers_of_a_cluster_are_told_apart() -> None:
    cluster = replace(CACHE, servers=(replace(SERVER, name="a:1"), replace(SERVER, name="b:2", eviction="allkeys-lru")))
    (line,) = said(cache=cluster)
    assert line.startswith("the cache's server b:2 may evict marks")


def test_a_long_transaction_is_named() -> None:
    assert said(replace(DATABASE, oldest=replace(RUNNING, age_s=LONG_S - 1))) == []
    assert said(replace(DATABASE, oldest=replace(RUNNING, age_s=None))) == []
    (line,) = said(replace(DATABASE, oldest=RUNNING))
    assert line.startswith(
        f"transaction 771 has been running for {LONG_S:.0f} s (process 42, celery, idle in transaction, of dify): "
    )
    assert "SELECT pg_terminate_backend(42)" in line
    (prepared,) = said(replace(DATABASE, oldest=replace(RUNNING, pid=None, gid="it's", state="prepared")))
    assert """prepared as "it's\"""" in prepared
    assert "ROLLBACK PREPARED" in prepared


def test_changes_that_wait_in_the_outbox() -> None:
    assert said(replace(DATABASE, waiting=3, waiting_s=0.2)) == []
    (line,) = said(replace(DATABASE, waiting=1_200, waiting_s=61.4))
    assert line.startswith("the outbox has 1,200 changes that the cache was not told of, the oldest for 61 s: ")
    assert f"a gate applies them if its cache.url is {NAME}" in line
