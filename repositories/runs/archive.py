"""Archived runs, and what the archiver reads of a run. Most methods work in the caller's session and never commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate.repositories.base import SQLAlchemyRepository, batches, checked_batch_size, not_one_text
from tidegate.repositories.models import (
    WorkflowAppLog,
    WorkflowArchiveLog,
    WorkflowPause,
    WorkflowPauseReason,
    WorkflowRun,
)
from tidegate.repositories.query_builder import Query
from tidegate.repositories.runs.related_rows import delete_where

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session


class RunArchive(SQLAlchemyRepository):
    """Read and write the archive: a part of the run repository. Rows are whole, never lazy."""

    def get_archived_run_ids(self, session: Session, run_ids: Sequence[str]) -> set[str]:
        """Return those of *run_ids* that have been archived."""
        found: set[str] = set()
        for ids in batches(run_ids):
            archived = Query(WorkflowArchiveLog).where("workflow_run_id", "in", ids)
            found.update(session.scalars(archived.columns(WorkflowArchiveLog.workflow_run_id)))
        return found

    def get_archived_logs_by_time_range(
        self,
        session: Session,
        tenant_ids: Sequence[str] | None,
        start_date: datetime,
        end_date: datetime,
        limit: int,
    ) -> Sequence[WorkflowArchiveLog]:
        """Return archive logs of runs created from *start_date* until before *end_date*, oldest first, at most *limit*.

        None or an empty list of tenants means all.

        Raises:
            ValueError: *limit* is not from 1 to 100,000.
        """
        query = _archived(tenant_ids, start_date, end_date).order_by("run_created_at", "workflow_run_id", "id")
        return session.scalars(query.limit(checked_batch_size(limit)).statement()).all()

    def get_archived_runs_by_time_range(
        self,
        session: Session,
        tenant_ids: Sequence[str] | None,
        start_date: datetime,
        end_date: datetime,
        limit: int,
    ) -> Sequence[WorkflowRun]:
        """Return runs that were archived and still exist, created from *start_date* until before *end_date*.

        Each run comes once. They come oldest first, at most *limit*. None or an empty list of tenants means all.

        Raises:
            ValueError: *limit* is not from 1 to 100,000.
        """
        archived = _archived(tenant_ids, start_date, end_date).columns(WorkflowArchiveLog.workflow_run_id)
        query = Query(WorkflowRun).where_sql(WorkflowRun.id.in_(archived)).order_by("created_at", "id")
        return session.scalars(query.limit(checked_batch_size(limit)).statement()).all()

    def get_archived_log_by_run_id(self, run_id: str) -> WorkflowArchiveLog | None:
        """Return the archive log of a run, the first of several; None if the run has not been archived."""
        query = Query(WorkflowArchiveLog).where("workflow_run_id", "eq", run_id).order_by("archived_at", "id").limit(1)
        return self._read(lambda session: session.scalars(query.statement()).first())

    def delete_archive_log_by_run_id(self, session: Session, run_id: str) -> int:
        """Delete the archive logs of a run without a commit, and return how many were deleted."""
        return delete_where(session, WorkflowArchiveLog, "workflow_run_id", [run_id])

    def create_archive_logs(
        self, session: Session, run: WorkflowRun, app_logs: Sequence[WorkflowAppLog], trigger_metadata: str | None
    ) -> int:
        """Add one archive log for each app log of *run*, or a single one if it has none. Nothing is committed.

        Args:
            session: the session to which they are added.
            run: the run; its attributes count, not its class.
            app_logs: its app logs; their attributes count, not their class.
            trigger_metadata: JSON about the trigger that started it; None if there is none.

        Returns:
            How many were added.
        """
        of_run = {
            "tenant_id": run.tenant_id,
            "app_id": run.app_id,
            "workflow_id": run.workflow_id,
            "workflow_run_id": run.id,
            "created_by_role": run.created_by_role,
            "created_by": run.created_by,
            "trigger_metadata": trigger_metadata,
        } | {f"run_{key}": getattr(run, key) for key in _COPIED}
        of_logs = [
            {"log_id": log.id, "log_created_at": log.created_at, "log_created_from": log.created_from}
            for log in app_logs
        ]
        session.add_all([WorkflowArchiveLog(**(of_run | of_log)) for of_log in of_logs or [{}]])
        return len(of_logs) or 1

    def get_pause_records_by_run_id(self, session: Session, run_id: str) -> Sequence[WorkflowPause]:
        """Return the pauses of a run."""
        query = Query(WorkflowPause).where("workflow_run_id", "eq", run_id).order_by("created_at", "id")
        return session.scalars(query.statement()).all()

    def get_pause_reason_records_by_run_id(
        self, session: Session, pause_ids: Sequence[str]
    ) -> Sequence[WorkflowPauseReason]:
        """Return the reasons of some pauses.

        The argument holds ids of pauses, although the method's name says otherwise.
        """
        return [
            row
            for ids in batches(dict.fromkeys(not_one_text(pause_ids)))
            for row in session.scalars(
                Query(WorkflowPauseReason).where("pause_id", "in", ids).order_by("created_at", "id").statement()
            )
        ]

    def get_app_logs_by_run_id(self, session: Session, run_id: str) -> Sequence[WorkflowAppLog]:
        """Return the app logs of a run, oldest first."""
        query = Query(WorkflowAppLog).where("workflow_run_id", "eq", run_id).order_by("created_at", "id")
        return session.scalars(query.statement()).all()


_COPIED = (
    "version",
    "status",
    "triggered_from",
    "error",
    "elapsed_time",
    "total_tokens",
    "total_steps",
    "created_at",
    "finished_at",
    "exceptions_count",
)


def _archived(tenant_ids: Sequence[str] | None, start_date: datetime, end_date: datetime) -> Query[WorkflowArchiveLog]:
    created = Query(WorkflowArchiveLog).where("run_created_at", "between", (start_date, end_date))
    return created.where_if("tenant_id", "in", tenant_ids)
