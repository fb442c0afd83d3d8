"""Shards whose databases were dumped and restored to new servers, after a failover, on the same cache."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from real_servers.deadlines import patient
from real_servers.replicated import caught_up
from real_servers.sharded import NOW, save_run
from sqlalchemy import create_engine

import tidegate
from tidegate.proxy.embedded import Cluster
from tidegate.proxy.embedded.process import give_to_server, run, wait_for
from tidegate.proxy.settings import CacheSettings, ShardSettings
from tidegate.repositories.models import Base

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tidegate.proxy.embedded import PostgresNode

APP = "00000000-0000-4000-8000-000000000001"


@pytest.fixture
def old() -> Iterator[Cluster]:
    """Two shards with a replica each."""
    with Cluster(shards=2, replicas=1) as cluster:
        for shard in cluster.shards:
            engine = create_engine(shard.primary.url)
            Base.metadata.create_all(engine)
            engine.dispose()
        yield cluster


@pytest.fixture
def new() -> Iterator[Cluster]:
    """The servers that the dumps are restored to."""
    with Cluster(shards=2, cache=False) as cluster:
        yield cluster


@contextmanager
def gate_on(primaries: Sequence[PostgresNode], cache: str) -> Iterator[tidegate.Gate]:
    shards = tuple(ShardSettings(name=f"s{i}", primary=node.url) for i, node in enumerate(primaries))
    given = tidegate.Settings(shards=shards, cache=CacheSettings(url=cache, read_timeout_ms=5_000))
    with tidegate.connect(given) as gate:
        yield gate


def count(gate: tidegate.Gate, tenant: str) -> int:
    return gate.workflow_runs.get_workflow_runs_count(tenant, APP, "app-run")["total"]


def hits(gate: tidegate.Gate) -> int:
    return sum(stats.served for stats in gate.stats().methods.values())


def warm(gate: tidegate.Gate, tenant: str) -> int:
    """Read until the cache answers."""
    found: list[int] = []

    def hit() -> bool:
        before = hits(gate)
        found[:] = [count(gate, tenant)]
        return hits(gate) > before

    wait_for(hit, "the cache answers", patient(10))
    return found[0]


def restore(source: PostgresNode, target: PostgresNode, folder: Path) -> None:
    """With PostgreSQL's own programs."""
    dumps = folder / uuid4().hex
    dumps.mkdir()
    give_to_server(dumps)
    dump = dumps / source.name
    at = ("-h", "127.0.0.1", "-U", "postgres", "-d", "tidegate", "-p")
    run([str(source._programs / "pg_dump"), *at, str(source.port), "-Fc", "-f", str(dump)], cwd=folder)
    run([str(source._programs / "pg_restore"), *at, str(target.port), "--exit-on-error", str(dump)], cwd=folder)


@pytest.mark.parametrize("running", [False, True])
def test_shards_that_were_dumped_after_a_failover_and_restored_to_new_servers(
    running: bool, old: Cluster, new: Cluster, servers_folder: Path
) -> None:
    cache = old.cache.url
    tenants = [f"00000000-0000-4000-8000-{n:012}" for n in range(6)]  # on both shards
    with ExitStack() as stack:
        with gate_on([shard.primary for shard in old.shards], cache) as first:
            for tenant in tenants:
                save_run(first, tenant, APP, NOW)
                assert warm(first, tenant) == 1
            assert {first._shards.ownership(tenant).shard for tenant in tenants} == {"s0", "s1"}
        for shard in old.shards:
            caught_up(shard.primary, *shard.replicas)
            shard.primary.kill()
            shard.replicas[0].promote()
        promoted = [shard.replicas[0] for shard in old.shards]
        kept = stack.enter_context(gate_on(promoted, cache))
        for tenant in tenants:
            save_run(kept, tenant, APP, NOW)
            assert warm(kept, tenant) == 2
        for source, target in zip(promoted, (shard.primary for shard in new.shards), strict=True):
            restore(source, target, servers_folder)
        lost = tenants[0]
        save_run(kept, lost, APP, NOW)  # after the dump
        assert warm(kept, lost) == 3
        if not running:
            for node in promoted:
                node.kill()
        moved = stack.enter_context(gate_on([shard.primary for shard in new.shards], cache))
        for tenant in tenants:
            assert count(moved, tenant) == warm(moved, tenant) == 2
            save_run(moved, tenant, APP, NOW)
            save_run(moved, tenant, APP, NOW)
            assert count(moved, tenant) == warm(moved, tenant) == 4
            if running:
                there = 3 if tenant == lost else 2
                assert count(kept, tenant) == warm(kept, tenant) == there
                save_run(kept, tenant, APP, NOW)
                assert count(kept, tenant) == warm(kept, tenant) == there + 1
                assert count(moved, tenant) == 4
