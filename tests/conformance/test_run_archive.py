"""Archived runs, and what the archiver reads of a run."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from real_servers.sharded import tenant_on

from tidegate.repositories.entities.pause_reason import SchedulingPause
from tidegate.repositories.models import WorkflowAppLog, WorkflowArchiveLog, new_id
from tidegate.repositories.runs.pause_storage import MemoryStorage

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session, sessionmaker

    from tests.conformance.conftest import Behind
    from tidegate.repositories.models import WorkflowRun
    from tidegate.repositories.sqlalchemy_api_workflow_run_repository import DifyAPISQLAlchemyWorkflowRunRepository

    Make = Callable[..., WorkflowRun]

pytestmark = pytest.mark.fast

NOON = datetime(2026, 3, 1, 12, 0)  # noqa: DTZ001  # columns are naive UTC


@pytest.fixture
def runs(behind: Behind) -> DifyAPISQLAlchemyWorkflowRunRepository:
    return behind.runs(storage=MemoryStorage())


def app_log(run: WorkflowRun) -> WorkflowAppLog:
    of_run = {key: getattr(run, key) for key in ("tenant_id", "app_id", "workflow_id", "created_by_role", "created_by")}
    return WorkflowAppLog(id=new_id(), workflow_run_id=run.id, created_from="web-app", created_at=NOON, **of_run)


def archive(behind: Behind, runs: Any, run: WorkflowRun, logs: int) -> None:
    with behind.session(run.tenant_id) as session:
        app_logs = [app_log(run) for _ in range(logs)]
        assert runs.create_archive_logs(session, run, app_logs, '{"type": "webhook"}') == max(logs, 1)
        session.commit()


def test_an_archive_log_holds_what_its_run_and_app_log_held(
    runs: DifyAPISQLAlchemyWorkflowRunRepository, make_run: Make, behind: Behind
) -> None:
    run, bare = make_run(error="boom", finished_at=NOON, total_tokens=7), make_run()
    archive(behind, runs, run, 1)
    archive(behind, runs, bare, 0)
    found, without = (runs.get_archived_log_by_run_id(each.id) for each in (run, bare))
    assert found is not None
    assert without is not None
    assert (found.tenant_id, found.app_id, found.workflow_id, found.created_by) == (
        run.tenant_id,
        run.app_id,
        run.workflow_id,
        run.created_by,
    )
    assert (found.run_error, found.run_finished_at, found.run_total_tokens, found.run_created_at, found.run_status) == (
        *("boom", NOON, 7),
        run.created_at,
        run.status,
    )
    assert (found.log_created_from, found.log_created_at, found.trigger_metadata) == (
        "web-app",
        NOON,
        '{"type": "webhook"}',
    )
    assert (without.log_id, without.log_created_at, without.log_created_from) == (None, None, None)
    assert runs.get_archived_log_by_run_id(new_id()) is None


def test_archive_logs_are_the_caller_s_to_commit(
    runs: DifyAPISQLAlchemyWorkflowRunRepository, make_run: Make, behind: Behind
) -> None:
    run, other = make_run(), make_run()
    with behind.session() as session:
        assert runs.create_archive_logs(session, run, [], None) == 1
        session.rollback()
    assert runs.get_archived_log_by_run_id(run.id) is None
    archive(behind, runs, run, 2)
    with behind.session() as session:
        assert runs.get_archived_run_ids(session, [run.id, other.id]) == {run.id}
        assert runs.get_archived_run_ids(session, []) == set()
        assert runs.delete_archive_log_by_run_id(session, run.id) == 2
        session.rollback()
    assert runs.get_archived_log_by_run_id(run.id) is not None


def test_archived_runs_and_logs_of_a_stretch_of_time_come_in_order(
    runs: DifyAPISQLAlchemyWorkflowRunRepository, make_run: Make, behind: Behind
) -> None:
    stranger = tenant_on("s1")
    made = [make_run(created_at=NOON + timedelta(hours=i)) for i in range(3)]
    made.append(make_run(created_at=NOON + timedelta(hours=3), tenant_id=stranger))
    make_run(created_at=NOON)
    for run in made:
        archive(behind, runs, run, 2)
    end = NOON + timedelta(hours=3)
    with behind.session(None) as session:
        found = runs.get_archived_runs_by_time_range(session, None, NOON, end, 10)
        assert [run.id for run in found] == [run.id for run in made[:3]]
        assert "graph" in vars(found[0])
        assert len(runs.get_archived_runs_by_time_range(session, [], NOON, end, 2)) == 2
    with behind.session(stranger) as session:
        of_stranger = runs.get_archived_runs_by_time_range(session, [stranger], NOON, end + timedelta(1), 10)
        assert [run.id for run in of_stranger] == [made[3].id]
    with behind.session(None) as session:
        logs = runs.get_archived_logs_by_time_range(session, None, NOON, end, 10)
        assert [log.workflow_run_id for log in logs] == [run.id for run in made[:3] for _ in range(2)]
        assert all(isinstance(log, WorkflowArchiveLog) for log in logs)
        assert runs.get_archived_logs_by_time_range(session, [stranger], NOON, end, 10) == []


def test_the_archiver_reads_pauses_reasons_and_app_logs(
    runs: DifyAPISQLAlchemyWorkflowRunRepository,
    make_run: Make,
    session_maker: sessionmaker[Session],
    behind: Behind,
) -> None:
    run = make_run()
    pause = runs.create_workflow_pause(run.id, new_id(), "{}", [SchedulingPause(message=m) for m in ("one", "two")])
    log = app_log(run)
    with session_maker.begin() as session:
        session.add(log)
    with behind.session(None) as session:
        (record,) = runs.get_pause_records_by_run_id(session, run.id)
        assert record.id == pause.id
        reasons = runs.get_pause_reason_records_by_run_id(session, [pause.id])
        assert [reason.message for reason in reasons] == ["one", "two"]
        assert runs.get_pause_reason_records_by_run_id(session, []) == []
        assert [found.id for found in runs.get_app_logs_by_run_id(session, run.id)] == [
            session.merge(log, load=False).id
        ]
