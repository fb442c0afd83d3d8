"""One shard that is down: the others see no error, and calls that ask all of them name it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
from real_servers.sharded import NOW, OfThree, save_run, settings_of, shards_with, tenant_on
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

import tidegate
from tidegate.errors import PartialResult
from tidegate.repositories.models import WorkflowRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from real_servers.shards import Shards

APP: Final = str(uuid4())


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
        three = OfThree(gate, APP)
        end(down)
        for _ in range(20):
            three.use("s0")
            three.use("s1")
        with pytest.raises(OperationalError):
            three.use("s2")
        three.use("s0")


def test_what_asks_all_shards_names_the_one_that_is_down(down: Shards) -> None:
    with tidegate.connect(settings_of(down, catalogue="s0")) as writer:
        three = OfThree(writer, APP)
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


def test_a_call_may_do_without_a_shard_that_is_down(down: Shards) -> None:
    with tidegate.connect(settings_of(down, catalogue="s0")) as writer:
        three = OfThree(writer, APP)
        with tidegate.connect(settings_of(down, cache=False, catalogue="s0")) as gate:
            runs = gate.workflow_runs
            with gate.partial_results() as missing:
                assert len(runs.get_runs_batch_by_time_range(None, datetime.max, None, 10)) == 3  # noqa: DTZ901
            assert missing == {}
            end(down)
            with gate.partial_results() as missing:
                found = runs.get_runs_batch_by_time_range(None, datetime.max, None, 10)  # noqa: DTZ901
                assert {run.id for run in found} == {three.runs["s0"], three.runs["s1"]}
                assert missing.keys() == {"s2"}
                assert runs.get_workflow_run_by_id_without_tenant(str(uuid4())) is None
                with pytest.raises(OperationalError):
                    three.use("s2")
                mixed = [WorkflowRun(id=run_id, tenant_id=three.tenants[name]) for name, run_id in three.runs.items()]
                with pytest.raises(PartialResult, match="s2"):
                    runs.delete_runs_with_related(mixed)
            with pytest.raises(PartialResult, match="s2"):
                runs.get_runs_batch_by_time_range(None, datetime.max, None, 10)  # noqa: DTZ901


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


def in_session(gate: tidegate.Gate, tenant: str, run_id: str) -> Any:
    with gate.session(tenant) as session:
        session.execute(text("SELECT 1"))
        return gate.workflow_runs.get_app_logs_by_run_id(session, run_id)


def test_ids_of_which_nothing_is_known_are_found_without_the_shard_that_is_down(down: Shards) -> None:
    settings = settings_of(down, cache=False, catalogue="s0")
    with tidegate.connect(settings) as writer:
        three = OfThree(writer, APP)
    end(down)
    calls: tuple[Callable[[tidegate.Gate], Any], ...] = (
        lambda gate: gate.workflow_runs.get_workflow_pause(three.runs["s0"]),
        lambda gate: in_session(gate, three.tenants["s0"], three.runs["s0"]),
        lambda gate: gate.workflow_runs.delete_runs_by_ids([three.runs["s0"], three.runs["s1"]]),
    )
    for call in calls:
        with tidegate.connect(settings) as gate:  # which knows nothing yet
            call(gate)
            with pytest.raises(PartialResult, match="s2"):
                gate.workflow_runs.delete_runs_by_ids([str(uuid4())])
