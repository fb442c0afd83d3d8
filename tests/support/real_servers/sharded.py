"""A gate on the shards of a cluster, and what tests do to its map."""

from __future__ import annotations

from datetime import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tidegate.proxy.settings import CacheSettings, ShardingSettings
from tidegate.repositories.entities.workflow_execution import WorkflowExecution
from tidegate.repositories.enums import WorkflowExecutionStatus, WorkflowType
from tidegate.repositories.models import WorkflowRun
from tidegate.routing.sharding.shard_map import even_map
from tidegate.routing.sharding.slots import slot_of

if TYPE_CHECKING:
    import tidegate
    from real_servers.shards import Shards
    from tidegate.proxy.shards.catalogue import MapSource
    from tidegate.routing.sharding.shard_map import ShardMap

NOW = datetime.fromisoformat("2024-03-05T12:00:00")
EVEN = even_map(["s0", "s1", "s2"])


def settings_of(shards: Shards, *, cache: bool = True, **sharding: Any) -> tidegate.Settings:
    """Of a gate on all of them; patient with a cache on a busy machine."""
    found = shards.cluster.settings()
    url = shards.cluster.cache.url if cache else None
    waits = CacheSettings(url=url, connect_timeout_ms=5_000, read_timeout_ms=5_000)
    return found.model_copy(update={"cache": waits, "sharding": ShardingSettings(**sharding)})


def tenant_on(shard: str, besides: frozenset[str] = frozenset()) -> str:
    """A new tenant that an even map of three shards has on *shard*, in none of the slots of *besides*."""
    taken = {slot_of(other) for other in besides}
    while True:
        tenant = str(uuid4())
        if EVEN.ownership(tenant).shard == shard and slot_of(tenant) not in taken:
            return tenant


def run_of(app: str, started_at: datetime, run_id: str | None = None, version: str = "1") -> WorkflowExecution:
    """A run that the write side takes."""
    return WorkflowExecution(
        id_=run_id or str(uuid4()),
        workflow_id=app,
        workflow_version=version,
        workflow_type=WorkflowType.WORKFLOW,
        graph={"nodes": []},
        inputs={},
        started_at=started_at,
        status=WorkflowExecutionStatus.SUCCEEDED,
    )


def save_run(
    gate: tidegate.Gate, tenant: str, app: str, started_at: datetime, run_id: str | None = None, version: str = "1"
) -> str:
    """One run by the write side; gives its id."""
    run = run_of(app, started_at, run_id, version)
    gate.workflow_executions(SimpleNamespace(id=app, tenant_id=tenant), app, "app-run").save(run)
    return run.id_


def run_row(tenant: str) -> WorkflowRun:
    """A run of *tenant* as a row that can be stored."""
    one = str(uuid4())
    kinds = {"type": "workflow", "triggered_from": "app-run", "status": "running", "created_by_role": "account"}
    return WorkflowRun(tenant_id=tenant, app_id=one, workflow_id=one, created_by=one, version="1", **kinds)


class OfThree:
    """A tenant on each shard, with a run."""

    def __init__(self, gate: tidegate.Gate, app: str) -> None:
        self.gate, self.app = gate, app
        self.tenants = {name: tenant_on(name) for name in ("s0", "s1", "s2")}
        self.runs = {name: save_run(gate, tenant, app, NOW) for name, tenant in self.tenants.items()}

    def use(self, shard: str) -> None:
        """A read that the cache cannot answer, and a write."""
        tenant = self.tenants[shard]
        assert [run.id for run in self.gate.workflow_runs.get_expired_runs_batch(tenant, datetime.max)]  # noqa: DTZ901
        save_run(self.gate, tenant, self.app, NOW)


def shards_with(shards: Shards, run_id: str) -> list[str]:
    """Where a run's row lies."""
    found = []
    for name, engine in shards.engines.items():
        with engine.connect() as connection:
            if connection.execute(WorkflowRun.__table__.select().where(WorkflowRun.id == run_id)).first():
                found.append(name)
    return found


class Behind:
    """The map of a gate that learns of no other one until it asks; counts how often it does.

    Args:
        source: the gate's own.
        away: whether the catalogue does not answer either.
    """

    def __init__(self, source: MapSource, *, away: bool = False) -> None:
        self._source = source
        self._map = source.current()
        self.away = away
        self.asked = 0

    def current(self) -> ShardMap:
        return self._map

    def refresh(self) -> bool:
        self.asked += 1
        if self.away:
            return False
        answered = self._source.refresh()
        self._map = self._source.current()
        return answered


def hold_back(gate: tidegate.Gate, *, away: bool = False) -> Behind:
    """Have *gate* stay with the map that it has."""
    routed = gate._shards
    assert routed is not None
    routed._maps = behind = Behind(routed._maps, away=away)
    return behind
