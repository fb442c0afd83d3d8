"""What a user who may not make triggers must be granted.

PostgreSQL has only the owner of a table, and members of the role that owns it, enable a trigger for subscriptions; the
right TRIGGER is not enough. The functions lie beside Tidegate's own tables, so there he must be allowed to create.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from tidegate.proxy.database.placement import schema_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Engine

_NEEDED: Final = text(
    "SELECT DISTINCT format('GRANT %I TO %I', pg_get_userbyid(class.relowner), current_user) AS needed"
    " FROM unnest(CAST(:names AS text[])) name JOIN pg_class class ON class.oid = to_regclass(name)"
    " WHERE NOT pg_has_role(class.relowner, 'USAGE') UNION ALL"
    " SELECT format('GRANT CREATE ON SCHEMA %I TO %I', own.nspname, current_user) FROM pg_namespace own"
    " WHERE own.nspname = coalesce(:own, current_schema()) AND NOT has_schema_privilege(own.oid, 'CREATE')"
    " ORDER BY needed"
)


def needed_grants(engine: Engine, tables: Collection[str]) -> list[str]:
    """Return the statements that would let the user of *engine* make the triggers of *tables* and their functions.

    Args:
        engine: the user's.
        tables: their names, as the database quotes them.
    """
    if engine.dialect.name != "postgresql" or not tables:
        return []
    with engine.connect() as connection:
        given = {"names": list(tables), "own": schema_of(connection)}
        return [row.needed for row in connection.execute(_NEEDED, given)]


def how_to_make(grants: Collection[str]) -> str:
    """Return the advice: who makes the triggers, or what lets this user make them."""
    advice = "run 'tidegate init' as the owner of the tables"
    return f"{advice}, or let this user make them: {'; '.join(grants)}" if grants else advice
