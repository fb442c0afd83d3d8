"""The baseline: the statements that Dify 1.12 sends, through the ORM, under the names of the repositories' methods.

What is slow about them is Dify's: whole rows in lists, an order by time alone, ``IN`` for several sources, and a cursor
that is read by a statement of its own. They use the same models as the plain repositories, and psycopg2, as Dify does.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Select, distinct, func, select
from sqlalchemy.orm import selectinload

from tidegate.repositories.models import WorkflowNodeExecutionModel as Node
from tidegate.repositories.models import WorkflowRun as Run
from tidegate.repositories.pagination import InfiniteScrollPagination

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session, sessionmaker

_ENDS = ("running", "succeeded", "failed", "stopped", "partial-succeeded")


class BaselineRuns:
    """Read runs as Dify does; arguments and answers are those of the plain run repository."""

    def __init__(self, session_maker: sessionmaker[Session]) -> None:
        self._session_maker = session_maker

    def get_paginated_workflow_runs(
        self,
        tenant_id: str,
        app_id: str,
        triggered_from: str | Sequence[str],
        limit: int = 20,
        last_id: str | None = None,
        status: str | None = None,
    ) -> InfiniteScrollPagination[Run]:
        """Return a page ordered by ``created_at`` alone, with whole rows."""
        query = select(Run).where(Run.tenant_id == tenant_id, Run.app_id == app_id)
        if isinstance(triggered_from, str):
            query = query.where(Run.triggered_from == triggered_from)
        elif triggered_from:
            query = query.where(Run.triggered_from.in_(triggered_from))
        if status:
            query = query.where(Run.status == status)
        with self._session_maker() as session:
            if last_id:
                here = (Run.id == last_id, Run.tenant_id == tenant_id, Run.app_id == app_id)
                last = session.scalar(select(Run).where(*here))
                if last is None:
                    raise ValueError("Last workflow run not exists")
                query = query.where(Run.created_at < last.created_at)
            rows = session.scalars(query.order_by(Run.created_at.desc()).limit(limit + 1)).all()
        return InfiniteScrollPagination(data=rows[:limit], limit=limit, has_more=len(rows) > limit)

    def get_workflow_run_by_id(self, tenant_id: str, app_id: str, run_id: str) -> Run | None:
        """Return one run of an app."""
        here = (Run.tenant_id == tenant_id, Run.app_id == app_id, Run.id == run_id)
        with self._session_maker() as session:
            return session.scalar(select(Run).where(*here))

    def get_workflow_run_by_id_without_tenant(self, run_id: str) -> Run | None:
        """Return one run of whatever tenant."""
        with self._session_maker() as session:
            return session.scalar(select(Run).where(Run.id == run_id))

    def get_workflow_runs_count(
        self, tenant_id: str, app_id: str, triggered_from: str, status: str | None = None
    ) -> dict[str, int]:
        """Count runs by state, in one GROUP BY; with a *status*, count only runs of that one."""
        here = [Run.tenant_id == tenant_id, Run.app_id == app_id, Run.triggered_from == triggered_from]
        with self._session_maker() as session:
            if status:
                total = session.scalar(select(func.count(Run.id)).where(*here, Run.status == status)) or 0
                found = {status: total}
            else:
                grouped = select(Run.status, func.count(Run.id)).where(*here).group_by(Run.status)
                found = {row[0]: row[1] for row in session.execute(grouped)}
        return {"total": sum(found.values())} | {state: found.get(state, 0) for state in _ENDS}

    def get_daily_runs_statistics(
        self, tenant_id: str, app_id: str, source: str, start: datetime, end: datetime, timezone: str = "UTC"
    ) -> list[dict[str, Any]]:
        """Count the runs of each day."""
        rows = self._by_day(func.count(Run.id), tenant_id, app_id, source, start, end, timezone)
        return [{"date": str(day), "runs": number} for day, number in rows]

    def get_daily_terminals_statistics(
        self, tenant_id: str, app_id: str, source: str, start: datetime, end: datetime, timezone: str = "UTC"
    ) -> list[dict[str, Any]]:
        """Count the distinct creators of each day."""
        creators = func.count(distinct(Run.created_by))
        rows = self._by_day(creators, tenant_id, app_id, source, start, end, timezone)
        return [{"date": str(day), "terminal_count": number} for day, number in rows]

    def get_daily_token_cost_statistics(
        self, tenant_id: str, app_id: str, source: str, start: datetime, end: datetime, timezone: str = "UTC"
    ) -> list[dict[str, Any]]:
        """Sum up the tokens of each day."""
        rows = self._by_day(func.sum(Run.total_tokens), tenant_id, app_id, source, start, end, timezone)
        return [{"date": str(day), "token_count": int(number)} for day, number in rows]

    def get_average_app_interaction_statistics(
        self, tenant_id: str, app_id: str, source: str, start: datetime, end: datetime, timezone: str = "UTC"
    ) -> list[dict[str, Any]]:
        """Return the average number of runs per creator for each day, in no order."""
        day = _day(timezone)
        here = _of_app(tenant_id, app_id, source, start, end)
        each = select(day, func.count(Run.id).label("interactions")).where(*here).group_by("date", Run.created_by)
        sub = each.subquery()
        query = select(sub.c.date, func.avg(sub.c.interactions)).group_by(sub.c.date)
        with self._session_maker() as session:
            rows = session.execute(query).all()
        return [{"date": str(row[0]), "interactions": float(row[1].quantize(Decimal("0.01")))} for row in rows]

    def _by_day(
        self,
        counted: ColumnElement[Any],
        tenant_id: str,
        app_id: str,
        source: str,
        start: datetime,
        end: datetime,
        timezone: str,
    ) -> Sequence[Any]:
        query: Select[Any] = select(_day(timezone), counted).where(*_of_app(tenant_id, app_id, source, start, end))
        with self._session_maker() as session:
            return session.execute(query.group_by("date").order_by("date")).all()


class BaselineNodes:
    """Read node executions as Dify does."""

    def __init__(self, session_maker: sessionmaker[Session]) -> None:
        self._session_maker = session_maker

    def get_executions_by_workflow_run(self, tenant_id: str, app_id: str, workflow_run_id: str) -> Sequence[Node]:
        """Return the node executions of a run with their offloads."""
        here = (Node.tenant_id == tenant_id, Node.app_id == app_id, Node.workflow_run_id == workflow_run_id)
        query = select(Node).where(*here).options(selectinload(Node.offload_data)).order_by(Node.created_at)
        with self._session_maker() as session:
            return session.scalars(query).all()

    def get_node_last_execution(self, tenant_id: str, app_id: str, workflow_id: str, node_id: str) -> Node | None:
        """Return the newest execution of a node with its offloads."""
        here = (Node.tenant_id == tenant_id, Node.app_id == app_id, Node.workflow_id == workflow_id)
        query = select(Node).where(*here, Node.node_id == node_id).options(selectinload(Node.offload_data))
        with self._session_maker() as session:
            return session.scalar(query.order_by(Node.created_at.desc()).limit(1))

    def get_execution_by_id(self, execution_id: str) -> Node | None:
        """Return one node execution with its offloads."""
        query = select(Node).where(Node.id == execution_id).options(selectinload(Node.offload_data))
        with self._session_maker() as session:
            return session.scalar(query)


def _day(timezone: str) -> ColumnElement[Any]:
    local = func.timezone(timezone, func.timezone("UTC", Run.created_at))
    return func.date(func.date_trunc("day", local)).label("date")


def _of_app(tenant_id: str, app_id: str, source: str, start: datetime, end: datetime) -> list[ColumnElement[bool]]:
    here = [Run.tenant_id == tenant_id, Run.app_id == app_id, Run.triggered_from == source]
    return [*here, Run.created_at >= start, Run.created_at < end]
