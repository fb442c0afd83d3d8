"""What is asked of all shards by a map that lacks one: it is read again before anything is said not to be there."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
from real_servers.sharded import NOW, hold_back, save_run, settings_of, tenant_on
from sqlalchemy import text

import tidegate
from tidegate.errors import StaleShardMap
from tidegate.repositories.models import WorkflowPause, WorkflowRun
from tidegate.repositories.runs.pause_storage import MemoryStorage
from tidegate.routing.sharding.slots import slot_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from real_servers.sharded import Behind
    from real_servers.shards import Shards

APP: Final = str(uuid4())
EVER: Final = datetime.max  # noqa: DTZ901  # columns are naive


def _archived(gate: tidegate.Gate, _run_id: str) -> int:
    with gate.session_maker() as session:
        return len(gate.workflow_runs.get_archived_logs_by_time_range(session, None, datetime.min, EVER, 9))  # noqa: DTZ901


CALLS: Final[dict[str, Callable[[tidegate.Gate, str], Any]]] = {
    "searched": lambda gate, run_id: gate.workflow_runs.get_workflow_run_by_id_without_tenant(run_id) is not None,
    "the first of several": lambda gate, run_id: gate.workflow_runs.get_archived_log_by_run_id(run_id) is not None,
    "a batch": lambda gate, _: len(gate.workflow_runs.get_runs_batch_by_time_range(None, EVER, None, 9)),
    "in a session": _archived,
    "found by its id": lambda gate, run_id: gate.workflow_runs.get_workflow_pause(run_id) is not None,
    "in turn": lambda gate, _: len(gate.workflow_runs.prune_pauses(EVER, EVER, 9)),
    "deleted by its id": lambda gate, run_id: gate.workflow_runs.delete_runs_by_ids([run_id]),
}


@pytest.fixture
def gates(stocked: Shards) -> Iterator[tuple[tidegate.Gate, tidegate.Gate, Behind]]:
    """A gate with the newest map, of three shards, and one with that of two, before the third had any slot."""
    settings = settings_of(stocked, cache=False, catalogue="s0", poll_s=60)
    stocked.begin("s0", "s1")
    with tidegate.connect(settings) as gate, tidegate.connect(settings) as late:
        late.workflow_runs._given_storage = MemoryStorage()
        behind = hold_back(late)
        entry = stocked.catalogue.load()
        assert entry is not None
        stocked.catalogue.publish(entry.shard_map.with_shard_known("s2"), entry.shard_map.epoch)
        yield gate, late, behind


@pytest.fixture
def run(gates: tuple[tidegate.Gate, tidegate.Gate, Behind], stocked: Shards) -> str:
    """A paused and archived run on the third shard, whose slot it was given."""
    gate, tenant = gates[0], tenant_on("s0")
    stocked.flipper().flip([slot_of(tenant)], "s0", "s2")
    gate._shards.refresh()
    run_id = save_run(gate, tenant, APP, NOW)
    with gate.session(tenant) as session:
        found = session.get_one(WorkflowRun, run_id)
        gate.workflow_runs.create_archive_logs(session, found, [], None)
        session.add(WorkflowPause(workflow_id=APP, workflow_run_id=run_id, state_object_key="", created_at=NOW))
        session.commit()
    return run_id


def forget(gate: tidegate.Gate, run_id: str) -> None:
    find: Any = gate._parts.caller_sessions
    find._search._directory.evict("run", [run_id])


def test_rows_on_a_shard_that_was_added_are_found(gates: tuple[tidegate.Gate, tidegate.Gate, Behind], run: str) -> None:
    _, late, behind = gates
    old = behind.current()
    for name, call in CALLS.items():
        behind._map, behind.asked = old, 0
        forget(late, run)
        assert call(late, run) == 1, name
        assert behind.asked == 1, name


def test_with_the_catalogue_away_nothing_is_said_to_be_gone(
    gates: tuple[tidegate.Gate, tidegate.Gate, Behind], run: str
) -> None:
    _, late, behind = gates
    behind.away = True
    for name, call in CALLS.items():
        with pytest.raises(StaleShardMap):
            raise AssertionError(f"{name}: {call(late, run)}")
    known = save_run(late, tenant_on("s1"), APP, NOW)
    forget(late, known)
    assert late.workflow_runs.delete_runs_by_ids([known]) == 1  # what is found was never in doubt


def test_in_the_middle_of_a_flip_all_shards_answer(stocked: Shards) -> None:
    with tidegate.connect(settings_of(stocked, cache=False, catalogue="s0")) as gate:
        run_id = save_run(gate, tenant := tenant_on("s0"), APP, NOW)
        with stocked.engines["s0"].begin() as connection:  # fenced, and nothing published
            update = text("UPDATE tidegate_ownership SET owned = false, since = 2 WHERE unit = :unit")
            connection.execute(update, {"unit": f"slot:{slot_of(tenant)}"})
        assert CALLS["searched"](gate, run_id)
        assert CALLS["a batch"](gate, run_id) == 1
        assert gate.workflow_runs.delete_runs_by_ids([str(uuid4())]) == 0
