"""Which types a tenant, and what tags are made of, may have: those whose values are equal only if their texts are.

What the database takes for the same tenant must be the same tenant in the cache. To the database CHAR(n) is the same
with and without blanks at its end, 1 is 1.0, and citext knows no case: a cached answer would be found by one spelling,
and voided by another.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import CHAR, Float, Numeric, TypeDecorator, text
from sqlalchemy.dialects.postgresql import CITEXT
from sqlalchemy.exc import OperationalError

from tidegate.error_text import first_line
from tidegate.errors import RoutingError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection, Engine

    from tidegate.proxy.tracking.tracked_table import TrackedTable

_log: Final = logging.getLogger(__name__)
_COMPARABLE: Final = frozenset(
    {"uuid", "text", "varchar", "name", "int2", "int4", "int8", "oid", "bool", "date", "timestamp", "timestamptz"}
)
_ENUM: Final = "e"
_TYPES: Final = text(
    "SELECT a.attname, coalesce(b.typname, t.typname), coalesce(b.typtype, t.typtype)::text,"
    " format_type(a.atttypid, a.atttypmod), coalesce(c.collisdeterministic, true), c.collname"
    " FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid"
    " LEFT JOIN pg_type b ON b.oid = t.typbasetype AND t.typtype = 'd'"
    " LEFT JOIN pg_collation c ON c.oid = a.attcollation"
    " WHERE a.attrelid = to_regclass(:table) AND a.attname = ANY(:names) AND NOT a.attisdropped"
)


def check_comparable(engine: Engine, tables: Iterable[TrackedTable]) -> None:
    """Check the types of what tells tenants and tags of *tables*: as the models have them, and as the database does.

    A table that is not there yet, and a database that does not answer, are not asked: the models must do then.

    Raises:
        SettingsError: a column has a type of which values are equal whose texts are not; names it.
    """
    tables = tuple(tables)
    for table in tables:
        _check_model(engine, table)
    if engine.dialect.name != "postgresql":
        return
    try:
        with engine.connect() as connection:
            for table in tables:
                _check_columns(connection, table)
    except (OperationalError, RoutingError) as error:
        _log.warning("the types of tracked tables could not be checked: %s", first_line(error))


def _check_model(engine: Engine, table: TrackedTable) -> None:
    pads = engine.dialect.name != "sqlite"  # there CHAR(n) is text like any other
    for name in table.compared:
        column = table.fields[name]
        kind: Any = column.type
        while isinstance(kind, TypeDecorator):
            kind = kind.load_dialect_impl(engine.dialect)
        if isinstance(kind, Numeric | Float | CITEXT) or (pads and isinstance(kind, CHAR)):
            raise _refused(table, column.name, str(kind))


def _check_columns(connection: Connection, table: TrackedTable) -> None:
    names = [table.fields[name].name for name in table.compared]
    named = connection.dialect.identifier_preparer.format_table(table.table)
    for column, kind, category, shown, is_deterministic, collation in connection.execute(
        _TYPES, {"table": named, "names": names}
    ):
        if kind not in _COMPARABLE and category != _ENUM:
            raise _refused(table, column, shown)
        if not is_deterministic:
            raise _refused(table, column, f'{shown} with the collation "{collation}"')


def _refused(table: TrackedTable, column: str, kind: str) -> SettingsError:
    return SettingsError(
        f"{table.table.name}.{column} is {kind}: values of this type are equal whose texts are not, so that an answer "
        "could be cached under one spelling and changed under another; a tenant, and what a tag names, must be uuid, "
        "text, varchar, a whole number or an enum, with a collation that is deterministic"
    )
