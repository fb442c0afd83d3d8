"""The write side: how the workflow engine stores runs, and the protocols of both repositories of the write side."""

from __future__ import annotations

import json
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol

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

_DEEPEST: Final = 100
"""How deep a value is searched for what JSON cannot hold, so that the error can name it."""
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
        self._triggered_from = None if triggered_from is None else plain("triggered_from", triggered_from)

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
            ValueError: the row belongs to another tenant, the repository has no app or trigger, or JSON cannot hold a
                value of graph, inputs or outputs; then nothing is stored.
        """
        values = self._origin() | {
            "id": execution.id_,
            "workflow_id": execution.workflow_id,
            "type": plain("workflow_type", execution.workflow_type),
            "version": execution.workflow_version,
            "graph": to_json("graph", execution.graph),
            "inputs": to_json("inputs", execution.inputs),
            "outputs": to_json("outputs", execution.outputs) or "{}",
            "status": plain("status", execution.status),
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


def plain(name: str, value: Any) -> str:
    """Return the value of an enum member, or the text itself.

    Raises:
        ValueError: *value*, which is called *name*, is neither.
    """
    found = getattr(value, "value", value)
    if not isinstance(found, str):
        raise ValueError(f"{name} must be text, or a member of an enum of texts, not a {type(value).__name__}")  # noqa: TRY004  # as for other bad values
    return str(found)


def to_json(name: str, value: Mapping[Any, Any] | None) -> str | None:
    """Return *value* as JSON text; None if it is None.

    Members of enums are stored as their values, and decimal numbers as numbers.

    Raises:
        ValueError: JSON cannot hold something in *value*, which is called *name*; the message says where it is, and of
            what type.
    """
    if value is None:
        return None
    named = {key.value if isinstance(key, Enum) else key: item for key, item in value.items()}
    try:
        return json.dumps(named, ensure_ascii=False, default=_as_number_or_value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{_first_wrong(name, named) or name}: JSON cannot hold this ({error})") from error


def _as_number_or_value(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Decimal) and value.is_finite() and Decimal(repr(float(value))) == value:
        return float(value)
    raise TypeError(f"type {type(value).__name__}")


def _first_wrong(path: str, value: Any, depth: int = 0) -> str | None:
    """Return the path of the first thing in *value* that JSON cannot hold, with its type; None if it is deeper."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str | int | float | None):
                return f"a key of {path} is a {type(key).__name__}"
    elif not isinstance(value, list | tuple):
        return _wrong_leaf(path, value)
    if depth > _DEEPEST:
        return None
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = (_first_wrong(f"{path}[{key!r}]", item, depth + 1) for key, item in items)
    return next((wrong for wrong in found if wrong), None)


def _wrong_leaf(path: str, value: Any) -> str | None:
    try:
        json.dumps(value, default=_as_number_or_value, allow_nan=False)
    except (TypeError, ValueError):
        shown = f" ({value})" if isinstance(value, float | Decimal) else ""
        return f"{path} is a {type(value).__name__}{shown}"
    return None
