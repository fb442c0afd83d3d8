"""Deleting runs: nothing that belongs to them stays, in any way of deleting, and it is all or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from real_servers.sharded import tenant_on
from sqlalchemy import func, select

from tidegate.repositories.entities.pause_reason import SchedulingPause
from tidegate.repositories.models import (
    WorkflowAppLog,
    WorkflowNodeExecutionModel,
    WorkflowNodeExecutionOffload,
    WorkflowPause,
    WorkflowPauseReason,
    WorkflowRun,
    WorkflowTriggerLog,
    new_id,
)
from tidegate.repositories.runs.pause_storage import MemoryStorage
from tidegate.repositories.runs.related_rows import count_where, delete_where

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.orm import Session, sessionmaker

    from tests.conformance.conftest import Behind
    from tidegate.repositories.sqlalchemy_api_workflow_run_repository import DifyAPISQLAlchemyWorkflowRunRepository

    Family = Callable[..., WorkflowRun]

pytestmark = pytest.mark.fast

TENANT, APP = "7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10", "1b0a1e8e-90c6-4f0e-8a52-5d1f0c7a2b20"
TABLES: tuple[type[Any], ...] = (
    WorkflowRun,
    WorkflowNodeExecutionModel,
    WorkflowNodeExecutionOffload,
    WorkflowAppLog,
    WorkflowTriggerLog,
    WorkflowPause,
    WorkflowPauseReason,
)


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def runs(behind: Behind, storage: MemoryStorage) -> DifyAPISQLAlchemyWorkflowRunRepository:
    return behind.runs(storage=storage)


@pytest.fixture
def family(
    session_maker: sessionmaker[Session],
    make_run: Callable[..., WorkflowRun],
    runs: DifyAPISQLAlchemyWorkflowRunRepository,
) -> Family:
    """Stores a run with one row of every kind that belongs to it."""

    def make(**overrides: Any) -> WorkflowRun:
        run = make_run(**overrides)
        owner = {"tenant_id": run.tenant_id, "app_id": run.app_id}
        made = {"workflow_id": run.workflow_id, "created_by_role": "account", "created_by": new_id()}
        of_run = owner | made | {"workflow_run_id": run.id}
        node = {"index": 1, "node_id": "n", "node_type": "llm", "title": "N", "status": "succeeded"}
        trigger = {"trigger_type": "webhook", "status": "succeeded", "queue_name": "q", "inputs": "{}"}
        with session_maker.begin() as session:
            stored = WorkflowNodeExecutionModel(id=new_id(), triggered_from="workflow-run", **(of_run | node))
            offload = {"node_execution_id": stored.id, "type_": "inputs", "file_id": new_id()}
            session.add_all([stored, WorkflowNodeExecutionOffload(**(owner | offload))])
            session.add(WorkflowAppLog(created_from="web-app", **of_run))
            session.add(WorkflowTriggerLog(trigger_metadata="{}", trigger_data="{}", **(of_run | trigger)))
        runs.create_workflow_pause(run.id, new_id(), "{}", [SchedulingPause(message="wait")])
        return run

    return make


def left(session_maker: sessionmaker[Session]) -> list[int]:
    with session_maker() as session:
        return [sum(session.scalars(select(func.count()).select_from(table))) for table in TABLES]


def test_deleting_by_ids_leaves_nothing_of_these_runs_and_all_of_the_others(
    runs: DifyAPISQLAlchemyWorkflowRunRepository,
    family: Family,
    session_maker: sessionmaker[Session],
    storage: MemoryStorage,
) -> None:
    gone, kept = [family() for _ in range(3)], family(tenant_id=tenant_on("s1"))
    assert runs.delete_runs_by_ids([run.id for run in gone] + [new_id()]) == 3
    assert left(session_maker) == [1] * 7
    assert len(storage) == 1
    assert runs.get_workflow_run_by_id_without_tenant(kept.id) is not None
    assert runs.delete_runs_by_ids([]) == 0


def test_deleting_an_app_leaves_nothing_of_it_and_works_in_batches(
    runs: DifyAPISQLAlchemyWorkflowRunRepository,
    family: Family,
    session_maker: sessionmaker[Session],
    storage: MemoryStorage,
) -> None:
    for _ in range(5):
        family()
    family(app_id=new_id())
    assert runs.delete_runs_by_app(TENANT, APP, batch_size=2) == 5
    assert left(session_maker) == [1] * 7
    assert len(storage) == 1
    with pytest.raises(ValueError, match="batch_size must be"):
        runs.delete_runs_by_app(TENANT, APP, batch_size=-1)


def test_counting_with_related_tells_what_deleting_with_related_deletes(
    runs: DifyAPISQLAlchemyWorkflowRunRepository,
    family: Family,
    session_maker: sessionmaker[Session],
    behind: Behind,
    storage: MemoryStorage,
) -> None:
    nodes = behind.nodes()
    made = [family(), family(tenant_id=tenant_on("s1"))]
    family()

    def ids(some: Sequence[WorkflowRun]) -> list[str]:
        return [run.id for run in some]

    expected = dict.fromkeys(
        ("runs", "node_executions", "offloads", "app_logs", "trigger_logs", "pauses", "pause_reasons"), 2
    )
    counted = runs.count_runs_with_related(
        made,
        lambda session, some: nodes.count_by_runs(session, ids(some)),
        lambda session, some: count_where(session, WorkflowTriggerLog, "workflow_run_id", some),
    )
    deleted = runs.delete_runs_with_related(
        made,
        lambda session, some: nodes.delete_by_runs(session, ids(some)),
        lambda session, some: delete_where(session, WorkflowTriggerLog, "workflow_run_id", some),
    )
    assert counted == deleted == expected
    assert left(session_maker) == [1] * 7
    assert len(storage) == 1


def test_without_callbacks_their_rows_are_left_and_counted_as_none(
    runs: DifyAPISQLAlchemyWorkflowRunRepository, family: Family, session_maker: sessionmaker[Session]
) -> None:
    run = family()
    counted, deleted = runs.count_runs_with_related([run]), runs.delete_runs_with_related([run])
    assert counted == deleted
    assert (deleted["node_executions"], deleted["offloads"], deleted["trigger_logs"]) == (0, 0, 0)
    assert left(session_maker) == [0, 1, 1, 0, 1, 0, 0]
    none = dict.fromkeys(deleted, 0)
    assert runs.count_runs_with_related([]) == runs.delete_runs_with_related([]) == none


def test_a_callback_that_fails_undoes_everything(
    runs: DifyAPISQLAlchemyWorkflowRunRepository,
    family: Family,
    session_maker: sessionmaker[Session],
    storage: MemoryStorage,
) -> None:
    run = family()

    def fail(_session: Session, _ids: Sequence[str]) -> int:
        raise OSError("on purpose")

    with pytest.raises(OSError, match="on purpose"):
        runs.delete_runs_with_related([run], delete_trigger_logs=fail)
    assert left(session_maker) == [1] * 7
    assert len(storage) == 1


def test_save_on_the_service_side_raises_and_says_where_it_is(runs: DifyAPISQLAlchemyWorkflowRunRepository) -> None:
    with pytest.raises(NotImplementedError, match="SQLAlchemyWorkflowExecutionRepository"):
        runs.save(None)  # type: ignore[arg-type]  # it looks at nothing
