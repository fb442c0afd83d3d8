"""What Dify's settings name: repositories that find their gate by the engine they are given.

In Dify's environment::

    API_WORKFLOW_RUN_REPOSITORY=tidegate.proxy.dify.WorkflowRunRepository
    API_WORKFLOW_NODE_EXECUTION_REPOSITORY=tidegate.proxy.dify.WorkflowNodeExecutionRepository
    TIDEGATE_CACHE_URL=redis://cache:6379/0

The write side's classes below are no stand-in for Dify's own, which save files, segments and large values in another
form: do not name them in Dify's settings.

Dify makes a repository for each request; the gate, its connections and its settings are the process's, one for each
engine, made when the first repository asks for it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Engine
from sqlalchemy.orm import sessionmaker

from tidegate.errors import SettingsError
from tidegate.proxy.build import gate_on
from tidegate.proxy.layers.gated_repositories import NodeExecutions, WorkflowRuns
from tidegate.proxy.settings import Settings
from tidegate.repositories.workflow_execution_repository import SQLAlchemyWorkflowExecutionRepository
from tidegate.repositories.workflow_node_execution_repository import SQLAlchemyWorkflowNodeExecutionRepository

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from tidegate.proxy.gate import Gate

_gates: Final[WeakKeyDictionary[Engine, Gate]] = WeakKeyDictionary()
_lock: Final = threading.Lock()


def gate_for(session_factory: sessionmaker[Session] | Engine) -> Gate:
    """Return the process's gate on an engine; make it from the environment when it is first asked for.

    Raises:
        SettingsError: the environment cannot work or names several shards, or *session_factory* is bound to no engine.
    """
    engine = session_factory.kw.get("bind") if isinstance(session_factory, sessionmaker) else session_factory
    if not isinstance(engine, Engine):
        raise SettingsError(f"a repository needs a sessionmaker that is bound to an engine, not to {engine!r}")
    gate = _gates.get(engine)
    if gate is not None:
        return gate
    with _lock:
        gate = _gates.get(engine)
        if gate is None:
            maker = session_factory if isinstance(session_factory, sessionmaker) else sessionmaker(engine)
            gate = _gates[engine] = gate_on(engine, maker, _settings())
    return gate


def _settings() -> Settings:
    settings = Settings.from_environment(with_database=False)
    if len(settings.shards) > 1:
        names = ", ".join(shard.name for shard in settings.shards)
        raise SettingsError(
            f"shards: TIDEGATE_CONFIG names a file with {len(settings.shards)} [[shards]] ({names}), and Dify brings "
            "one engine, of one database: give Dify's processes a file with that one, or with none. Several shards are "
            "served by tidegate.connect() alone"
        )
    return settings


class WorkflowRunRepository(WorkflowRuns):
    """Workflow runs behind the process's gate."""

    def __init__(self, session_maker: sessionmaker[Session], **kwargs: Any) -> None:
        super().__init__(session_maker, **kwargs)
        gate_for(session_maker).adopt(self, session_maker)


class WorkflowNodeExecutionRepository(NodeExecutions):
    """Node executions behind the process's gate."""

    def __init__(self, session_maker: sessionmaker[Session]) -> None:
        super().__init__(session_maker)
        gate_for(session_maker).adopt(self, session_maker)


class CoreWorkflowExecutionRepository(SQLAlchemyWorkflowExecutionRepository):
    """Save runs on a watched engine."""

    def __init__(self, session_factory: Any, user: Any, app_id: str | None, triggered_from: Any) -> None:
        super().__init__(session_factory, user, app_id, triggered_from)
        gate_for(session_factory)


class CoreWorkflowNodeExecutionRepository(SQLAlchemyWorkflowNodeExecutionRepository):
    """Save node executions on a watched engine."""

    def __init__(self, session_factory: Any, user: Any, app_id: str | None, triggered_from: Any, **kwargs: Any) -> None:
        super().__init__(session_factory, user, app_id, triggered_from, **kwargs)
        gate_for(session_factory)
