"""Triggers that cannot do their work: whether they would fail now, and which one has failed last."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError

from tidegate.error_text import first_line
from tidegate.proxy.database.placement import execute_own
from tidegate.proxy.database.schema import FAILED, STATE, fact
from tidegate.proxy.tracking.triggers import on_postgresql
from tidegate.routing.replicas.failures import sqlstate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection, Engine

    from tidegate.proxy.tracking.tracked_table import TrackedTable

_NO_RIGHT: Final = "42501"


class Failure(NamedTuple):
    """A trigger that could not do its work.

    Args:
        table: the table's name.
        error: the database's message.
        at: when a gate found that out, in UTC; None: it would fail now.
    """

    table: str
    error: str
    at: datetime | None = None


def failing_triggers(engine: Engine, tables: Iterable[TrackedTable]) -> list[Failure]:
    """Return which triggers of *tables* would fail, with the table that has them; whether they are there or not.

    On SQLite none can: a column that a trigger names cannot be dropped, and is renamed in the trigger too.
    """
    if engine.dialect.name != "postgresql":
        return []
    found = []
    with engine.connect() as connection:
        for row, made in on_postgresql(connection, tuple(tables)):
            try:
                connection.exec_driver_sql(made.try_sql().replace("%", "%%"))
            except DBAPIError as error:
                if sqlstate(error) != _NO_RIGHT:  # the triggers have their maker's rights, and this user has not
                    found.append(Failure(row.on_table, first_line(error)))
            connection.rollback()
    return found


def keep_failure(connection: Connection, table: str, error: str) -> None:
    """Record in the transaction of *connection* that a trigger of *table* has failed: the last one is remembered."""
    value = json.dumps({"table": table, "error": error, "at": datetime.now(UTC).isoformat(timespec="seconds")})
    kept = postgresql.insert(STATE).values(name=FAILED, value=value)
    execute_own(connection, kept.on_conflict_do_update(index_elements=[STATE.c.name], set_={"value": value}))


def last_failure(engine: Engine) -> Failure | None:
    """Return the trigger that has failed last; None: none ever has."""
    value = fact(engine, FAILED)
    if value is None:
        return None
    kept: dict[str, Any] = json.loads(value)
    return Failure(kept["table"], kept["error"], datetime.fromisoformat(kept["at"]))
