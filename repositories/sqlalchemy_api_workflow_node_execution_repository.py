"""The plain node execution repository of the service side."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from sqlalchemy import select
from sqlalchemy.orm import selectinload

from tidegate.repositories.base import SQLAlchemyRepository, batches, checked_batch_size, not_one_text
from tidegate.repositories.models import WorkflowNodeExecutionModel as Node
from tidegate.repositories.models import WorkflowNodeExecutionOffload as Offload
from tidegate.repositories.query_builder import Query
from tidegate.repositories.runs.related_rows import count_nodes_of_runs, delete_nodes, delete_nodes_of_runs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session

    from tidegate.repositories.entities.workflow_node_execution import OrderConfig, WorkflowNodeExecution


class DifyAPISQLAlchemyWorkflowNodeExecutionRepository(SQLAlchemyRepository):
    """Read, count and delete node executions on one database, with no cache and no routing.

    A batch must have from 1 to 100,000 rows.

    Args:
        session_maker: a ``sessionmaker`` bound to the database's engine.
    """

    def get_node_last_execution(self, tenant_id: str, app_id: str, workflow_id: str, node_id: str) -> Node | None:
        """Return the newest execution of one node, with ``offload_data``; of equal times, that with the greatest id."""
        query = (
            _whole()
            .where("tenant_id", "eq", tenant_id)
            .where("app_id", "eq", app_id)
            .where("workflow_id", "eq", workflow_id)
            .where("node_id", "eq", node_id)
            .order_by("created_at", "id", direction="desc")
            .limit(1)
        )
        return self._read(lambda session: session.scalars(query.statement()).first())

    def get_executions_by_workflow_run(self, tenant_id: str, app_id: str, workflow_run_id: str) -> Sequence[Node]:
        """Return the executions of one run with ``offload_data``, ordered by time, then index, then id."""
        query = (
            _whole()
            .where("tenant_id", "eq", tenant_id)
            .where("app_id", "eq", app_id)
            .where("workflow_run_id", "eq", workflow_run_id)
            .order_by("created_at", "index", "id")
        )
        return self._read(lambda session: session.scalars(query.statement()).all())

    def get_execution_by_id(self, execution_id: str, tenant_id: str | None = None) -> Node | None:
        """Return one execution, of *tenant_id* if given, with ``offload_data``."""
        query = _whole().where("id", "eq", execution_id)
        if tenant_id is not None:
            query = query.where("tenant_id", "eq", tenant_id)
        return self._read(lambda session: session.scalars(query.statement()).first())

    def get_expired_executions_batch(
        self, tenant_id: str, before_date: datetime, batch_size: int = 1000
    ) -> Sequence[Node]:
        """Return at most *batch_size* of the tenant's executions created before *before_date*, by (created_at, id).

        Raises:
            ValueError: *batch_size* is out of range.
        """
        query = _expired(tenant_id, before_date).limit(checked_batch_size(batch_size))
        return self._read(lambda session: session.scalars(query.statement()).all())

    def delete_expired_executions(self, tenant_id: str, before_date: datetime, batch_size: int = 1000) -> int:
        """Delete executions created before *before_date*, with their offloads, with a commit after each batch.

        Returns:
            How many executions were deleted.

        Raises:
            ValueError: *batch_size* is out of range.
        """
        return self._delete_matching(_expired(tenant_id, before_date), batch_size)

    def delete_executions_by_app(self, tenant_id: str, app_id: str, batch_size: int = 1000) -> int:
        """Delete the executions of an app with their offloads, with a commit after each batch.

        Returns:
            How many executions were deleted.

        Raises:
            ValueError: *batch_size* is out of range.
        """
        query = Query(Node).where("tenant_id", "eq", tenant_id).where("app_id", "eq", app_id)
        return self._delete_matching(query, batch_size)

    def delete_executions_by_ids(self, execution_ids: Sequence[str]) -> int:
        """Delete some executions with their offloads, in one transaction, and return how many executions."""
        if not execution_ids:
            return 0
        return self._transact(lambda session: delete_nodes(session, execution_ids)[0])

    def count_by_runs(self, session: Session, run_ids: Sequence[str]) -> tuple[int, int]:
        """Count the (node executions, offloads) of some runs."""
        return count_nodes_of_runs(session, run_ids)

    def delete_by_runs(self, session: Session, run_ids: Sequence[str]) -> tuple[int, int]:
        """Delete the (node executions, offloads) of some runs without a commit, and return how many of each."""
        return delete_nodes_of_runs(session, run_ids)

    def get_offloads_by_execution_ids(self, session: Session, node_execution_ids: Sequence[str]) -> Sequence[Offload]:
        """Return the offloads of some executions."""
        return [
            row
            for ids in batches(dict.fromkeys(not_one_text(node_execution_ids)))
            for row in session.scalars(select(Offload).where(Offload.node_execution_id.in_(ids)))
        ]

    def save(self, execution: WorkflowNodeExecution) -> NoReturn:  # noqa: ARG002  # the protocol's
        """Raise ``NotImplementedError``: the repository of the write side saves node executions."""
        raise _no_user("save")

    def save_execution_data(self, execution: WorkflowNodeExecution) -> NoReturn:  # noqa: ARG002  # the protocol's
        """Raise ``NotImplementedError``: the repository of the write side stores their data."""
        raise _no_user("save_execution_data")

    def get_by_workflow_run(
        self,
        workflow_run_id: str,  # noqa: ARG002  # the protocol's
        order_config: OrderConfig | None = None,  # noqa: ARG002  # the protocol's
    ) -> NoReturn:
        """Raise ``NotImplementedError``: the repository of the write side has this method."""
        raise _no_user("get_by_workflow_run")

    def _delete_matching(self, query: Query[Node], batch_size: int) -> int:
        statement = query.limit(checked_batch_size(batch_size)).columns(Node.id)

        def one_batch(session: Session) -> tuple[int, int]:
            ids = session.scalars(statement).all()
            return len(ids), delete_nodes(session, ids)[0]

        return self._transact_until_empty(one_batch, batch_size)


def _whole() -> Query[Node]:
    return Query(Node).with_options(selectinload(Node.offload_data))


def _expired(tenant_id: str, before_date: datetime) -> Query[Node]:
    query = Query(Node).where("tenant_id", "eq", tenant_id).where("created_at", "lt", before_date)
    return query.order_by("created_at", "id")


def _no_user(method: str) -> NotImplementedError:
    return NotImplementedError(
        f"{method}() needs a user and an app: it is a method of SQLAlchemyWorkflowNodeExecutionRepository"
    )
