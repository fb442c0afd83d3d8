"""Engines that are watched by a commit protocol which notes what it is told, and rows to write."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from real_servers.driver_statements import note_taking
from sqlalchemy import NullPool, create_engine, delete, event, insert, select
from sqlalchemy.orm import Session, sessionmaker

from tidegate.proxy.database.placement import own
from tidegate.proxy.database.schema import OUTBOX, make_tables
from tidegate.proxy.tracking.notes import Note, found_in
from tidegate.proxy.tracking.tracked_tables import Tables
from tidegate.proxy.tracking.triggers import make_triggers, missing_triggers
from tidegate.proxy.writes.watch import Watch, attach
from tidegate.repositories.models import Base, WorkflowNodeExecutionModel, WorkflowRun, new_id
from tidegate.repositories.tracked import TRACKED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from sqlalchemy import Engine

    from tidegate.cache.root_recovery import Transaction
    from tidegate.cache.store import Change
    from tidegate.position import Position
    from tidegate.proxy.writes.commit_protocol import Committing
    from tidegate.repositories.policies import Tracked

TENANT, APP = "7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10", "1b0a1e8e-90c6-4f0e-8a52-5d1f0c7a2b20"
DAY = datetime.fromisoformat("2024-03-05T12:00:00")


@dataclass
class Recorder:
    """A commit protocol that asks of the connection what a real one asks, and notes what it is told."""

    changes: list[tuple[Change, ...]] = field(default_factory=list)
    transactions: list[Transaction] = field(default_factory=list)
    stamped: list[tuple[int, Position]] = field(default_factory=list)
    before: Callable[[Committing], Any] | None = None
    after: Callable[[Committing], Any] | None = None

    def before_commit(self, connection: Committing, changes: Sequence[Change], everything: str) -> int | None:
        self.everything = everything
        if self.before:
            self.before(connection)
        self.changes.append(tuple(changes))
        self.transactions.append(connection.transaction_id())
        return len(self.changes)

    def verify_ownership(self, connection: Committing, tenant: str) -> None:  # noqa: ARG002  # no session here is a tenant's
        raise AssertionError(f"asked whether the shard of {tenant} owns it")

    def after_commit(self, connection: Committing, ticket: int) -> None:
        if self.after:
            self.after(connection)
        self.stamped.append((ticket, connection.position()[0]))

    def take(self) -> dict[str, set[str] | str]:
        """What the one transaction since the last time changed, by tenant; "whole" for all of one."""
        assert len(self.changes) <= 1, self.changes
        assert [ticket for ticket, _ in self.stamped] == [at + 1 for at in range(len(self.changes))]
        found = self.changes.pop() if self.changes else ()
        self.stamped.clear()
        return {change.tenant: "whole" if change.whole else set(change.tags) for change in found}


@dataclass
class Watched:
    """A watched engine, and what went over it."""

    engine: Engine
    watch: Watch
    recorder: Recorder
    statements: list[str]
    sessions: sessionmaker[Session]

    @property
    def is_postgresql(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    def take(self) -> dict[str, set[str] | str]:
        self.statements.clear()
        return self.recorder.take()

    def left(self) -> dict[str, set[str] | str]:
        """What was left in the outbox, which is empty afterwards."""
        with create_engine(self.engine.url, poolclass=NullPool).begin() as connection:
            notes = [Note(*row) for row in connection.execute(select(OUTBOX.c.source, OUTBOX.c.rows))]
            connection.execute(delete(OUTBOX))
        found = found_in(notes)
        assert not found.everything
        return {change.tenant: "whole" if change.whole else set(change.tags) for change in found.changes}

    def track(self, base: Any, tracked: Sequence[Tracked]) -> None:
        """Make more tables, and track them."""
        base.metadata.create_all(self.engine)
        make_triggers(self.engine, missing_triggers(self.engine, Tables(tracked)))
        self.statements.clear()

    def store(self, model: Any = WorkflowRun, **overrides: Any) -> dict[str, Any]:
        """Store a row, and forget that it was told of."""
        values = values_of(model, **overrides)
        with self.engine.begin() as connection:
            connection.execute(insert(model.__table__), {model.__mapper__.columns[k].key: v for k, v in values.items()})
        self.take()
        return values

    def rows(self, model: Any = WorkflowRun) -> list[Any]:
        table = model.__table__
        with self.engine.connect() as connection:
            return list(connection.execute(select(table).order_by(table.c.id)).all())


def values_of(model: Any, **overrides: Any) -> dict[str, Any]:
    """A row's values by attribute."""
    values: dict[str, Any] = {
        "id": new_id(),
        "tenant_id": TENANT,
        "app_id": APP,
        "workflow_id": new_id(),
        "type": "workflow",
        "triggered_from": "app-run",
        "version": "1",
        "status": "running",
        "created_by_role": "account",
        "created_by": new_id(),
        "created_at": DAY,
        "workflow_run_id": new_id(),
        "index": 1,
        "node_id": "n1",
        "node_type": "llm",
        "title": "t",
        "state_object_key": "k",
        "pause_id": new_id(),
        "type_": "human_input_required",
        "file_id": new_id(),
        "node_execution_id": new_id(),
        "created_from": "service-api",
        "trigger_metadata": "{}",
        "trigger_type": "trigger-webhook",
        "trigger_data": "{}",
        "inputs": "{}",
        "queue_name": "q",
        "root_node_id": "n0",
        "log_id": new_id(),
        "run_version": "1",
        "run_status": "succeeded",
        "run_triggered_from": "app-run",
        "run_created_at": DAY,
    }
    return {key: value for key, value in values.items() if key in model.__mapper__.columns} | overrides


def tags_of(values: dict[str, Any]) -> set[str]:
    """The tags of a run's or a node execution's values."""
    if "node_type" in values:
        last = f"lastnode:{values['workflow_id']}:{values['node_id']}"
        return {f"node:{values['id']}", f"nodes:{values['workflow_run_id']}", last}
    app = values["app_id"]
    return {f"run:{values['id']}", f"runs:{app}", f"runs:{app}:{values['created_at']:%Y%m%d}"}


@pytest.fixture(name="values_of")
def values_of_fixture() -> Callable[..., dict[str, Any]]:
    return values_of


@pytest.fixture(name="tags_of")
def tags_of_fixture() -> Callable[..., set[str]]:
    return tags_of


@pytest.fixture
def node_model() -> type[WorkflowNodeExecutionModel]:
    return WorkflowNodeExecutionModel


@pytest.fixture
def watch_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Watched]]:
    """Watches an engine, over tables that it makes; disposes of it after the test."""
    engines: list[Engine] = []

    def watched(engine: Engine, **options: Any) -> Watched:
        engines.append(engine)
        Base.metadata.create_all(engine)
        make_tables(engine)
        recorder = Recorder()
        statements: list[str] = []
        make_triggers(engine, missing_triggers(engine, Tables(TRACKED)))
        with own(engine).begin() as connection:
            connection.execute(delete(OUTBOX))
        watch = attach(engine, recorder, **options)
        event.listen(engine, "before_cursor_execute", lambda _c, _cursor, sql, *_: statements.append(sql))
        note_taking(monkeypatch, statements.append)
        return Watched(engine, watch, recorder, statements, sessionmaker(engine))

    yield watched
    for engine in engines:
        engine.dispose()


def _engine(kind: str, tmp_path: Path, request: pytest.FixtureRequest, **options: Any) -> Engine:
    if kind == "sqlite":
        return create_engine(f"sqlite:///{tmp_path / 'watched.db'}", **options)
    if kind == "psycopg2":
        pytest.importorskip("psycopg2")
    url: str = request.getfixturevalue("tables_url")
    return create_engine(url.replace("+psycopg:", f"+{kind}:"), **options)


@pytest.fixture(params=["sqlite", "psycopg", "psycopg2"])
def watched(request: pytest.FixtureRequest, tmp_path: Path, watch_engine: Callable[..., Watched]) -> Watched:
    return watch_engine(_engine(request.param, tmp_path, request))


@pytest.fixture
def postgresql(request: pytest.FixtureRequest, tmp_path: Path, watch_engine: Callable[..., Watched]) -> Watched:
    return watch_engine(_engine("psycopg", tmp_path, request))
