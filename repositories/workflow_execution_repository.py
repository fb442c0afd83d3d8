"""The write side: how the workflow engine stores runs, and the protocols of both repositories of the write side."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import Engine
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import sessionmaker

from tidegate.repositories.base import SQLAlchemyRepository
from tidegate.repositories.columns import naive_utc
from tidegate.repositories.enums import CreatorUserRole
from tidegate.repositories.models import WorkflowRun

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.orm import Session

    from tidegate.repositories.entities.workflow_execution import WorkflowExecution
    from tidegate.repositories.entities.workflow_node_execution import OrderConfig, WorkflowNodeExecution

_CREATION = frozenset({"id", "tenant_id", "app_id", "created_at", "created_by", "created_by_role"})


class WorkflowExecutionRepository(Protocol):
    """Store runs."""

    def save(self, execution: WorkflowExecution) -> None:
        """Insert the run, or update its row."""
        ...


class WorkflowNodeExecutionRepository(Protocol):
    """Store node executions."""

    def save(self, execution: WorkflowNodeExecution) -> None:
        """Insert the node execution, or update its row."""
        ...

    def save_execution_data(self, execution: WorkflowNodeExecution) -> None:
        """Store the inputs, process data and outputs of a saved node execution."""
        ...

    def get_by_workflow_run(
        self, workflow_run_id: str, order_config: OrderConfig | None = None
    ) -> Sequence[WorkflowNodeExecution]:
        """Return the node executions of one run."""
        ...


def tenant_of(user: Any) -> str:
    """Return the tenant of an account (``current_tenant_id``) or an end user (``tenant_id``).

    Raises:
        ValueError: *user* has no tenant.
    """
    is_account = hasattr(user, "current_tenant_id")
    tenant = user.current_tenant_id if is_account else getattr(user, "tenant_id", None)
    if not tenant:
        raise ValueError("user must have a tenant: current_tenant_id (an account) or tenant_id (an end user)")
    return str(tenant)


class WriteSideRepository(SQLAlchemyRepository):
    """Write rows for one user and app; the base of both repositories of the write side.

    Args:
        session_factory: a ``sessionmaker``, or an engine to make one for.
        user: an account (``current_tenant_id``) or an end user (``tenant_id``), with an ``id``.
        app_id: the app that the rows belong to; None if there is none.
        triggered_from: what started the execution; None if nothing is to be saved.

    Raises:
        ValueError: *session_factory* is neither, or *user* has no tenant.
    """

    def __init__(
        self, session_factory: sessionmaker[Session] | Engine, user: Any, app_id: str | None, triggered_from: Any
    ) -> None:
        if isinstance(session_factory, Engine):
            session_factory = sessionmaker(session_factory, expire_on_commit=False)
        elif not isinstance(session_factory, sessionmaker):
            raise ValueError(  # noqa: TRY004  # what callers of this interface catch
                f"session_factory must be an Engine or a sessionmaker, not {type(session_factory)!r}"
            )
        super().__init__(session_factory)
        is_account = hasattr(user, "current_tenant_id")
        self._tenant_id = tenant_of(user)
        self._user_id = str(user.id)
        self._role = CreatorUserRole.ACCOUNT if is_account else CreatorUserRole.END_USER
        self._app_id = app_id
        self._triggered_from = None if triggered_from is None else plain(triggered_from)

    def _origin(self) -> dict[str, Any]:
        if not self._app_id or not self._triggered_from:
            raise ValueError("saving needs an app_id and a triggered_from; this repository was built without")
        return {
            "tenant_id": self._tenant_id,
            "app_id": self._app_id,
            "triggered_from": self._triggered_from,
            "created_by_role": self._role.value,
            "created_by": self._user_id,
        }

    def _upsert(self, session: Session, model: Any, values: dict[str, Any]) -> None:
        """Insert *values*, or update the row of that id. Its creator and its creation time stay."""
        statement: Any = insert_for(session)(model).values(**values)
        changes = {key: statement.excluded[key] for key in values if key not in _CREATION}
        statement = statement.on_conflict_do_update(
            index_elements=["id"], set_=changes, where=model.tenant_id == self._tenant_id
        ).returning(model.id)
        if session.execute(statement).scalar() is None:
            raise ValueError(f"{model.__name__} {values['id']} belongs to another tenant and was not changed")


class SQLAlchemyWorkflowExecutionRepository(WriteSideRepository):
    """Store runs on one database. :class:`WriteSideRepository` describes the arguments and their errors."""

    def save(self, execution: WorkflowExecution) -> None:
        """Insert the run, or update its row, in one statement that reads nothing.

        Raises:
            ValueError: the row belongs to another tenant, or the repository has no app or trigger.
        """
        values = self._origin() | {
            "id": execution.id_,
            "workflow_id": execution.workflow_id,
            "type": plain(execution.workflow_type),
            "version": execution.workflow_version,
            "graph": to_json(execution.graph),
            "inputs": to_json(execution.inputs),
            "outputs": to_json(execution.outputs) or "{}",
            "status": plain(execution.status),
            "error": execution.error_message or None,
            "elapsed_time": execution.elapsed_time,
            "total_tokens": execution.total_tokens,
            "total_steps": execution.total_steps,
            "exceptions_count": execution.exceptions_count,
            "created_at": naive_utc(execution.started_at),
            "finished_at": naive_utc(execution.finished_at),
        }
        self._transact(lambda session: self._upsert(session, WorkflowRun, values))


def insert_for(session: Session) -> Any:
    """Return the ``insert`` with ON CONFLICT for the session's database."""
    return postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert


def plain(value: Any) -> str:
    """Return the value of an enum member, or the text itself."""
    return str(getattr(value, "value", value))


def to_json(value: Mapping[Any, Any] | None) -> str | None:
    """Return *value* as JSON text; None if it is None. What JSON cannot express becomes its ``str``."""
    if value is None:
        return None
    return json.dumps({plain(key): item for key, item in value.items()}, ensure_ascii=False, default=str)
