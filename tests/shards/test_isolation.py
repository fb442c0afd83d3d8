"""One shard that is down, or answers nothing: the others see no error, and no connection of theirs is taken."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
from real_servers.sharded import save_run, settings_of, shards_with, tenant_on
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

import tidegate
from tidegate.errors import PartialResult
from tidegate.proxy.settings import PoolSettings
from tidegate.repositories.models import WorkflowRun

if TYPE_CHECKING:
    from collections.abc import Iterator

    from real_servers.shards import Shards

NOW: Final = datetime.fromisoformat("2024-03-05T12:00:00")
APP: Final = str(uuid4())


class OfThree:
    """A tenant on each shard, with a run."""

    def __init__(self, gate: tidegate.Gate) -> None:
        self.gate = gate
        self.tenants = {name: tenant_on(name) for name in ("s0", "s1", "s2")}
        self.runs = {name: save_run(gate, tenant, APP, NOW) for name, tenant in self.tenants.items()}

    def use(self, shard: str) -> None:
        """A read that the cache cannot answer, and a write."""
        tenant = self.tenants[shard]
        assert [run.id for run in self.gate.workflow_runs.get_expired_runs_batch(tenant, datetime.max)]  # noqa: DTZ901
        save_run(self.gate, tenant, APP, NOW)


@pytest.fixture
def down(stocked: Shards) -> Iterator[Shards]:
    """Its last shard is ended by :func:`end`, and is there again for the next test."""
    yield stocked
    primary = stocked.cluster.shards[2].primary
    primary.kill()
    primary.start()


def end(shards: Shards) -> None:
    shards.cluster.shards[2].primary.kill()


def test_with_a_shard_down_the_others_go_on(down: Shards) -> None:
    with tidegate.connect(settings_of(down, catalogue="s0")) as gate:
        three = OfThree(gate)
        end(down)
        for _ in range(20):
            three.use("s0")
            three.use("s1")
        with pytest.raises(OperationalError):
            three.use("s2")
        three.use("s0")


def test_what_asks_all_shards_names_the_one_that_is_down(down: Shards) -> None:
    with tidegate.connect(settings_of(down, catalogue="s0")) as writer:
        three = OfThree(writer)
        with tidegate.connect(settings_of(down, cache=False, catalogue="s0")) as gate:
            end(down)
            runs = gate.workflow_runs
            assert runs.get_workflow_run_by_id_without_tenant(three.runs["s1"]) is not None
            with pytest.raises(PartialResult, match="s2"):
                runs.get_workflow_run_by_id_without_tenant(str(uuid4()))
            with pytest.raises(PartialResult, match="s2"):
                runs.get_runs_batch_by_time_range(None, datetime.max, None, 10)  # noqa: DTZ901
            one, other = three.tenants["s0"], three.tenants["s1"]
            assert len(runs.get_runs_batch_by_time_range(None, datetime.max, None, 10, None, [one, other])) == 2  # noqa: DTZ901
            mixed = [WorkflowRun(id=run_id, tenant_id=three.tenants[name]) for name, run_id in three.runs.items()]
            with pytest.raises(PartialResult) as failed:
                runs.delete_runs_with_related(mixed)
            assert {name: counts["runs"] for name, counts in failed.value.succeeded.items()} == {"s0": 1, "s1": 1}
            assert set(failed.value.failed) == {"s2"}
            assert shards_with_all(down, three) == {"s0": 0, "s1": 0}


def shards_with_all(shards: Shards, three: OfThree) -> dict[str, int]:
    found = {}
    for name in ("s0", "s1"):
        with shards.engines[name].connect() as connection:
            sql = text("SELECT count(*) FROM workflow_runs WHERE id = :id")
            found[name] = connection.execute(sql, {"id": three.runs[name]}).scalar_one()
    return found


def test_a_shard_that_is_down_at_first_is_joined_when_it_is_there(down: Shards) -> None:
    tidegate.connect(settings_of(down, catalogue="s0")).close()
    end(down)
    with tidegate.connect(settings_of(down, catalogue="s0")) as gate:
        tenants = {name: tenant_on(name) for name in ("s0", "s2")}
        assert shards_with_s0(down, save_run(gate, tenants["s0"], APP, NOW))
        with pytest.raises(OperationalError):
            save_run(gate, tenants["s2"], APP, NOW)
        down.cluster.shards[2].primary.start()
        assert shards_with(down, save_run(gate, tenants["s2"], APP, NOW)) == ["s2"]


def shards_with_s0(shards: Shards, run_id: str) -> Any:
    with shards.engines["s0"].connect() as connection:
        return connection.execute(text("SELECT 1 FROM workflow_runs WHERE id = :id"), {"id": run_id}).first()


def test_a_shard_that_hangs_takes_no_connection_of_the_others(stocked: Shards) -> None:
    pool = PoolSettings(size=2, overflow=1, timeout_s=60)
    settings = settings_of(stocked, catalogue="s0").model_copy(update={"pool": pool})
    with tidegate.connect(settings) as gate, stocked.engines["s2"].connect() as holder:
        three = OfThree(gate)
        holder.execute(text("LOCK TABLE workflow_runs IN ACCESS EXCLUSIVE MODE"))
        with ThreadPoolExecutor(12) as threads:
            hanging = [threads.submit(three.use, "s2") for _ in range(8)]
            pools: Any = {parts.name: parts.engine.pool for parts in gate._parts.shards}
            until_s = time.monotonic() + 30
            while pools["s2"].checkedout() < 3 and time.monotonic() < until_s:
                pass
            assert pools["s2"].checkedout() == 3
            for turn in [threads.submit(three.use, name) for _ in range(15) for name in ("s0", "s1")]:
                turn.result(timeout=30)
            assert not any(each.done() for each in hanging)
            holder.rollback()
            for each in hanging:
                each.result(timeout=30)
