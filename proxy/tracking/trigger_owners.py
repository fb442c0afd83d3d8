"""Whose rights the functions of triggers have: those of the table's owner, and of nobody more powerful."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from tidegate.proxy.database.note_functions import qualified, quoted
from tidegate.proxy.database.placement import schema_of
from tidegate.proxy.database.schema import CLOSING, OUTBOX, OWNERSHIP, STATE
from tidegate.proxy.tracking import postgresql_triggers

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tidegate.proxy.tracking.tracked_table import TrackedTable

_OWNER: Final = text(
    "SELECT pg_get_userbyid(class.relowner) FROM pg_class class"
    " JOIN pg_roles owner ON owner.oid = class.relowner JOIN pg_roles maker ON maker.rolname = current_user"
    " WHERE class.oid = to_regclass(:table) AND maker.rolsuper AND NOT owner.rolsuper"
)
_GRANTS: Final = {
    STATE.name: "SELECT",
    OUTBOX.name: "SELECT, INSERT",
    OWNERSHIP.name: "SELECT, UPDATE",
    CLOSING.name: "SELECT",
}
"""What the functions need. FOR SHARE needs the right to UPDATE."""


def give_to_owner(connection: Connection, table: TrackedTable, on: str) -> None:
    """Give the functions of a table's triggers to its owner, if a superuser has made them for one who is none.

    The functions read what the owner may replace, by a view that calls what he likes: as a superuser's they would run
    that with a superuser's rights.

    Args:
        connection: the one that has made them.
        table: the tracked table.
        on: the name of the table that has the triggers.
    """
    owner = connection.scalar(_OWNER, {"table": on})
    if owner is None:
        return
    schema, role = schema_of(connection), quoted(owner)
    made = postgresql_triggers.TableTriggers(table, schema, on)
    statements = [f"GRANT {rights} ON {qualified(schema, name)} TO {role}" for name, rights in _GRANTS.items()]
    statements += [f"ALTER FUNCTION {name}() OWNER TO {role}" for name in made.functions]
    for statement in statements:
        connection.exec_driver_sql(statement.replace("%", "%%"))
