"""Which indexes a database has is looked up once for each pool, and again now and then until they are there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import sessionmaker

import tidegate
from tidegate.repositories import page_indexes
from tidegate.repositories.enums import WorkflowRunTriggeredFrom as Source
from tidegate.repositories.indexes import INDEXES, create_indexes, drop_indexes
from tidegate.repositories.models import new_id
from tidegate.repositories.page_indexes import MISSING_S, THERE_S
from tidegate.repositories.sqlalchemy_api_workflow_run_repository import DifyAPISQLAlchemyWorkflowRunRepository

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

pytestmark = pytest.mark.fast

TENANT, APP = new_id(), new_id()


class Clock:
    """Gives the time, which a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(page_indexes, "time", made)
    return made


@pytest.fixture
def engine(tables_url: str) -> Iterator[Engine]:
    made = create_engine(tables_url)
    yield made
    made.dispose()


class Statements:
    """The statements that an engine sent, until they are taken: "look" and "plain" or "indexed" for each page."""

    def __init__(self, engine: Engine) -> None:
        self._seen: list[str] = []
        event.listen(engine, "before_cursor_execute", self._note)

    def _note(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "pg_index" in statement:
            self._seen.append("look")
        elif statement.startswith("SELECT workflow_runs"):
            self._seen.append("indexed" if ") >= (" in statement else "plain")

    def take(self) -> list[str]:
        seen, self._seen = self._seen, []
        return seen


def read(engine: Engine, status: str | None = None) -> None:
    repository = DifyAPISQLAlchemyWorkflowRunRepository(sessionmaker(engine))
    repository.get_paginated_workflow_runs(TENANT, APP, Source.APP_RUN, status=status)


def test_indexes_are_looked_up_once_and_never_for_a_call(engine: Engine, clock: Clock) -> None:
    create_indexes(engine)
    sent = Statements(engine)
    for _ in range(3):
        read(engine)
        read(engine, "failed")
        read(engine.execution_options(anything=True))  # an engine of its own, on the same pool
    assert sent.take() == ["look"] + ["indexed"] * 9
    clock.now_s += THERE_S
    read(engine)
    read(engine)
    assert sent.take() == ["look", "indexed", "indexed"]


def test_an_index_that_appears_is_used_and_one_that_is_dropped_no_more(engine: Engine, clock: Clock) -> None:
    sent = Statements(engine)
    read(engine)
    read(engine)
    assert sent.take() == ["look", "plain", "plain"]
    with engine.begin() as connection:
        connection.execute(text(INDEXES[0].create_sql(concurrently=False)))
    read(engine)
    assert sent.take() == ["plain"]
    clock.now_s += MISSING_S
    read(engine)
    read(engine, "failed")  # whose index is not there yet
    assert sent.take() == ["look", "indexed", "plain"]
    create_indexes(engine)
    clock.now_s += MISSING_S
    sent.take()
    read(engine, "failed")
    assert sent.take() == ["look", "indexed"]
    drop_indexes(engine)
    clock.now_s += THERE_S
    sent.take()
    read(engine)
    assert sent.take() == ["look", "plain"]


def test_an_index_that_was_not_built_to_the_end_is_not_used(engine: Engine) -> None:
    create_indexes(engine)
    with engine.begin() as connection:
        spoil = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = CAST(:name AS regclass)"
        connection.execute(text(spoil), {"name": INDEXES[0].name})
    sent = Statements(engine)
    read(engine)
    assert sent.take() == ["look", "plain"]


def test_callers_that_come_while_one_looks_do_not_look_too(engine: Engine) -> None:
    create_indexes(engine)
    sent, looking, go_on = Statements(engine), Event(), Event()

    def hold(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "pg_index" in statement:
            looking.set()
            assert go_on.wait(60)

    event.listen(engine, "before_cursor_execute", hold)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(read, engine)
        assert looking.wait(60)
        together = Barrier(3)

        def join() -> None:
            together.wait(60)
            read(engine)

        for other in [pool.submit(join) for _ in range(3)]:
            other.result(60)
        go_on.set()
        first.result(60)
    assert sorted(sent.take()) == ["indexed", "look", "plain", "plain", "plain"]


def test_a_look_that_failed_is_made_again(engine: Engine) -> None:
    sent, failing = Statements(engine), [True]

    def fail(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if failing and "pg_index" in statement:
            failing.clear()
            raise OperationalError(statement, {}, ConnectionError("lost"))

    event.listen(engine, "before_cursor_execute", fail)
    with pytest.raises(OperationalError, match="lost"):
        read(engine)
    read(engine)
    assert sent.take() == ["look", "look", "plain"]


def test_psycopg_prepares_afterwards_as_before(engine: Engine) -> None:
    def threshold() -> tuple[int, Any]:
        with engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            return id(driver), getattr(driver, "prepare_threshold", None)

    before = threshold()
    read(engine)
    assert threshold() == before  # of the pool's one connection
    assert isinstance(before[1], int)


def test_explain_and_doctor_say_which_indexes_pages_are_read_by(engine: Engine, clock: Clock) -> None:
    with tidegate.gate_on(engine, sessionmaker(engine), tidegate.Settings()) as gate:
        page = gate.workflow_runs.get_paginated_workflow_runs

        def explained(status: str | None = None) -> str:
            return gate.explain(page, TENANT, APP, "app-run", status=status).statement

        assert explained() == (
            "pages are read by Dify's own indexes, since tidegate_runs_page_idx is missing; tidegate init makes it"
        )
        create_indexes(engine)
        clock.now_s += MISSING_S
        assert explained() == "pages are read by the index tidegate_runs_page_idx, at the same cost at any depth"
        assert "tidegate_runs_status_page_idx" in explained("failed")
        assert "tidegate_runs_page_idx" in str(gate.explain(page, TENANT, APP, "app-run"))
        assert gate.explain(gate.workflow_runs.get_workflow_run_by_id, TENANT, APP, new_id()).statement == ""
