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
_THERE: Final = text("SELECT bool_and(to_regprocedure(name) IS NOT NULL) FROM unnest(CAST(:names AS text[])) name")


def functions_sql(schema: str | None) -> list[str]:
    """Return the statements that make the functions; they may be run again."""
    return [slot_sql(schema), check_ownership_sql(schema), take_sql(schema), put_sql(schema)]


def drop_functions_sql(schema: str | None) -> list[str]:
    """Return the statements that drop them."""
    return [f"DROP FUNCTION IF EXISTS {qualified(schema, name)}({types})" for name, types in _TAKEN.items()]


def has_functions(connection: Connection, schema: str | None) -> bool:
    """Tell whether all are there."""
    names = [f"{qualified(schema, name)}({types})" for name, types in _TAKEN.items()]
    return bool(connection.scalar(_THERE, {"names": names}))
