"""Calls about several tenants through a shard map that is old: each shard sees first that it owns its part."""

from __future__ import annotations

from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

import pytest
from real_servers.sharded import hold_back, save_run, settings_of, tenant_on
from sqlalchemy import func, select, text

import tidegate
from tidegate.errors import StaleShardMap
from tidegate.repositories.models import WorkflowPause, WorkflowRun
from tidegate.repositories.policies import PolicyTable, Read
from tidegate.repositories.runs.pause_storage import MemoryStorage
from tidegate.routing.sharding.slots import slot_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from real_servers.shards import Shards
    from sqlalchemy.orm import Session, sessionmaker

NOW: Final = datetime.fromisoformat("2024-03-05T12:00:00")
LATE: Final = NOW + timedelta(days=1)
APP: Final = str(uuid4())


@pytest.fixture
def gate(stocked: Shards) -> Iterator[tidegate.Gate]:
    with tidegate.connect(settings_of(stocked, cache=False, catalogue="s0")) as made:
        yield made


def _present(session: Session, runs: Any) -> tuple[int, int]:
    found = select(func.count()).select_from(WorkflowRun).where(WorkflowRun.id.in_([run.id for run in runs]))
    return session.scalar(found) or 0, 0


def _archived(gate: tidegate.Gate, tenants: list[str]) -> int:
    with gate.session_maker() as session:
        return len(gate.workflow_runs.get_archived_logs_by_time_range(session, tenants, NOW, LATE, 9))


CALLS: Final[dict[str, Callable[[tidegate.Gate, list[WorkflowRun]], int]]] = {
    "a batch": lambda gate, runs: len(
        gate.workflow_runs.get_runs_batch_by_time_range(NOW, LATE, None, 9, None, [run.tenant_id for run in runs])
    ),
    "a count": lambda gate, runs: gate.workflow_runs.count_runs_with_related(runs, _present)["node_executions"],
    "in a session": lambda gate, runs: _archived(gate, [run.tenant_id for run in runs]),
    "a deletion": lambda gate, runs: gate.workflow_runs.delete_runs_with_related(runs)["runs"],
    "by ids": lambda gate, runs: gate.workflow_runs.delete_runs_by_ids([run.id for run in runs]),
}


def stored(gate: tidegate.Gate, tenants: list[str]) -> list[WorkflowRun]:
    """A run of each, archived."""
    runs = []
    for tenant in tenants:
        run_id = save_run(gate, tenant, APP, NOW)
        with gate.session(tenant) as session:
            run = session.get_one(WorkflowRun, run_id)
            gate.workflow_runs.create_archive_logs(session, run, [], None)
            session.commit()
        runs.append(WorkflowRun(id=run_id, tenant_id=tenant))
    return runs


def test_what_has_moved_is_found_and_deleted_where_it_is(gate: tidegate.Gate, stocked: Shards) -> None:
    with tidegate.connect(settings_of(stocked, cache=False, catalogue="s0")) as late:
        gone: set[str] = set()
        for name, call in CALLS.items():
            moved, stays = tenant_on("s0", frozenset(gone)), tenant_on("s1")
            gone.add(moved)
            behind = hold_back(late)
            stocked.flipper().flip([slot_of(moved)], "s0", "s2")
            gate._shards._maps.refresh()
            runs = stored(gate, [moved, stays])
            assert call(late, runs) == 2, name
            assert behind.asked, name


def test_with_the_catalogue_away_nobody_guesses(gate: tidegate.Gate, stocked: Shards) -> None:
    moved, stays = tenant_on("s0"), tenant_on("s1")
    with tidegate.connect(settings_of(stocked, cache=False, catalogue="s0")) as late:
        behind = hold_back(late, away=True)
        stocked.flipper().flip([slot_of(moved)], "s0", "s2")
        gate._shards._maps.refresh()
        runs = stored(gate, [moved, stays])
        for name in ("a batch", "a count", "in a session"):
            with pytest.raises(StaleShardMap):
                CALLS[name](late, runs)
        with pytest.raises(StaleShardMap):
            late.workflow_runs.delete_runs_by_ids([runs[0].id])
        before = behind.asked
        with pytest.raises(StaleShardMap):
            late.workflow_runs.delete_runs_with_related([runs[0]])
        assert behind.asked == before + 1  # a flip that nobody knows of is not waited for


def test_in_the_middle_of_a_flip_reads_go_on_where_the_rows_are(gate: tidegate.Gate, stocked: Shards) -> None:
    runs = stored(gate, [tenant_on("s0"), tenant_on("s1")])
    with stocked.engines["s0"].begin() as connection:  # fenced, and nothing published
        update = text("UPDATE tidegate_ownership SET owned = false WHERE unit = :unit")
        connection.execute(update, {"unit": f"slot:{slot_of(runs[0].tenant_id)}"})
    for name in ("a batch", "a count", "in a session"):
        assert CALLS[name](gate, runs) == 2, name


def test_a_gate_begins_in_the_middle_of_the_first_flip(gate: tidegate.Gate, stocked: Shards) -> None:
    (run,) = stored(gate, [tenant_on("s0")])
    with stocked.engines["s0"].begin() as connection:  # fenced for epoch 2, and nothing published
        update = text("UPDATE tidegate_ownership SET owned = false, since = 2 WHERE unit = :unit")
        connection.execute(update, {"unit": f"slot:{slot_of(run.tenant_id)}"})
    with tidegate.connect(settings_of(stocked, cache=False, catalogue="s0")) as late:
        assert late.workflow_runs.get_workflow_run_by_id(run.tenant_id, APP, run.id) is not None


def test_ids_that_are_known_are_not_searched_for(gate: tidegate.Gate) -> None:
    runs = stored(gate, [tenant_on(shard) for shard in ("s0", "s1", "s2")])
    find: Any = gate._parts.caller_sessions
    for run in runs:
        assert gate.workflow_runs.get_workflow_run_by_id_without_tenant(run.id) is not None
    assert gate.workflow_runs.delete_runs_by_ids([run.id for run in runs]) == 3
    assert find._search.searched == 0
    assert gate.workflow_runs.delete_runs_by_ids([str(uuid4())]) == 0
    assert find._search.searched


class Nested:
    """A repository whose read makes another, of rows that may be anybody's."""

    def __init__(self, session_maker: sessionmaker[Session], runs: Any = None) -> None:
        self._session_maker, self._runs = session_maker, runs
        self.looked: list[str] = []

    def look(self, tenant_id: str, run_id: str) -> Any:
        self.looked.append(tenant_id)
        return self._runs.get_workflow_run_by_id_without_tenant(run_id)


def test_a_call_within_a_call_checks_its_own_tenants(gate: tidegate.Gate, stocked: Shards) -> None:
    settings = settings_of(stocked, cache=False, catalogue="s0")
    with tidegate.connect(settings) as other:  # which does not know whose the run is
        nested = other.wrap(Nested, PolicyTable({"look": Read()}), [])(other.session_maker, other.workflow_runs)
        run_id = save_run(gate, tenant_on("s1"), APP, NOW)
        assert nested.look(tenant_on("s0"), run_id).id == run_id
        assert len(nested.looked) == 1  # it was refused by nobody


def test_what_can_be_gone_through_only_once_is_a_list_too(gate: tidegate.Gate) -> None:
    runs, tenants = gate.workflow_runs, [tenant_on("s0"), tenant_on("s1")]
    saved = stored(gate, tenants)
    save_run(gate, tenant_on("s2"), APP, NOW)
    for given in (tenants, []):
        assert len(runs.get_runs_batch_by_time_range(NOW, LATE, None, 9, None, iter(given))) == len(given)  # type: ignore[arg-type]
        with gate.session_maker() as session:
            found = runs.get_archived_logs_by_time_range(session, iter(given), NOW, LATE, 9)  # type: ignore[arg-type]
        assert len(found) == len(given)
    assert runs.delete_runs_by_ids(run.id for run in saved) == 2  # type: ignore[arg-type]
    assert runs.delete_runs_by_ids(iter(())) == 0  # type: ignore[arg-type]


def test_ids_that_are_no_text_are_those_of_the_same_rows(gate: tidegate.Gate) -> None:
    gate.workflow_runs._given_storage = MemoryStorage()
    (run,) = stored(gate, [tenant := tenant_on("s1")])
    with gate.session(tenant) as session:
        pause = WorkflowPause(workflow_id=APP, workflow_run_id=run.id, state_object_key="", created_at=NOW)
        session.add(pause)
        session.flush()
        paused: Any = SimpleNamespace(id=UUID(pause.id), workflow_execution_id=UUID(run.id))
        session.commit()
    gate.workflow_runs.delete_workflow_pause(paused)
    assert gate.workflow_runs.get_workflow_pause(run.id) is None
    assert gate.workflow_runs.delete_runs_by_ids([UUID(run.id)]) == 1  # type: ignore[list-item]
