"""What a program sees where Tidegate asks on the driver's connection, and that breaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from tidegate.position import History
from tidegate.proxy.database.driver_errors import driver_connection
from tidegate.proxy.database.histories import Histories
from tidegate.proxy.database.primary import PostgresPrimary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

ASKED: dict[str, Callable[[PostgresPrimary], object]] = {
    "origin": lambda primary: primary.origin("t"),
    "renew": lambda primary: primary.renew("t", History(1)),
    "transaction": lambda primary: primary.transaction("t"),
    "oldest running": lambda primary: primary.oldest_running("t"),
    "ended": lambda primary: primary.ended("t", ["3"]),
}


@pytest.fixture(params=["psycopg", "psycopg2"])
def engine(request: pytest.FixtureRequest, tables_url: str) -> Iterator[Engine]:
    found = create_engine(tables_url.replace("+psycopg", f"+{request.param}"), pool_size=1, max_overflow=0)
    yield found
    found.dispose()


def break_connection(engine: Engine) -> None:
    """End the session of the one connection that the pool keeps, and wait until it has ended."""
    with engine.connect() as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
    other = create_engine(engine.url)
    with other.connect() as connection:
        assert connection.scalar(text("SELECT pg_terminate_backend(:pid, 60000)"), {"pid": pid})
    other.dispose()


@pytest.mark.parametrize("question", ASKED)
def test_a_connection_that_breaks_under_a_question_raises_what_sqlalchemy_raises(engine: Engine, question: str) -> None:
    primary = PostgresPrimary(engine, "", Histories(engine.dialect, ""))
    break_connection(engine)
    with pytest.raises(OperationalError) as raised:
        ASKED[question](primary)
    assert raised.value.connection_invalidated
    assert isinstance(raised.value.orig, engine.dialect.loaded_dbapi.OperationalError)
    ASKED[question](primary)  # on a new connection: the broken one did not go back to the pool


def test_another_error_of_the_driver_leaves_the_connection_in_use(engine: Engine) -> None:
    with engine.connect() as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
        with pytest.raises(ProgrammingError) as raised, driver_connection(connection) as raw:
            raw.cursor().execute("SELECT missing")
        assert not raised.value.connection_invalidated
        connection.rollback()
        assert connection.scalar(text("SELECT pg_backend_pid()")) == pid
