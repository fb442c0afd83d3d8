"""What the service side asks of workflow runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tidegate.repositories.workflow_execution_repository import WorkflowExecutionRepository

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session

    from tidegate.repositories.entities.pause_reason import PauseReason
    from tidegate.repositories.entities.workflow_pause import WorkflowPauseEntity
    from tidegate.repositories.enums import WorkflowRunTriggeredFrom, WorkflowType
    from tidegate.repositories.models import (
        WorkflowAppLog,
        WorkflowArchiveLog,
        WorkflowPause,
        WorkflowPauseReason,
        WorkflowRun,
    )
    from tidegate.repositories.pagination import InfiniteScrollPagination
    from tidegate.repositories.types import (
        AverageInteractionStats,
        DailyRunsStats,
        DailyTerminalsStats,
        DailyTokenCostStats,
        RelatedCounts,
    )


class APIWorkflowRunRepository(WorkflowExecutionRepository, Protocol):
    """Read, count, pause, archive and delete runs. Times are UTC. Methods with a ``session`` never commit."""

    def get_paginated_workflow_runs(
        self,
        tenant_id: str,
        app_id: str,
        triggered_from: WorkflowRunTriggeredFrom | Sequence[WorkflowRunTriggeredFrom],
        limit: int = 20,
        last_id: str | None = None,
        status: str | None = None,
    ) -> InfiniteScrollPagination[WorkflowRun]:
        """Return one page of an app's runs, newest first.

        ``graph``, ``inputs`` and ``outputs`` are read when they are touched.
        """
        ...

    def get_workflow_run_by_id(self, tenant_id: str, app_id: str, run_id: str) -> WorkflowRun | None:
        """Return one run of an app; None if the app has no such run."""
        ...

    def get_workflow_run_by_id_without_tenant(self, run_id: str) -> WorkflowRun | None:
        """Return one run of any tenant; None if there is none."""
        ...

    def get_workflow_runs_count(
        self,
        tenant_id: str,
        app_id: str,
        triggered_from: str,
        status: str | None = None,
        time_range: str | None = None,
    ) -> dict[str, int]:
        """Count the runs of an app, in total and by state."""
        ...

    def get_expired_runs_batch(
        self, tenant_id: str, before_date: datetime, batch_size: int = 1000
    ) -> Sequence[WorkflowRun]:
        """Return at most *batch_size* of the tenant's runs created before *before_date*, oldest first."""
        ...

    def delete_runs_by_ids(self, run_ids: Sequence[str]) -> int:
        """Delete runs and everything that belongs to them, and return how many runs were deleted."""
        ...

    def delete_runs_by_app(self, tenant_id: str, app_id: str, batch_size: int = 1000) -> int:
        """Delete an app's runs and everything that belongs to them, and return how many runs were deleted."""
        ...

    def get_runs_batch_by_time_range(
        self,
        start_from: datetime | None,
        end_before: datetime,
        last_seen: tuple[datetime, str] | None,
        batch_size: int,
        run_types: Sequence[WorkflowType] | None = None,
        tenant_ids: Sequence[str] | None = None,
    ) -> Sequence[WorkflowRun]:
        """Return ended runs of a range of time after *last_seen*, ordered by (created_at, id)."""
        ...

    def get_archived_run_ids(self, session: Session, run_ids: Sequence[str]) -> set[str]:
        """Return those of *run_ids* that have been archived."""
        ...

    def get_archived_logs_by_time_range(
        self,
        session: Session,
        tenant_ids: Sequence[str] | None,
        start_date: datetime,
        end_date: datetime,
        limit: int,
    ) -> Sequence[WorkflowArchiveLog]:
        """Return archive logs of runs created in a range of time, oldest first."""
        ...

    def get_archived_runs_by_time_range(
        self,
        session: Session,
        tenant_ids: Sequence[str] | None,
        start_date: datetime,
        end_date: datetime,
        limit: int,
    ) -> Sequence[WorkflowRun]:
        """Return archived runs that still exist and were created in a range of time, oldest first."""
        ...

    def get_archived_log_by_run_id(self, run_id: str) -> WorkflowArchiveLog | None:
        """Return the archive log of a run; None if it has not been archived."""
        ...

    def delete_archive_log_by_run_id(self, session: Session, run_id: str) -> int:
        """Delete the archive logs of a run, and return how many were deleted."""
        ...

    def create_archive_logs(
        self,
        session: Session,
        run: WorkflowRun,
        app_logs: Sequence[WorkflowAppLog],
        trigger_metadata: str | None,
    ) -> int:
        """Add one archive log for each app log, or a single one if there is none, and return how many were added."""
        ...

    def get_pause_records_by_run_id(self, session: Session, run_id: str) -> Sequence[WorkflowPause]:
        """Return the pauses of a run."""
        ...

    def get_pause_reason_records_by_run_id(
        self, session: Session, pause_ids: Sequence[str]
    ) -> Sequence[WorkflowPauseReason]:
        """Return the reasons of some pauses."""
        ...

    def get_app_logs_by_run_id(self, session: Session, run_id: str) -> Sequence[WorkflowAppLog]:
        """Return the app logs of a run."""
        ...

    def delete_runs_with_related(
        self,
        runs: Sequence[WorkflowRun],
        delete_node_executions: Callable[[Session, Sequence[WorkflowRun]], tuple[int, int]] | None = None,
        delete_trigger_logs: Callable[[Session, Sequence[str]], int] | None = None,
    ) -> RelatedCounts:
        """Delete runs, their app logs and pauses, and what the callbacks delete, in one transaction."""
        ...

    def count_runs_with_related(
        self,
        runs: Sequence[WorkflowRun],
        count_node_executions: Callable[[Session, Sequence[WorkflowRun]], tuple[int, int]] | None = None,
        count_trigger_logs: Callable[[Session, Sequence[str]], int] | None = None,
    ) -> RelatedCounts:
        """Count what ``delete_runs_with_related`` would delete."""
        ...

    def create_workflow_pause(
        self,
        workflow_run_id: str,
        state_owner_user_id: str,
        state: str,
        pause_reasons: Sequence[PauseReason],
    ) -> WorkflowPauseEntity:
        """Pause a running run, and keep *state* to go on from."""
        ...

    def resume_workflow_pause(self, workflow_run_id: str, pause_entity: WorkflowPauseEntity) -> WorkflowPauseEntity:
        """Resume a paused run."""
        ...

    def delete_workflow_pause(self, pause_entity: WorkflowPauseEntity) -> None:
        """Delete a pause, its reasons and its state."""
        ...

    def prune_pauses(
        self, expiration: datetime, resumption_expiration: datetime, limit: int | None = None
    ) -> Sequence[str]:
        """Delete old pauses, and pauses that were resumed long ago, and return their ids."""
        ...

    def get_daily_runs_statistics(
        self,
        tenant_id: str,
        app_id: str,
        triggered_from: str,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        timezone: str = "UTC",
    ) -> list[DailyRunsStats]:
        """Count the runs of each day."""
        ...

    def get_daily_terminals_statistics(
        self,
        tenant_id: str,
        app_id: str,
        triggered_from: str,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        timezone: str = "UTC",
    ) -> list[DailyTerminalsStats]:
        """Count the distinct creators of each day's runs."""
        ...

    def get_daily_token_cost_statistics(
        self,
        tenant_id: str,
        app_id: str,
        triggered_from: str,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        timezone: str = "UTC",
    ) -> list[DailyTokenCostStats]:
        """Add up the tokens of each day's runs."""
        ...

    def get_average_app_interaction_statistics(
        self,
        tenant_id: str,
        app_id: str,
        triggered_from: str,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        timezone: str = "UTC",
    ) -> list[AverageInteractionStats]:
        """Compute the number of runs per distinct creator for each day."""
        ...
