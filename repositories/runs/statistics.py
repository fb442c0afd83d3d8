"""Statistics of an app's runs by day, in the time zone of the reader."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Select, distinct, func
from sqlalchemy.exc import DataError

from tidegate.repositories.base import SQLAlchemyRepository, checked_text
from tidegate.repositories.columns import is_unknown_timezone, local_date, unknown_timezone
from tidegate.repositories.models import WorkflowRun
from tidegate.repositories.query_builder import Query

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from tidegate.repositories.types import (
        AverageInteractionStats,
        DailyRunsStats,
        DailyTerminalsStats,
        DailyTokenCostStats,
    )


class RunStatistics(SQLAlchemyRepository):
    """Compute the statistics of an app's runs: a part of the run repository. Every answer is ordered by date.

    For each method: *start_date* is included and *end_date* is not; naive datetimes are UTC; days are those of
    *timezone*; an unknown *timezone* raises ``ValueError``.
    """

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
        query = _of_app(tenant_id, app_id, triggered_from, start_date, end_date)
        rows = self._by_day(query, timezone, lambda q, day: q.columns(day, func.count()).group_by(day))
        return [{"date": row[0], "runs": row[1]} for row in rows]

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
        query = _of_app(tenant_id, app_id, triggered_from, start_date, end_date)
        creators = func.count(distinct(WorkflowRun.created_by))
        rows = self._by_day(query, timezone, lambda q, day: q.columns(day, creators).group_by(day))
        return [{"date": row[0], "terminal_count": row[1]} for row in rows]

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
        query = _of_app(tenant_id, app_id, triggered_from, start_date, end_date)
        tokens = func.sum(WorkflowRun.total_tokens)
        rows = self._by_day(query, timezone, lambda q, day: q.columns(day, tokens).group_by(day))
        return [{"date": row[0], "token_count": int(row[1] or 0)} for row in rows]

    def get_average_app_interaction_statistics(
        self,
        tenant_id: str,
        app_id: str,
        triggered_from: str,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        timezone: str = "UTC",
    ) -> list[AverageInteractionStats]:
        """Compute the number of runs per distinct creator for each day, to two decimals."""
        query = _of_app(tenant_id, app_id, triggered_from, start_date, end_date)
        counted = (func.count(), func.count(distinct(WorkflowRun.created_by)))
        rows = self._by_day(query, timezone, lambda q, day: q.columns(day, *counted).group_by(day))
        return [{"date": row[0], "interactions": _average(row[1], row[2])} for row in rows]

    def _by_day(
        self,
        query: Query[WorkflowRun],
        timezone: str,
        shape: Callable[[Query[WorkflowRun], ColumnElement[str]], Select[Any]],
    ) -> Sequence[Any]:
        with self._session_maker() as session:
            # Group and order by the label. If the expression were written out again, its zone would be another
            # parameter, and PostgreSQL would not see that both are the same day.
            day = local_date(session, WorkflowRun.created_at, timezone).label("day")
            statement = shape(query, day)
            try:
                return session.execute(statement.order_by(day)).all()
            except DataError as error:
                if is_unknown_timezone(error):
                    raise unknown_timezone(timezone) from error
                raise


def _of_app(
    tenant_id: str, app_id: str, triggered_from: str, start_date: datetime | None, end_date: datetime | None
) -> Query[WorkflowRun]:
    checked_text("triggered_from", triggered_from)
    return (
        Query(WorkflowRun)
        .where("tenant_id", "eq", tenant_id)
        .where("app_id", "eq", app_id)
        .where("triggered_from", "eq", triggered_from)
        .where_if("created_at", "ge", start_date)
        .where_if("created_at", "lt", end_date)
    )


def _average(runs: int, creators: int) -> float:
    return float((Decimal(runs) / Decimal(creators)).quantize(Decimal("0.01")))
