"""Reads of several shards go to replicas of the tenant's own, and never show less than was written."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import pytest
from real_servers.sharded import save_run
from sqlalchemy import create_engine

import tidegate
from tidegate.proxy.embedded import Cluster
from tidegate.proxy.embedded.process import wait_for
from tidegate.proxy.settings import CacheSettings, RoutingSettings, ShardingSettings
from tidegate.repositories.models import Base

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW: Final = datetime.fromisoformat("2024-03-05T12:00:00")
APP: Final = str(uuid4())


@pytest.fixture(scope="module")
def two() -> Iterator[Cluster]:
    with Cluster(shards=2, replicas=1) as cluster:
        for shard in cluster.shards:
            engine = create_engine(shard.primary.url)
            Base.metadata.create_all(engine)
            engine.dispose()
        yield cluster


@pytest.mark.parametrize("cached", [True, False])
def test_replicas_of_both_shards_answer_and_are_never_behind(two: Cluster, cached: bool) -> None:
    found = two.settings()
    waits = CacheSettings(url=two.cache.url if cached else None, connect_timeout_ms=5_000, read_timeout_ms=5_000)
    if not cached:  # another gate with the cache that serves these databases has been here
        for shard in two.shards:
            shard.primary.execute("DELETE FROM tidegate_state WHERE name = 'cache'")
    settings = found.model_copy(
        update={"cache": waits, "routing": RoutingSettings(poll_ms=50), "sharding": ShardingSettings(catalogue="s0")}
    )
    with tidegate.connect(settings) as gate:
        tenants = [str(uuid4()) for _ in range(6)]
        for number in range(1, 30):
            for tenant in tenants:
                save_run(gate, tenant, APP, NOW)
                for status in (None, "succeeded", "failed"):
                    total = gate.workflow_runs.get_workflow_runs_count(tenant, APP, "app-run", status)["total"]
                    assert total == (0 if status == "failed" else number)
        replicas = {shard.replicas[0].url.rsplit("@", 1)[-1].split("/")[0] for shard in two.shards}

        def both_have_answered() -> bool:
            for tenant in tenants:
                assert gate.workflow_runs.get_workflow_runs_count(tenant, APP, "app-run", "failed")["total"] == 0
            return replicas <= gate.stats().nodes.keys()

        wait_for(both_have_answered, "a replica of each shard answers")
