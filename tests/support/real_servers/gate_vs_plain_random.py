"""A gate and the plain repositories over one database, with every public method, and ways to write past them all.

Ids come from small pools, so that calls meet rows that are there, were there, or will be. Writes go through a gate or
through plain repositories on the engine that the gate watches; reads are made by the gate and by plain repositories on
an engine of their own.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from sqlalchemy import create_engine, delete, inspect, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import sessionmaker

import tidegate
from real_servers.comparable_answers import instances, outcome, shown
from tidegate.proxy.layers.gated_repositories import NodeExecutions, WorkflowRuns
from tidegate.repositories import (
    DifyAPISQLAlchemyWorkflowNodeExecutionRepository,
    DifyAPISQLAlchemyWorkflowRunRepository,
)
from tidegate.repositories.entities.pause_reason import HumanInputRequired, SchedulingPause
from tidegate.repositories.entities.workflow_execution import WorkflowExecution
from tidegate.repositories.entities.workflow_node_execution import WorkflowNodeExecution
from tidegate.repositories.enums import (
    WorkflowExecutionStatus,
    WorkflowNodeExecutionStatus,
    WorkflowTriggerStatus,
    WorkflowType,
)
from tidegate.repositories.models import (
    WorkflowAppLog,
    WorkflowNodeExecutionModel,
    WorkflowNodeExecutionOffload,
    WorkflowRun,
    WorkflowTriggerLog,
)
from tidegate.repositories.runs.pause_storage import MemoryStorage

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from tidegate.proxy.observe import Event

POOL: Final = 10
SOURCES: Final = ("app-run", "debugging")
STATUSES: Final = tuple(WorkflowExecutionStatus)
_FIRST: Final = datetime.fromisoformat("2024-03-05T22:00:00")
DAYS: Final = tuple(_FIRST + timedelta(hours=9 * n) for n in range(6))
"""Moments on three days; runs share them, so that pages have ties."""


class Ids:
    """What one sequence of calls is about: two tenants, two apps that both have, and pools of ids."""

    def __init__(self) -> None:
        self.tenants = [str(uuid4()) for _ in range(2)]
        self.apps = [str(uuid4()) for _ in range(2)]
        self.workflow = str(uuid4())
        self._runs = [str(uuid4()) for _ in range(POOL)]
        self._nodes = [str(uuid4()) for _ in range(POOL)]

    def tenant(self, n: int) -> str:
        return self.tenants[n % 2]

    def app(self, n: int) -> str:
        return self.apps[n // 2 % 2]

    def run(self, n: int) -> str:
        return self._runs[n % POOL]

    def node(self, n: int) -> str:
        return self._nodes[n % POOL]


class Twins:
    """Both sides.

    Args:
        database_url: with tables.
        settings: of the gate.
    """

    def __init__(self, database_url: str, settings: tidegate.Settings) -> None:
        self.counted: Counter[str] = Counter()
        self.gate = tidegate.connect(settings, observe=self._observe)
        self.engine = create_engine(database_url)
        own, storage = sessionmaker(self.engine), MemoryStorage()
        self.maker = self.gate.session_maker
        self.makers = {"gate": self.maker, "plain": own}
        runs = self.gate.adopt(WorkflowRuns(self.maker, storage=storage), self.maker)
        nodes = self.gate.adopt(NodeExecutions(self.maker), self.maker)
        plain = DifyAPISQLAlchemyWorkflowRunRepository(own, storage=storage)
        self.readers: dict[str, tuple[Any, Any]] = {
            "gate": (runs, nodes),
            "plain": (plain, DifyAPISQLAlchemyWorkflowNodeExecutionRepository(own)),
        }
        watched = DifyAPISQLAlchemyWorkflowRunRepository(self.maker, storage=storage)
        self.writers: tuple[tuple[Any, Any], ...] = (
            (runs, nodes),
            (watched, DifyAPISQLAlchemyWorkflowNodeExecutionRepository(self.maker)),
        )

    def close(self) -> None:
        self.gate.close()
        self.engine.dispose()

    def read(self, side: str, method: str, arguments: tuple[Any, ...]) -> Any:
        """One call, in a session of its own where it takes one."""
        repository = self._owner(self.readers[side], method)
        return getattr(repository, method)(*arguments)

    def compare(self, method: str, arguments: tuple[Any, ...], *, in_session: bool) -> None:
        """Both sides say the same, and what the gate gives is the caller's own."""
        self.counted[method] += 1
        if in_session:
            found, expected = (self._in_session(side, method, arguments) for side in ("gate", "plain"))
            assert found == expected, (method, arguments)
            return
        expected = outcome(lambda: self.read("plain", method, arguments))
        given: list[Any] = []
        for _ in range(2):
            assert outcome(lambda: self._kept(given, method, arguments)) == expected, (method, arguments)
        if len(given) == 2:  # neither raised
            mine, yours = (set(map(id, instances(answer))) for answer in given)
            assert not mine & yours, f"two callers of {method} share an instance"
            for answer in given:
                spoil(answer)
            assert outcome(lambda: self.read("gate", method, arguments)) == expected, (method, arguments, "spoilt")

    def write(self, method: str, arguments: tuple[Any, ...], by: int, *, in_session: bool) -> Any:
        """One call through the gate or a plain repository; what it refuses is refused."""
        repository = self._owner(self.writers[by % 2], method)
        self.counted[method] += 1
        try:
            if not in_session:
                return getattr(repository, method)(*arguments)
            with self.maker() as session:
                answer = getattr(repository, method)(session, *arguments)
                session.commit()
                return answer
        except (ValueError, RuntimeError, NotImplementedError) as refusal:
            self.counted[f"{method} refused"] += 1
            return refusal

    def _kept(self, given: list[Any], method: str, arguments: tuple[Any, ...]) -> Any:
        given.append(self.read("gate", method, arguments))
        return given[-1]

    def _in_session(self, side: str, method: str, arguments: tuple[Any, ...]) -> Any:
        repository = self._owner(self.readers[side], method)
        with self.makers[side]() as session:
            return outcome(lambda: shown(getattr(repository, method)(session, *arguments)))

    def _owner(self, pair: tuple[Any, Any], method: str) -> Any:
        return pair[0] if hasattr(pair[0], method) else pair[1]

    def _observe(self, event: Event) -> None:
        self.counted[type(event).__name__] += 1


def spoil(answer: Any) -> None:
    """Change all that a caller can change."""
    for one in instances(answer):
        if isinstance(one, (list, dict)):
            one.clear()
        elif hasattr(one, "data"):
            one.data, one.has_more = [], None
        else:
            for attribute in inspect(one).mapper.column_attrs:
                setattr(one, attribute.key, None)


def save_run(twins: Twins, ids: Ids, n: int, m: int) -> None:
    """By the write side."""
    user = SimpleNamespace(id=ids.app(n), tenant_id=ids.tenant(n))
    twins.counted["save run"] += 1
    twins.gate.workflow_executions(user, ids.app(n), SOURCES[m % 2]).save(
        WorkflowExecution(
            id_=ids.run(n),
            workflow_id=ids.workflow,
            workflow_version="1",
            workflow_type=WorkflowType.WORKFLOW,
            graph={"nodes": list(range(m))},
            inputs={"m": m},
            started_at=DAYS[m % len(DAYS)],
            status=STATUSES[m % len(STATUSES)],
            total_tokens=m,
            finished_at=DAYS[m % len(DAYS)],
        )
    )


def save_node(twins: Twins, ids: Ids, n: int, m: int) -> None:
    """By the write side, in one transaction or in two, whole or with a file for what is cut off."""
    user = SimpleNamespace(id=ids.app(n), tenant_id=ids.tenant(n))
    repository = twins.gate.workflow_node_executions(user, ids.app(n), "workflow-run")
    repository._offload = lambda *_: str(uuid4())
    execution = WorkflowNodeExecution(
        id=ids.node(n),
        workflow_id=ids.workflow,
        workflow_execution_id=ids.run(m),
        index=m,
        node_id=f"node {m % 2}",
        node_type="llm",
        title=f"title {m}",
        outputs={"m": list(range(m))},
        status=tuple(WorkflowNodeExecutionStatus)[m % 8],
        created_at=DAYS[m % len(DAYS)],
    )
    if m % 3 == 0:
        execution.set_truncated_outputs({"m": "..."})
    repository.save(execution)
    repository.save_execution_data(execution)
    repository.get_by_workflow_run(ids.run(m))
    twins.counted.update(["save node", "save_execution_data", "get_by_workflow_run"])


def run_values(ids: Ids, n: int, m: int) -> dict[str, Any]:
    """A run's row."""
    named = {"id": ids.run(n), "tenant_id": ids.tenant(n), "app_id": ids.app(n), "workflow_id": ids.workflow}
    plain = {"type": "workflow", "version": "1", "created_by_role": "account", "created_by": ids.app(n)}
    said = {"triggered_from": SOURCES[m % 2], "status": STATUSES[m % len(STATUSES)].value, "total_tokens": m}
    return named | plain | said | {"created_at": DAYS[m % len(DAYS)], "graph": "{}", "inputs": "{}", "outputs": "{}"}


def restore(session: Session, ids: Ids, n: int, m: int) -> None:
    """What makes a cached "not there" wrong."""
    session.execute(insert(WorkflowRun).values(run_values(ids, n, m)).on_conflict_do_nothing())


def change(session: Session, ids: Ids, n: int, m: int) -> None:
    """An attribute of a run that is loaded: its app, its time, its state or its error."""
    run = session.get(WorkflowRun, ids.run(n))
    if run is not None:
        values = (("app_id", ids.app(m)), ("created_at", DAYS[m % 6]), ("status", "stopped"), ("error", f"e{m}"))
        setattr(run, *values[m % 4])


def change_many(session: Session, ids: Ids, n: int, m: int) -> None:
    """In bulk."""
    some = (WorkflowRun.tenant_id == ids.tenant(n)) & (WorkflowRun.created_at <= DAYS[m % 6])
    session.execute(update(WorkflowRun).where(some).values(total_tokens=WorkflowRun.total_tokens + 1))


def delete_many(session: Session, ids: Ids, n: int, m: int) -> None:
    """In bulk, by a query; and offloads without their node executions."""
    session.query(WorkflowRun).filter_by(tenant_id=ids.tenant(n), triggered_from=SOURCES[m % 2]).delete()
    session.execute(delete(WorkflowNodeExecutionOffload).where(WorkflowNodeExecutionOffload.tenant_id == ids.tenant(m)))


def delete_nodes(session: Session, ids: Ids, n: int, _m: int) -> None:
    """By Core."""
    table: Any = WorkflowNodeExecutionModel.__table__
    session.connection().execute(table.delete().where(table.c.id == ids.node(n)))


def add_logs(session: Session, ids: Ids, n: int, m: int) -> None:
    """An app log and a trigger log."""
    named: dict[str, Any] = {"tenant_id": ids.tenant(n), "app_id": ids.app(n), "workflow_id": ids.workflow}
    named |= {"workflow_run_id": ids.run(n), "created_by_role": "account", "created_by": ids.app(n)}
    session.add(WorkflowAppLog(**named, created_from="service-api", created_at=DAYS[m % 6]))
    trigger = {"trigger_metadata": "{}", "trigger_type": "trigger-webhook", "trigger_data": "{}", "inputs": "{}"}
    status = next(iter(WorkflowTriggerStatus))
    session.add(WorkflowTriggerLog(**named, **trigger, root_node_id="n", queue_name="q", status=status))


OUTSIDE: Final[dict[str, Callable[[Session, Ids, int, int], None]]] = {
    each.__name__: each for each in (restore, change, change_many, delete_many, delete_nodes, add_logs)
}
REASONS: Final = (HumanInputRequired(form_id="form", node_id="node"), SchedulingPause(message="later"))
