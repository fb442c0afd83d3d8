"""All functions of PostgreSQL that are made beside Tidegate's own tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from tidegate.proxy.database.note_functions import CHECK_OWNERSHIP, PUT, TAKE, put_sql, qualified, take_sql
from tidegate.proxy.database.ownership_functions import check_ownership_sql
from tidegate.proxy.database.slot_function import SLOT, slot_sql

if TYPE_CHECKING:
    from sqlalchemy import Connection

_TAKEN: Final = {TAKE: "text", PUT: "text, text", CHECK_OWNERSHIP: "text[]", SLOT: "text"}
"""The functions, with the types that they take: by these it is told whether a database has them."""
_BODIES: Final = text(
    "SELECT prosrc FROM unnest(CAST(:names AS text[])) name JOIN pg_proc ON pg_proc.oid = to_regprocedure(name)"
)


def functions_sql(schema: str | None) -> list[str]:
    """Return the statements that make the functions; they may be run again."""
    return [slot_sql(schema), check_ownership_sql(schema), take_sql(schema), put_sql(schema)]


def drop_functions_sql(schema: str | None) -> list[str]:
    """Return the statements that drop them."""
    return [f"DROP FUNCTION IF EXISTS {qualified(schema, name)}({types})" for name, types in _TAKEN.items()]


def has_functions(connection: Connection, schema: str | None) -> bool:
    """Tell whether all are there, as this release makes them for this schema: a schema that is renamed keeps others."""
    names = [f"{qualified(schema, name)}({types})" for name, types in _TAKEN.items()]
    bodies = {statement.split("$tidegate$")[1] for statement in functions_sql(schema)}
    return bodies.issubset(connection.scalars(_BODIES, {"names": names}))
