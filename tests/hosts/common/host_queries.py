"""What a host's repositories do, in each of its releases: their classes are made of these parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from libs.infinite_scroll_pagination import InfiniteScrollPagination
from sqlalchemy import delete, func, select
from sqlalchemy.orm import selectinload

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime


@runtime_checkable
class RunRepository(Protocol):
    """What a host's services are written for."""

    def get_workflow_run_by_id(self, tenant_id: str, app_id: str, run_id: str) -> Any: ...


class RunQueries:
    """The oldest release's. A subclass says which mapped class its rows are of."""

    run: Any

    def __init__(self, session_maker: Any) -> None:
        self._session_maker = session_maker

    def get_paginated_workflow_runs(
        self,
        tenant_id: str,
        app_id: str,
        triggered_from: Any,
        limit: int = 20,
        last_id: str | None = None,
        status: str | None = None,
    ) -> InfiniteScrollPagination:
        run = self.run
        sources = triggered_from if isinstance(triggered_from, (list, tuple)) else [triggered_from]
        wanted = select(run).where(run.tenant_id == tenant_id, run.app_id == app_id, run.triggered_from.in_(sources))
        if status:
            wanted = wanted.where(run.status == status)
        with self._session_maker() as session:
            if last_id:
                last = session.scalar(wanted.where(run.id == last_id))
                if last is None:
                    raise ValueError("there is no such run to go on from")
                wanted = wanted.where(run.created_at < last.created_at)
            rows = list(session.scalars(wanted.order_by(run.created_at.desc()).limit(limit + 1)))
        return InfiniteScrollPagination(data=rows[:limit], limit=limit, has_more=len(rows) > limit)

    def get_workflow_run_by_id(self, tenant_id: str, app_id: str, run_id: str) -> Any:
        run = self.run
        with self._session_maker() as session:
            return session.scalar(select(run).where(run.id == run_id, run.tenant_id == tenant_id, run.app_id == app_id))

    def get_workflow_run_by_id_without_tenant(self, run_id: str) -> Any:
        with self._session_maker() as session:
            return session.scalar(select(self.run).where(self.run.id == run_id))

    def get_workflow_runs_count(
        self,
        tenant_id: str,
        app_id: str,
        triggered_from: str,
        status: str | None = None,
        time_range: str | None = None,
    ) -> dict[str, int]:
        del time_range
        run = self.run
        counted = select(run.status, func.count()).group_by(run.status)
        counted = counted.where(run.tenant_id == tenant_id, run.app_id == app_id, run.triggered_from == triggered_from)
        if status:
            counted = counted.where(run.status == status)
        with self._session_maker() as session:
            found = {str(name): count for name, count in session.execute(counted)}
        return {"total": sum(found.values()), **found}

    def get_runs_batch_by_time_range(
        self,
        start_from: datetime | None,
        end_before: datetime,
        last_seen: Any,
        batch_size: int,
        run_types: Sequence[str] | None = None,
        tenant_ids: Sequence[str] | None = None,
    ) -> Sequence[Any]:
        del start_from, last_seen
        run = self.run
        with self._session_maker() as session:
            batch = select(run).where(run.created_at < end_before).order_by(run.created_at, run.id)
            if run_types is not None:
                batch = batch.where(run.type.in_(run_types))
            if tenant_ids is not None:
                batch = batch.where(run.tenant_id.in_(tenant_ids))
            return list(session.scalars(batch.limit(batch_size)))

    def get_archived_run_ids(self, session: Any, run_ids: Sequence[str]) -> set[str]:
        return set(session.scalars(select(self.run.id).where(self.run.id.in_(run_ids))))

    def delete_runs_by_ids(self, run_ids: Sequence[str]) -> int:
        with self._session_maker() as session, session.begin():
            return int(session.execute(delete(self.run).where(self.run.id.in_(run_ids))).rowcount)


class LaterRunQueries(RunQueries):
    """A later release: more parameters, more methods."""

    def get_workflow_run_by_id(self, tenant_id: str, app_id: str, run_id: str, *, with_deleted: bool = False) -> Any:
        found = super().get_workflow_run_by_id(tenant_id, app_id, run_id)
        return found or (self.get_workflow_run_by_id_without_tenant(run_id) if with_deleted else None)

    def get_runs_batch_by_time_range(
        self,
        start_from: datetime | None,
        end_before: datetime,
        last_seen: Any,
        batch_size: int,
        run_types: Sequence[str] | None = None,
        tenant_ids: Sequence[str] | None = None,
        tenant_prefixes: Sequence[str] | None = None,
        workflow_ids: Sequence[str] | None = None,
        run_shard_index: int | None = None,
        run_shard_total: int | None = None,
    ) -> Sequence[Any]:
        del tenant_prefixes, run_shard_index, run_shard_total
        found = super().get_runs_batch_by_time_range(
            start_from, end_before, last_seen, batch_size, run_types, tenant_ids
        )
        return [run for run in found if workflow_ids is None or run.workflow_id in workflow_ids]

    def get_workflow_run_by_id_and_tenant_id(self, tenant_id: str, run_id: str) -> Any:
        run = self.run
        with self._session_maker() as session:
            return session.scalar(select(run).where(run.id == run_id, run.tenant_id == tenant_id))

    def get_newest_of_everybody(self) -> Any:
        """What no policy knows."""
        with self._session_maker() as session:
            return session.scalar(select(self.run).order_by(self.run.created_at.desc()).limit(1))


class NodeQueries:
    """The oldest release's. A subclass says which mapped class its rows are of."""

    node: Any

    def __init__(self, session_maker: Any) -> None:
        self._session_maker = session_maker

    def get_executions_by_workflow_run(self, tenant_id: str, app_id: str, workflow_run_id: str) -> Sequence[Any]:
        node = self.node
        wanted = select(node).options(selectinload(node.offload_data)).order_by(node.created_at, node.id)
        wanted = wanted.where(
            node.tenant_id == tenant_id, node.app_id == app_id, node.workflow_run_id == workflow_run_id
        )
        with self._session_maker() as session:
            return list(session.scalars(wanted))

    def get_execution_by_id(self, execution_id: str, tenant_id: str | None = None) -> Any:
        wanted = select(self.node).where(self.node.id == execution_id)
        if tenant_id is not None:
            wanted = wanted.where(self.node.tenant_id == tenant_id)
        with self._session_maker() as session:
            return session.scalar(wanted)

    @staticmethod
    def get_by_run(session: Any, run_id: str) -> Sequence[Any]:
        del session
        return [run_id]


@dataclass(frozen=True)
class Snapshot:
    """A node execution, as far as a stream of events shows it."""

    execution_id: str
    node_id: str
    index: int
    status: str
    elapsed_time: float
    created_at: datetime
    finished_at: datetime | None = None


class LaterNodeQueries(NodeQueries):
    """A later release's."""

    snapshot: Any

    def get_execution_snapshots_by_workflow_run(
        self, tenant_id: str, app_id: str, workflow_id: str, triggered_from: str, workflow_run_id: str
    ) -> Sequence[Any]:
        node = self.node
        columns = (node.id, node.node_id, node.index, node.status, node.elapsed_time, node.created_at, node.finished_at)
        wanted = (
            select(*columns)
            .order_by(node.created_at, node.id)
            .where(
                node.tenant_id == tenant_id,
                node.app_id == app_id,
                node.workflow_id == workflow_id,
                node.triggered_from == triggered_from,
                node.workflow_run_id == workflow_run_id,
            )
        )
        with self._session_maker() as session:
            return [self.snapshot(*row) for row in session.execute(wanted)]

    def load_full_process_data(self, execution: Any) -> Any:
        return {"of": execution.id}
