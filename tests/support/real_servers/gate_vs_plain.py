"""A gate and the plain repositories over one database, and calls that both must answer alike."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

import tidegate
from real_servers.comparable_answers import outcome
from real_servers.versioned_tenant import SOURCE, Book
from tidegate.cache.events import Served
from tidegate.proxy.settings import CacheSettings, ShardSettings
from tidegate.repositories import (
    DifyAPISQLAlchemyWorkflowNodeExecutionRepository,
    DifyAPISQLAlchemyWorkflowRunRepository,
)
from tidegate.repositories.entities.workflow_node_execution import WorkflowNodeExecution
from tidegate.repositories.indexes import create_indexes
from tidegate.repositories.models import Base, new_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tidegate.proxy.observe import Event

NODE_WORKFLOW, NODE = "0f8b8d3c-2b1e-4b0a-9d1c-8f2f6a1f7c11", "llm"
_DAY: Final = datetime.fromisoformat("2024-03-05T00:00:00")
_NEXT_DAY: Final = datetime.fromisoformat("2024-03-06T00:00:00")


class Pair:
    """Both sides, over a few books.

    Args:
        database_url: a database that is empty, or has the tables and nothing else.
        cache: of the gate.
        books: how many tenants. Each is read and written each time.
    """

    def __init__(self, database_url: str, cache: CacheSettings, books: int = 1) -> None:
        self.engine = create_engine(database_url)
        Base.metadata.create_all(self.engine)
        create_indexes(self.engine)
        self.events: Counter[str] = Counter()
        shards = (ShardSettings(name="s0", primary=database_url),)
        self.gate = tidegate.connect(tidegate.Settings(shards=shards, cache=cache), observe=self._observe)
        plain = sessionmaker(self.engine)
        self.runs = DifyAPISQLAlchemyWorkflowRunRepository(plain)
        self.nodes = DifyAPISQLAlchemyWorkflowNodeExecutionRepository(plain)
        self.books = [Book.new() for _ in range(books)]
        self._node_ids = {book.run: new_id() for book in self.books}
        for book in self.books:
            with plain() as session:
                session.add(book.first())
                session.commit()
            for _ in range(3):
                self.write(book)

    def close(self) -> None:
        self.gate.close()
        self.engine.dispose()

    def write(self, book: Book) -> None:
        """One write of each kind through the gate: in a session, by the write side, and a deletion."""
        with self.gate.session(book.tenant) as session:
            version = book.write(session)
            session.commit()
        user = SimpleNamespace(id=book.app, tenant_id=book.tenant)
        self.gate.workflow_node_executions(user, book.app, "workflow-run").save(
            WorkflowNodeExecution(
                id=self._node_ids[book.run],
                workflow_id=NODE_WORKFLOW,
                workflow_execution_id=book.run,
                index=version,
                node_id=NODE,
                node_type="llm",
                title=f"after {version} writes",
                inputs={"version": version},
                created_at=_DAY,
            )
        )
        self.gate.workflow_runs.delete_runs_by_ids([book.id_of(version - 2)])

    def differences(self) -> list[str]:
        """The reads that the two sides answer differently."""
        wrong = []
        for book in self.books:
            for name, of_gate, of_plain in self._reads(book):
                if (found := outcome(of_gate)) != (expected := outcome(of_plain)):
                    wrong.append(f"{name}: {found} instead of {expected}")
        return wrong

    def hits(self) -> int:
        """How many answers have come from the cache so far."""
        return sum(times for event, times in self.events.items() if event.startswith("served"))

    def outbox(self) -> int:
        """How many rows wait there."""
        with self.engine.connect() as connection:
            return int(connection.exec_driver_sql("SELECT count(*) FROM tidegate_outbox").scalar_one())

    def _observe(self, event: Event) -> None:
        self.events[f"served by {event.where}" if isinstance(event, Served) else type(event).__name__] += 1

    def _reads(self, book: Book) -> Iterator[tuple[str, Callable[[], Any], Callable[[], Any]]]:
        gate, run = self.gate, (book.tenant, book.app, book.run)
        calls: Sequence[tuple[str, Any, Any, tuple[Any, ...]]] = (
            ("get_workflow_run_by_id", gate.workflow_runs, self.runs, run),
            ("get_workflow_run_by_id", gate.workflow_runs, self.runs, (book.tenant, book.app, book.app)),
            ("get_paginated_workflow_runs", gate.workflow_runs, self.runs, (book.tenant, book.app, SOURCE, 3)),
            (
                "get_paginated_workflow_runs",
                gate.workflow_runs,
                self.runs,
                (book.tenant, book.app, SOURCE, 1, book.run),
            ),
            ("get_workflow_runs_count", gate.workflow_runs, self.runs, (book.tenant, book.app, SOURCE.value)),
            (
                "get_daily_runs_statistics",
                gate.workflow_runs,
                self.runs,
                (book.tenant, book.app, SOURCE.value, _DAY, _NEXT_DAY),
            ),
            ("get_executions_by_workflow_run", gate.node_executions, self.nodes, run),
            (
                "get_node_last_execution",
                gate.node_executions,
                self.nodes,
                (book.tenant, book.app, NODE_WORKFLOW, NODE),
            ),
            ("get_execution_by_id", gate.node_executions, self.nodes, (self._node_ids[book.run], book.tenant)),
        )
        for name, gated, plain, arguments in calls:
            yield name, _call(gated, name, arguments), _call(plain, name, arguments)


def _call(repository: Any, name: str, arguments: tuple[Any, ...]) -> Callable[[], Any]:
    return lambda: getattr(repository, name)(*arguments)
