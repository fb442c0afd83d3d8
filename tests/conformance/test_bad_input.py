"""What a caller may get wrong: each gets a clear error, or what the contract says, and nothing is half-written."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import DataError, StatementError

from tidegate.repositories.entities.pause_reason import SchedulingPause
from tidegate.repositories.entities.workflow_execution import WorkflowExecution
from tidegate.repositories.enums import WorkflowRunTriggeredFrom as Source
from tidegate.repositories.enums import WorkflowType
from tidegate.repositories.models import WorkflowPause, WorkflowPauseReason, WorkflowRun, new_id
from tidegate.repositories.runs.pause_storage import MemoryStorage

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session, sessionmaker

    from tests.conformance.conftest import Behind
    from tidegate.repositories import DifyAPISQLAlchemyWorkflowRunRepository

    Make = Callable[..., WorkflowRun]

pytestmark = [pytest.mark.fast, pytest.mark.matrix]

TENANT, APP = "7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10", "1b0a1e8e-90c6-4f0e-8a52-5d1f0c7a2b20"
NOON = datetime(2026, 3, 1, 12, 0)  # noqa: DTZ001  # columns are naive UTC


@pytest.fixture
def runs(behind: Behind) -> DifyAPISQLAlchemyWorkflowRunRepository:
    return behind.runs(storage=MemoryStorage())


@pytest.mark.parametrize("bad", ["not-a-uuid", "", "12345678", "7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10x"])
def test_a_malformed_id_is_the_database_s_to_refuse(
    runs: DifyAPISQLAlchemyWorkflowRunRepository, make_run: Make, behind: Behind, bad: str
) -> None:
    """PostgreSQL raises DataError; SQLite has no type for ids, and finds nothing."""
    make_run()
    nodes = behind.nodes()
    calls: list[tuple[Callable[[], object], object]] = [
        (lambda: runs.get_workflow_run_by_id(TENANT, APP, bad), None),
        (lambda: runs.get_workflow_run_by_id_without_tenant(bad), None),
        (lambda: runs.get_paginated_workflow_runs(bad, APP, Source.APP_RUN).data, []),
        (lambda: runs.delete_runs_by_ids([bad]), 0),
        (lambda: nodes.get_execution_by_id(bad), None),
        (lambda: nodes.delete_executions_by_ids([bad]), 0),
    ]
    for call, nothing in calls:
        if behind.engine.dialect.name == "postgresql":
            with pytest.raises(DataError, match="invalid input syntax for type uuid"):
                call()
        else:
            assert call() == nothing
    assert len(runs.get_paginated_workflow_runs(TENANT, APP, Source.APP_RUN).data) == 1


def test_a_text_where_a_list_is_meant_is_refused(runs: DifyAPISQLAlchemyWorkflowRunRepository, behind: Behind) -> None:
    nodes = behind.nodes()
    with pytest.raises(ValueError, match="expected a list, not the text 'abc'"):
        runs.delete_runs_by_ids("abc")
    with pytest.raises(ValueError, match="expected a list"):
        nodes.delete_executions_by_ids("abc")
    with behind.session() as session, pytest.raises(ValueError, match="expected a list"):
        nodes.count_by_runs(session, "abc")


@pytest.mark.parametrize("bad", ["yesterday", 1_700_000_000, NOON.date()])
def test_what_is_no_datetime_is_refused_with_its_value(runs: DifyAPISQLAlchemyWorkflowRunRepository, bad: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: runs.get_expired_runs_batch(TENANT, bad),
        lambda: runs.get_runs_batch_by_time_range(None, bad, None, 10),
        lambda: runs.get_daily_runs_statistics(TENANT, APP, "app-run", start_date=bad),
        lambda: runs.prune_pauses(bad, NOON),
    ]
    for call in calls:
        with pytest.raises(StatementError, match="expected a datetime, aware or naive UTC, not"):
            call()


def test_sources_may_be_a_plain_text_or_none_and_nothing_else(
    runs: DifyAPISQLAlchemyWorkflowRunRepository, make_run: Make
) -> None:
    make_run()
    anything: Any = None
    for source in ("app-run", ["app-run"], ("app-run",), [], anything):
        assert len(runs.get_paginated_workflow_runs(TENANT, APP, source).data) == 1  # type: ignore[arg-type]
    assert runs.get_paginated_workflow_runs(TENANT, APP, "no-such-source").data == []  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="triggered_from must be one source or a list of them, not 42"):
        runs.get_paginated_workflow_runs(TENANT, APP, 42)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [0, -5, 100_001, 2**70, 1.5, "10", True, None])
def test_a_batch_size_that_cannot_work_is_refused(
    runs: DifyAPISQLAlchemyWorkflowRunRepository, behind: Behind, bad: Any
) -> None:
    nodes = behind.nodes()
    calls: list[Callable[[], object]] = [
        lambda: runs.get_expired_runs_batch(TENANT, NOON, bad),
        lambda: runs.get_runs_batch_by_time_range(None, NOON, None, bad),
        lambda: runs.delete_runs_by_app(TENANT, APP, bad),
        lambda: nodes.get_expired_executions_batch(TENANT, NOON, bad),
        lambda: nodes.delete_expired_executions(TENANT, NOON, bad),
        lambda: nodes.delete_executions_by_app(TENANT, APP, bad),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="batch_size must be a whole number from 1 to 100,000, not"):
            call()


def test_a_write_that_fails_half_way_leaves_nothing(
    runs: DifyAPISQLAlchemyWorkflowRunRepository,
    make_run: Make,
    session_maker: sessionmaker[Session],
    behind: Behind,
) -> None:
    """The reason's text has a NUL (PostgreSQL) or is no text (SQLite): refused after the run's status was changed."""
    run = make_run()
    postgresql = behind.engine.dialect.name == "postgresql"
    bad = SchedulingPause.model_construct(message="\0" if postgresql else object())
    with pytest.raises(Exception, match=r"NUL|supported|binding"):
        runs.create_workflow_pause(run.id, new_id(), "{}", [SchedulingPause(message="fine"), bad])
    with session_maker() as session:
        assert session.get_one(WorkflowRun, run.id).status == "running"
        for model in (WorkflowPause, WorkflowPauseReason):
            assert session.scalars(select(model)).all() == []


class Account:
    id = new_id()
    current_tenant_id = new_id()


def test_a_run_that_cannot_be_stored_leaves_the_row_as_it_was(
    across: Behind, session_maker: sessionmaker[Session]
) -> None:
    saved = across.executions(Account(), new_id(), Source.APP_RUN)
    execution = WorkflowExecution(new_id(), new_id(), "1", WorkflowType.WORKFLOW, {}, {}, NOON)
    saved.save(execution)
    execution.error_message, execution.total_tokens = "new", "many"  # type: ignore[assignment]  # what a host may do
    if across.engine.dialect.name == "postgresql":
        with pytest.raises(DataError):
            saved.save(execution)
        with session_maker() as session:
            assert session.get_one(WorkflowRun, execution.id_).error is None


@pytest.mark.parametrize("bad", [None, 5, "", "UTC\0", "Mars/Olympus", ["UTC"]])
def test_a_timezone_that_is_none_is_named(
    runs: DifyAPISQLAlchemyWorkflowRunRepository, make_run: Make, bad: Any
) -> None:
    make_run()
    for statistics in (runs.get_daily_runs_statistics, runs.get_average_app_interaction_statistics):
        with pytest.raises(ValueError, match="unknown timezone"):
            statistics(TENANT, APP, "app-run", timezone=bad)


def test_one_text_where_types_or_tenants_are_meant_is_refused(
    runs: DifyAPISQLAlchemyWorkflowRunRepository, behind: Behind
) -> None:
    with pytest.raises(ValueError, match="expected a list, not the text"):
        runs.get_runs_batch_by_time_range(None, NOON, None, 10, run_types=WorkflowType.WORKFLOW)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a list, not the text"):
        runs.get_runs_batch_by_time_range(None, NOON, None, 10, tenant_ids=TENANT)
    with behind.session() as session, pytest.raises(ValueError, match="expected a list, not the text"):
        runs.get_archived_logs_by_time_range(session, TENANT, NOON, NOON, 10)


def test_a_list_where_one_text_is_meant_is_refused(runs: DifyAPISQLAlchemyWorkflowRunRepository) -> None:
    some: Any = ["succeeded"]
    calls: list[Callable[[], object]] = [
        lambda: runs.get_paginated_workflow_runs(TENANT, APP, Source.APP_RUN, status=some),
        lambda: runs.get_workflow_runs_count(TENANT, APP, "app-run", status=some),
        lambda: runs.get_workflow_runs_count(TENANT, APP, some),
        lambda: runs.get_daily_runs_statistics(TENANT, APP, some),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"must be one text, not \['succeeded'\]"):
            call()


def test_a_time_range_that_is_no_text_is_ignored_and_sources_are_bounded(
    runs: DifyAPISQLAlchemyWorkflowRunRepository, make_run: Make
) -> None:
    make_run()
    strange: Any = 7
    assert runs.get_workflow_runs_count(TENANT, APP, "app-run", time_range=strange)["total"] == 1
    with pytest.raises(ValueError, match="at most 100 sources, not 101"):
        runs.get_paginated_workflow_runs(TENANT, APP, [f"source{i}" for i in range(101)])  # type: ignore[misc]
