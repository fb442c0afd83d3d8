"""Whether a database has a table where one is tracked: a view has no triggers that see the rows of a statement."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from tidegate.error_text import first_line
from tidegate.errors import PolicyError, RoutingError
from tidegate.proxy.tracking.model_tables import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection, Engine

    from tidegate.proxy.tracking.model_tables import Key
    from tidegate.proxy.tracking.tracked_table import TrackedTable

_log: Final = logging.getLogger(__name__)
_OTHERS: Final = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "view": "a view"}
_POSTGRESQL: Final = text("SELECT relkind::text FROM pg_class WHERE oid = to_regclass(:table)")
_VIRTUAL: Final = text(
    "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(:table) AND attname = ANY (:names)"
    " AND to_jsonb(pg_attribute)->>'attgenerated' = 'v'"
)
_SQLITE: Final = text("SELECT type FROM sqlite_master WHERE name = :table")


def check_tables(engine: Engine, tables: Iterable[TrackedTable]) -> None:
    """Check that the database has a table, and nothing else, by the name of each of *tables*.

    One that is not there yet, and a database that does not answer, are not asked.

    Raises:
        PolicyError: it has a view or a foreign table there; names it, and says what to track. Or a column that tells
            tenant, tags or parent is one that triggers do not see.
    """
    statement = {"postgresql": _POSTGRESQL, "sqlite": _SQLITE}.get(engine.dialect.name)
    if statement is None:
        return
    format_table = engine.dialect.identifier_preparer.format_table
    named = {table.key: (format_table(table.table), table.fields.values()) for table in tables}
    try:
        with engine.connect() as connection:
            for key, (name, columns) in named.items():
                kind = connection.scalar(statement, {"table": key[1] if statement is _SQLITE else name})
                if kind in _OTHERS:
                    raise PolicyError(
                        f"{shown(key)} cannot be tracked: it is {_OTHERS[kind]}, whose triggers see no change. "
                        "Track the tables that its rows come from, as mapped classes or as Table"
                    )
                if statement is _POSTGRESQL:
                    _check_columns(connection, key, name, [column.name for column in columns])
    except (OperationalError, RoutingError) as error:
        _log.warning("the kinds of tracked tables could not be checked: %s", first_line(error))


def _check_columns(connection: Connection, key: Key, name: str, columns: list[str]) -> None:
    virtual = connection.scalars(_VIRTUAL, {"table": name, "names": columns}).all()
    if virtual:
        raise PolicyError(
            f"{shown(key)} cannot be tracked by {', '.join(virtual)}: PostgreSQL does not show triggers what a virtual "
            "column is. Make it GENERATED ALWAYS AS (...) STORED, or track by the columns that it is made of"
        )
