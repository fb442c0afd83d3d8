"""Reads of several shards go to replicas of the tenant's own, and never show less than was written."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import datetime
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import pytest
from real_servers.sharded import hold_back, save_run
from sqlalchemy import create_engine, event, make_url, text

import tidegate
from tidegate.errors import NoNodeAvailable, StaleShardMap
from tidegate.proxy.embedded.process import wait_for
from tidegate.proxy.settings import CacheSettings, ReplicaSettings, RoutingSettings, ShardingSettings
from tidegate.proxy.shard_admin.flip import Flipper
from tidegate.proxy.shards.catalogue import Catalogue
from tidegate.routing.sharding.slots import slot_of

if TYPE_CHECKING:
    from tidegate.proxy.embedded import Cluster

NOW: Final = datetime.fromisoformat("2024-03-05T12:00:00")
APP: Final = str(uuid4())


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
        tenants = [_tenant_on(gate, name) for name in ("s0", "s1") for _ in range(3)]
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


def test_a_gate_is_made_while_a_shard_has_no_primary(two: Cluster) -> None:
    settings = two.settings()
    first, second = settings.shards
    url = two.shards[1].replicas[0].url
    other = ReplicaSettings(url=url.replace(f":{make_url(url).port}", ":1"))
    standby = second.model_copy(update={"primary": url, "replicas": (other,)})
    waits = CacheSettings(url=two.cache.url, connect_timeout_ms=5_000, read_timeout_ms=5_000)
    given = {"cache": waits, "sharding": ShardingSettings(catalogue="s0"), "shards": (first, second)}
    tidegate.connect(settings.model_copy(update=given)).close()
    with tidegate.connect(settings.model_copy(update=given | {"shards": (first, standby)})) as gate:
        save_run(gate, _tenant_on(gate, "s0"), APP, NOW)
        with pytest.raises(NoNodeAvailable, match="is a standby"):
            save_run(gate, _tenant_on(gate, "s1"), APP, NOW)


def _tenant_on(gate: tidegate.Gate, shard: str) -> str:
    """A new tenant of *shard*, by the map of now: other tests flip slots of these databases."""
    while gate._shards.ownership(tenant := str(uuid4())).shard != shard:
        pass
    return tenant


class Moved:
    """A tenant whose slot went from s0, where it left a run, to s1, where it has two; and a gate with the old map."""

    def __init__(self, cluster: Cluster, stack: ExitStack, off: tuple[str, ...]) -> None:
        found = cluster.settings()
        waits = CacheSettings(url=cluster.cache.url, connect_timeout_ms=5_000, read_timeout_ms=5_000)
        given = {"cache": waits, "routing": RoutingSettings(poll_ms=50), "sharding": ShardingSettings(catalogue="s0")}
        settings = found.model_copy(update=given)
        self.engines = {f"s{i}": create_engine(shard.primary.url) for i, shard in enumerate(cluster.shards)}
        for engine in self.engines.values():
            stack.callback(engine.dispose)
        writer = stack.enter_context(tidegate.connect(settings))
        catalogue = Catalogue(self.engines["s0"])
        self.tenant = str(uuid4())
        while _held(catalogue, self.tenant) != "s0":
            self.tenant = str(uuid4())
        save_run(writer, self.tenant, APP, NOW)
        switched = settings.model_copy(update={"cache": waits.model_copy(update={"off": off})})
        self.late = stack.enter_context(tidegate.connect(switched))
        assert self.count(self.late) == 1
        self.behind = hold_back(self.late)
        Flipper(catalogue, self.engines).flip([slot_of(self.tenant)], "s0", "s1")
        writer._shards._maps.refresh()
        for _ in range(2):
            save_run(writer, self.tenant, APP, NOW)
        wait_for(lambda: self._is_clean(writer), "the marks are the new shard's, and clean")

    def count(self, gate: tidegate.Gate, status: str | None = None) -> int:
        return gate.workflow_runs.get_workflow_runs_count(self.tenant, APP, "app-run", status)["total"]

    def asked(self) -> list[str]:
        """What the late gate asks the old shard's servers from now on."""
        found: list[str] = []
        parts = next(parts for parts in self.late._shards.every if parts.name == "s0")
        assert parts.nodes is not None
        for engine in (parts.engine, *parts.nodes._engines._engines.values()):
            event.listen(engine, "before_cursor_execute", lambda _c, _u, statement, *_: found.append(statement))
        return found

    def _is_clean(self, writer: tidegate.Gate) -> bool:
        stored = writer.stats().events.get("Filled", 0)
        assert self.count(writer) == 2
        return writer.stats().events.get("Filled", 0) > stored


def _held(catalogue: Catalogue, tenant: str) -> str:
    entry = catalogue.load()
    assert entry is not None
    return entry.shard_map.ownership(tenant).shard


OFF = pytest.mark.parametrize("off", [(), ("method:get_workflow_runs_count",)], ids=["cached", "switched off"])


@OFF
def test_marks_of_a_later_epoch_have_the_map_read_again_and_the_new_shards_replica_answers(
    two: Cluster, off: tuple[str, ...]
) -> None:
    with ExitStack() as stack:
        moved = Moved(two, stack, off)
        if not off:
            counting = moved.late.workflow_runs.get_workflow_runs_count
            shard, first, other = moved.late.explain(counting, moved.tenant, APP, "app-run", "succeeded").nodes
            # By the old map; and of that shard no replica: the position is one in another shard's log.
            assert [shard.name, first.answers, other.answers] == ["s0", True, False]
        asked = moved.asked()
        assert moved.count(moved.late, "succeeded") == 2
        assert moved.behind.asked == 1
        assert not [statement for statement in asked if "workflow_runs" in statement or "ownership" in statement]
        if off:  # else what is stored answers from now on
            replica = two.shards[1].replicas[0].url.rsplit("@", 1)[-1].split("/")[0]
            wait_for(
                lambda: moved.count(moved.late) == 2 and replica in moved.late.stats().nodes, "its replica answers"
            )


@OFF
def test_where_shard_and_catalogue_have_both_forgotten_a_flip_the_marks_have_not(
    two: Cluster, off: tuple[str, ...]
) -> None:
    with ExitStack() as stack:
        moved = Moved(two, stack, off)
        unit, _, since = moved.behind.current().ownership(moved.tenant)
        with moved.engines["s0"].begin() as connection:
            sql = text("UPDATE tidegate_ownership SET owned = true, since = :since WHERE unit = :unit")
            connection.execute(sql, {"since": since, "unit": unit})
        moved.behind.refresh = lambda: True  # type: ignore[method-assign]  # and has no newer map
        with pytest.raises(StaleShardMap, match="the marks of this tenant are of epoch"):
            moved.count(moved.late, "succeeded")
