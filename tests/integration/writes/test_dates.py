"""Rows with dates that Python cannot hold are changed and deleted like others; their whole tenant counts as changed."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import Date, DateTime, bindparam, delete, func, insert, literal_column, select, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, load_only, mapped_column

from tidegate.repositories.models import WorkflowAppLog, WorkflowRun, new_id
from tidegate.repositories.policies import Tracked
from tidegate.repositories.sqlalchemy_api_workflow_run_repository import DifyAPISQLAlchemyWorkflowRunRepository

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Connection

    from tests.integration.writes.conftest import Watched

pytestmark = [
    pytest.mark.fast,
    pytest.mark.matrix,
    pytest.mark.parametrize("watched", ["psycopg", "psycopg2"], indirect=True),  # SQLite has no such dates
]

TENANT, APP = "7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10", "1b0a1e8e-90c6-4f0e-8a52-5d1f0c7a2b20"
RUNS: Final[Any] = WorkflowRun.__table__
DAY: Final = datetime.fromisoformat("2024-03-05T00:00")
DATES: Final = ("infinity", "-infinity", "0044-03-15 12:00 BC", "0001-01-01", "9999-12-31 23:59", "12026-01-01")
"""The fourth and the fifth can be held, and not in every time zone."""


@pytest.fixture(params=DATES)
def run(watched: Watched, request: pytest.FixtureRequest) -> str:
    """The id of a run that was created at such a date."""
    key: str = watched.store()["id"]
    age(watched, key, request.param)
    return key


def age(watched: Watched, key: str, at: str) -> None:
    driver: Any = watched.engine.raw_connection()
    cursor = driver.cursor()
    cursor.execute("UPDATE workflow_runs SET created_at = CAST(%s AS timestamp) WHERE id = %s", (at, key))
    driver.commit()
    driver.close()


def on_connection(change: Callable[[Connection, str], None]) -> Callable[[Watched, str], None]:
    def way(watched: Watched, key: str) -> None:
        with watched.engine.begin() as connection:
            change(connection, key)

    return way


def by_orm(change: Callable[[Session, WorkflowRun], None]) -> Callable[[Watched, str], None]:
    def way(watched: Watched, key: str) -> None:
        with watched.sessions() as session:
            light = [load_only(WorkflowRun.id, WorkflowRun.status)]
            change(session, session.get_one(WorkflowRun, key, options=light))
            session.commit()

    return way


def _flushed(_session: Session, run: WorkflowRun) -> None:
    run.status = "failed"


UPDATED: Final = {"status": "failed"}


def _bulk(watched: Watched, key: str) -> None:
    with watched.sessions() as session:
        session.execute(update(WorkflowRun), [{"id": key, **UPDATED}])
        session.commit()


def _upsert(connection: Connection, key: str) -> None:
    values = dict.fromkeys(("type", "triggered_from", "version", "status"), "x")
    ids = {name: new_id() for name in ("workflow_id", "created_by")}
    row = {"id": key, "tenant_id": TENANT, "app_id": APP, "created_by_role": "account", "created_at": DAY}
    made = postgresql.insert(RUNS).values(row | ids | values)
    connection.execute(made.on_conflict_do_update(index_elements=["id"], set_=UPDATED | {"created_at": DAY}))


def _many_keys(connection: Connection, key: str) -> None:
    statement = update(RUNS).where(RUNS.c.id == bindparam("run")).values(status=bindparam("new"))
    connection.execute(statement, [{"run": key, "new": "failed"}, {"run": new_id(), "new": "failed"}])


def _executed(make: Callable[[str], Any]) -> Callable[[Watched, str], None]:
    def change(connection: Connection, key: str) -> None:
        connection.execute(make(key))

    return on_connection(change)


def _repository(change: Callable[[DifyAPISQLAlchemyWorkflowRunRepository, str], object]) -> Any:
    return lambda watched, key: change(DifyAPISQLAlchemyWorkflowRunRepository(watched.sessions), key)


UPDATES: Final[dict[str, Callable[[Watched, str], None]]] = {
    "by key": _executed(lambda key: update(RUNS).where(RUNS.c.id == key).values(UPDATED)),
    "by app": _executed(lambda _: update(RUNS).where(RUNS.c.app_id == APP).values(UPDATED)),
    "its date": _executed(lambda key: update(RUNS).where(RUNS.c.id == key).values(created_at=DAY, **UPDATED)),
    "many keys": on_connection(_many_keys),
    "flush": by_orm(_flushed),
    "bulk": _bulk,
    "upsert": on_connection(_upsert),
}
DELETES: Final[dict[str, Callable[[Watched, str], None]]] = {
    "by key": _executed(lambda key: delete(RUNS).where(RUNS.c.id == key)),
    "by app": _executed(lambda _: delete(RUNS).where(RUNS.c.app_id == APP)),
    "flush": by_orm(lambda session, run: session.delete(run)),
    "its app": _repository(lambda runs, _: runs.delete_runs_by_app(TENANT, APP)),
    "by ids": _repository(lambda runs, key: runs.delete_runs_by_ids([key])),
}


@pytest.mark.parametrize("way", UPDATES)
def test_such_a_row_is_changed(watched: Watched, run: str, way: str) -> None:
    UPDATES[way](watched, run)
    assert watched.take() == {TENANT: "whole"}
    with watched.engine.connect() as connection:
        assert connection.scalar(select(RUNS.c.status).where(RUNS.c.id == run)) == "failed"


@pytest.mark.parametrize("way", DELETES)
def test_such_a_row_is_deleted(watched: Watched, run: str, way: str) -> None:
    DELETES[way](watched, run)
    assert watched.take() == {TENANT: "whole"}
    with watched.engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(RUNS)) == 0


def test_such_a_row_is_inserted(watched: Watched) -> None:
    values = watched.store()
    row = {column.name: values.get(column.name) for column in RUNS.c if values.get(column.name) is not None}
    with watched.engine.begin() as connection:
        infinite: Any = literal_column("TIMESTAMP 'infinity'")
        connection.execute(insert(RUNS).values(row | {"id": new_id(), "created_at": infinite}))
    assert watched.take() == {TENANT: "whole"}


def test_a_row_that_belongs_to_such_a_row_is_changed(watched: Watched, run: str) -> None:
    values = watched.store(WorkflowAppLog, workflow_run_id=run)
    with watched.engine.begin() as connection:
        connection.execute(delete(WorkflowAppLog).where(WorkflowAppLog.id == values["id"]))
    assert TENANT in watched.take()


class Own(DeclarativeBase):
    """Tables of a program's own."""


class Event(Own):
    __tablename__ = "events"
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]
    day: Mapped[Any] = mapped_column(Date)
    at: Mapped[Any] = mapped_column(DateTime(timezone=True))


@pytest.mark.parametrize("column", ["day", "at"])
def test_dates_of_a_table_of_ones_own_are_read_as_safely(watched: Watched, column: str) -> None:
    watched.track(Own, [Tracked(Event, tenant="tenant_id", tags=("events:{day:day}", "at:{at:day}"))])
    stored = {"id": "1", "tenant_id": TENANT, "day": "2024-03-05", "at": "2024-03-05 23:30:00-02"} | {
        column: "infinity"
    }
    with watched.engine.connect() as connection:
        raw: Any = connection.connection.cursor()
        names = ", ".join(stored)
        values = ", ".join(f"'{value}'" for value in stored.values())
        raw.execute(f"INSERT INTO events ({names}) VALUES ({values})")  # of this test's own
        connection.connection.commit()
    watched.left()
    with watched.engine.begin() as connection:
        connection.execute(delete(Event).where(Event.tenant_id == TENANT))
    assert watched.take() == {TENANT: "whole"}
    Own.metadata.drop_all(watched.engine)


def test_a_date_that_python_can_hold_gives_its_day_as_before(watched: Watched) -> None:
    key = watched.store()["id"]
    for at, day in (("0001-01-03", "00010103"), ("9999-12-29 23:59", "99991229"), ("1970-01-01", "19700101")):
        age(watched, key, at)
        with watched.engine.begin() as connection:
            connection.execute(update(RUNS).where(RUNS.c.app_id == APP).values(UPDATED))
        assert watched.take() == {TENANT: {f"run:{key}", f"runs:{APP}", f"runs:{APP}:{day}"}}
    with watched.engine.begin() as connection:
        connection.execute(text("SELECT 1"))
    assert watched.take() == {}
