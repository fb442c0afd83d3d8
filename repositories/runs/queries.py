"""How runs are read, by page, by id and in batches, and how they are counted."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func

from tidegate.repositories.base import SQLAlchemyRepository, checked_batch_size, checked_text
from tidegate.repositories.columns import naive_utc_now
from tidegate.repositories.enums import WorkflowExecutionStatus, WorkflowRunTriggeredFrom
from tidegate.repositories.models import WorkflowRun
from tidegate.repositories.pagination import InfiniteScrollPagination
from tidegate.repositories.query_builder import Query
from tidegate.repositories.runs.page_statements import page_statements
from tidegate.repositories.runs.pages import describe_page, page_request, read_page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tidegate.repositories.enums import WorkflowType

_COUNTED: Final = ("running", "succeeded", "failed", "stopped", "partial-succeeded")
_TIME_RANGE: Final = re.compile(r"(\d{1,9})([dhms])", re.ASCII)
_UNITS: Final = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


class RunQueries(SQLAlchemyRepository):
    """Read and count runs: a part of the run repository."""

    def get_paginated_workflow_runs(
        self,
        tenant_id: str,
        app_id: str,
        triggered_from: WorkflowRunTriggeredFrom | Sequence[WorkflowRunTriggeredFrom],
        limit: int = 20,
        last_id: str | None = None,
        status: str | None = None,
    ) -> InfiniteScrollPagination[WorkflowRun]:
        """Return one page of an app's runs, newest first by (created_at, id).

        ``graph``, ``inputs`` and ``outputs`` are lazy: the first touch of one reads it for the whole page.

        Args:
            tenant_id: the tenant.
            app_id: the app.
            triggered_from: one source or several; an empty list means every source.
            limit: the rows of a page, 0 to 10,000.
            last_id: the last run of the page before; None for the first page.
            status: return only runs in this state.

        Raises:
            ValueError: *limit* is out of range, there are too many sources, or the app has no run *last_id*.
        """
        request = page_request(tenant_id, app_id, triggered_from, limit, last_id, status)
        return read_page(
            page_statements(WorkflowRun), self._session_maker, self._home, request, InfiniteScrollPagination
        )

    def _describe(self, method: str, arguments: Mapping[str, Any]) -> str:
        if method != self.get_paginated_workflow_runs.__name__:
            return super()._describe(method, arguments)
        return describe_page(WorkflowRun, self._session_maker, arguments["status"])

    def get_workflow_run_by_id(self, tenant_id: str, app_id: str, run_id: str) -> WorkflowRun | None:
        """Return one run of an app, whole; None if the app has no such run."""
        query = Query(WorkflowRun).where("tenant_id", "eq", tenant_id).where("app_id", "eq", app_id)
        return self._read(lambda session: session.scalar(query.where("id", "eq", run_id).statement()))

    def get_workflow_run_by_id_without_tenant(self, run_id: str) -> WorkflowRun | None:
        """Return one run of any tenant, whole; None if there is none."""
        query = Query(WorkflowRun).where("id", "eq", run_id)
        return self._read(lambda session: session.scalar(query.statement()))

    def get_workflow_runs_count(
        self,
        tenant_id: str,
        app_id: str,
        triggered_from: str,
        status: str | None = None,
        time_range: str | None = None,
    ) -> dict[str, int]:
        """Count the runs of an app, in total and by state.

        Args:
            tenant_id: the tenant.
            app_id: the app.
            triggered_from: one source.
            status: count only this state.
            time_range: digits and one of d, h, m, s, like "7d": count only runs as young as that; other text is
                ignored.

        Returns:
            total, running, succeeded, failed, stopped, partial-succeeded; other states count in the total only.
        """
        checked_text("status", status)
        checked_text("triggered_from", triggered_from)
        query = (
            Query(WorkflowRun)
            .where("tenant_id", "eq", tenant_id)
            .where("app_id", "eq", app_id)
            .where("triggered_from", "eq", triggered_from)
            .where_if("status", "eq", status)
            .where_if("created_at", "ge", _threshold(time_range))
        )
        grouped = query.columns(WorkflowRun.status, func.count()).group_by(WorkflowRun.status)
        found = {row[0]: row[1] for row in self._read(lambda session: session.execute(grouped).all())}
        return {"total": sum(found.values())} | {state: found.get(state, 0) for state in _COUNTED}

    def get_expired_runs_batch(
        self, tenant_id: str, before_date: datetime, batch_size: int = 1000
    ) -> Sequence[WorkflowRun]:
        """Return at most *batch_size* whole runs created before *before_date*, oldest first: for a loop that deletes.

        Raises:
            ValueError: *batch_size* is not from 1 to 100,000.
        """
        query = Query(WorkflowRun).where("tenant_id", "eq", tenant_id).where("created_at", "lt", before_date)
        ordered = query.order_by("created_at", "id").limit(checked_batch_size(batch_size))
        return self._read(lambda session: session.scalars(ordered.statement()).all())

    def get_runs_batch_by_time_range(
        self,
        start_from: datetime | None,
        end_before: datetime,
        last_seen: tuple[datetime, str] | None,
        batch_size: int,
        run_types: Sequence[WorkflowType] | None = None,
        tenant_ids: Sequence[str] | None = None,
    ) -> Sequence[WorkflowRun]:
        """Return whole, ended runs of a range of time, oldest first by (created_at, id).

        Args:
            start_from: only runs created at or after this; None: from the beginning.
            end_before: only runs created before this.
            last_seen: (created_at, id) of the last run of the batch before; None for the first batch.
            batch_size: at most this many, 1 to 100,000.
            run_types: only these types; None: all; an empty list finds nothing.
            tenant_ids: only these tenants; None or an empty list: all.

        Raises:
            ValueError: *batch_size* is out of range.
        """
        checked_batch_size(batch_size)
        if run_types is not None and not run_types:
            return []
        query = (
            Query(WorkflowRun)
            .where("created_at", "lt", end_before)
            .where("status", "in", WorkflowExecutionStatus.ended_values())
            .where_if("created_at", "ge", start_from)
            .where_if("type", "in", run_types)
            .where_if("tenant_id", "in", tenant_ids)
            .order_by("created_at", "id")
            .after(last_seen)
            .limit(batch_size)
        )
        return self._read(lambda session: session.scalars(query.statement()).all())


def _young(time_range: object) -> re.Match[str] | None:
    return _TIME_RANGE.fullmatch(time_range) if isinstance(time_range, str) else None


def is_time_range(time_range: str | None) -> bool:
    """Tell whether :meth:`RunQueries.get_workflow_runs_count` counts only young runs for *time_range*."""
    return _young(time_range) is not None


def _threshold(time_range: str | None) -> datetime | None:
    found = _young(time_range)
    if found is None:
        return None
    try:
        return naive_utc_now() - timedelta(**{_UNITS[found[2]]: int(found[1])})
    except OverflowError:
        return datetime.min  # noqa: DTZ901  # columns are naive; a range longer than all time means everything
