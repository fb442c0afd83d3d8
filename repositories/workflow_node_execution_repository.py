"""The write side: how the workflow engine stores node executions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import delete, update
from sqlalchemy.orm import selectinload

from tidegate.repositories.columns import naive_utc, naive_utc_now
from tidegate.repositories.entities.workflow_node_execution import WorkflowNodeExecution
from tidegate.repositories.enums import ExecutionOffLoadType, WorkflowNodeExecutionStatus
from tidegate.repositories.models import WorkflowNodeExecutionModel as Node
from tidegate.repositories.models import WorkflowNodeExecutionOffload as Offload
from tidegate.repositories.models import new_id
from tidegate.repositories.query_builder import Query
from tidegate.repositories.workflow_execution_repository import WriteSideRepository, insert_for, plain, to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Engine
    from sqlalchemy.orm import Session, sessionmaker

    from tidegate.repositories.entities.workflow_node_execution import OrderConfig

    StoreFile: TypeAlias = Callable[[str, ExecutionOffLoadType, bytes], str]


class SQLAlchemyWorkflowNodeExecutionRepository(WriteSideRepository):
    """Store node executions on one database.

    Args:
        session_factory: a ``sessionmaker``, or an engine to make one for.
        user: an account (``current_tenant_id``) or an end user (``tenant_id``), with an ``id``.
        app_id: the app that the rows belong to; None if there is none.
        triggered_from: what started the execution; None if nothing is to be saved.
        offload: stores the whole of a truncated value (execution id, which value, JSON in UTF-8) and returns the id of
            the file; without it rows keep whole values.

    Raises:
        ValueError: *session_factory* is neither, or *user* has no tenant.
    """

    def __init__(
        self,
        session_factory: sessionmaker[Session] | Engine,
        user: Any,
        app_id: str | None,
        triggered_from: Any,
        *,
        offload: StoreFile | None = None,
    ) -> None:
        super().__init__(session_factory, user, app_id, triggered_from)
        self._offload = offload

    def save(self, execution: WorkflowNodeExecution) -> None:
        """Insert the node execution, or update its row, in one statement that reads nothing.

        Values that are None, and values that have a truncated form, are left to :meth:`save_execution_data`.

        Raises:
            ValueError: the row belongs to another tenant, the repository has no app or trigger, or JSON cannot hold a
                value of it; then nothing is stored.
        """
        values = self._origin() | {
            "id": execution.id,
            "workflow_id": execution.workflow_id,
            "workflow_run_id": execution.workflow_execution_id,
            "index": execution.index,
            "predecessor_node_id": execution.predecessor_node_id,
            "node_execution_id": execution.node_execution_id,
            "node_id": execution.node_id,
            "node_type": plain("node_type", execution.node_type),
            "title": execution.title,
            "status": plain("status", execution.status),
            "error": execution.error,
            "elapsed_time": execution.elapsed_time,
            "execution_metadata": to_json("metadata", execution.metadata),
            "created_at": naive_utc(execution.created_at),
            "finished_at": naive_utc(execution.finished_at),
        }
        for kind in ExecutionOffLoadType:
            whole = getattr(execution, kind.value)
            if whole is not None and _truncated(execution, kind) is None:
                values[kind.value] = to_json(kind.value, whole)
        self._transact(lambda session: self._upsert(session, Node, values))

    def save_execution_data(self, execution: WorkflowNodeExecution) -> None:
        """Store the inputs, process data and outputs of a saved node execution. For None the row keeps its value.

        Files are stored before the transaction, so that no row ever points at a file that is missing.

        Raises:
            ValueError: this tenant has no such row, or JSON cannot hold a value; then no file is stored either.
        """
        in_row: dict[str, str | None] = {}
        whole_ones: dict[ExecutionOffLoadType, str | None] = {}
        for kind in ExecutionOffLoadType:
            whole, cut = getattr(execution, kind.value), _truncated(execution, kind)
            if whole is None or whole is cut:  # the same object: it was read from a row, whose file must stay
                continue
            if cut is not None and self._offload is not None:
                whole_ones[kind] = to_json(kind.value, whole)
                in_row[kind.value] = to_json(f"truncated {kind.value}", cut)
            else:
                in_row[kind.value] = to_json(kind.value, whole)
        if in_row:
            files = self._store_files(execution.id, whole_ones)
            self._transact(lambda session: self._store_data(session, execution.id, in_row, files))

    def _store_files(
        self, execution_id: str, values: Mapping[ExecutionOffLoadType, str | None]
    ) -> dict[ExecutionOffLoadType, str]:
        if self._offload is None:
            return {}
        return {kind: self._offload(execution_id, kind, (value or "").encode()) for kind, value in values.items()}

    def _store_data(
        self,
        session: Session,
        execution_id: str,
        in_row: dict[str, str | None],
        files: dict[ExecutionOffLoadType, str],
    ) -> None:
        changed: Any = session.execute(
            update(Node)
            .where(Node.id == execution_id, Node.tenant_id == self._tenant_id)
            .values(**in_row)
            .execution_options(synchronize_session=False)
        )
        if changed.rowcount == 0:
            raise ValueError(f"tenant {self._tenant_id} has no node execution {execution_id}: save() it first")
        whole = [kind for kind in ExecutionOffLoadType if kind.value in in_row and kind not in files]
        session.execute(
            delete(Offload)
            .where(Offload.node_execution_id == execution_id, Offload.type_.in_(whole))
            .execution_options(synchronize_session=False)
        )
        for kind, file_id in files.items():
            self._upsert_offload(session, execution_id, kind, file_id)

    def _upsert_offload(self, session: Session, execution_id: str, kind: ExecutionOffLoadType, file_id: str) -> None:
        statement = insert_for(session)(Offload).values(
            {
                Offload.id: new_id(),
                Offload.created_at: naive_utc_now(),
                Offload.tenant_id: self._tenant_id,
                Offload.app_id: self._origin()["app_id"],
                Offload.node_execution_id: execution_id,
                Offload.type_: kind,
                Offload.file_id: file_id,
            }
        )
        session.execute(
            statement.on_conflict_do_update(
                index_elements=["node_execution_id", "type"], set_={"file_id": statement.excluded.file_id}
            )
        )

    def get_by_workflow_run(
        self, workflow_run_id: str, order_config: OrderConfig | None = None
    ) -> Sequence[WorkflowNodeExecution]:
        """Return the node executions of one run, of this tenant, app and trigger.

        They are ordered as *order_config* says, or else by index. Offloaded values come truncated, and their truncated
        form says so.

        Raises:
            QueryError: *order_config* names an unknown column or direction.
        """
        fields = order_config.order_by if order_config and order_config.order_by else ["index"]
        direction = (order_config.order_direction if order_config else None) or "asc"
        query = (
            Query(Node)
            .where("tenant_id", "eq", self._tenant_id)
            .where("workflow_run_id", "eq", workflow_run_id)
            .where_if("app_id", "eq", self._app_id)
            .where_if("triggered_from", "eq", self._triggered_from)
            .order_by(*fields, "id", direction=direction)
            .with_options(selectinload(Node.offload_data))
        )
        return self._read(lambda session: [_to_domain(row) for row in session.scalars(query.statement())])


def _truncated(execution: Any, kind: ExecutionOffLoadType) -> Mapping[str, Any] | None:
    getter = getattr(execution, f"get_truncated_{kind.value}", None)
    return None if getter is None else getter()


def _to_domain(row: Node) -> WorkflowNodeExecution:
    execution = WorkflowNodeExecution(
        id=row.id,
        node_execution_id=row.node_execution_id,
        workflow_id=row.workflow_id,
        workflow_execution_id=row.workflow_run_id,
        index=row.index,
        predecessor_node_id=row.predecessor_node_id,
        node_id=row.node_id,
        node_type=row.node_type,
        title=row.title,
        inputs=row.inputs_dict,
        process_data=row.process_data_dict,
        outputs=row.outputs_dict,
        status=WorkflowNodeExecutionStatus(row.status),
        error=row.error,
        elapsed_time=row.elapsed_time,
        metadata=row.execution_metadata_dict,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )
    for offload in row.offload_data:
        cut = getattr(execution, offload.type_.value)
        getattr(execution, f"set_truncated_{offload.type_.value}")(cut)
    return execution
