"""Where Tidegate's own tables lie: in the schema of the tracked tables, and not where a search path leads.

Two programs with different search paths read and write the same rows. So they must find the same database id, the same
outbox and the same ownership.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, inspect

from tidegate.repositories.tracked import TRACKED

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Dialect, Engine, Executable

STATE_NAME: Final = "tidegate_state"
OWN_SCHEMA: Final = "tidegate_own"
"""What stands for the schema of Tidegate's tables in statements that name a program's tables too."""
# By the tables; where there are none yet, by the one table of ours that is there.
_FIND: Final = """
SELECT coalesce(
    (SELECT namespace.nspname FROM unnest(%s::text[]) WITH ORDINALITY tracked (name, nr)
     JOIN pg_class class ON class.oid = to_regclass(tracked.name)
     JOIN pg_namespace namespace ON namespace.oid = class.relnamespace ORDER BY nr LIMIT 1),
    (SELECT CASE WHEN count(*) = 1 THEN min(schemaname) END FROM pg_tables WHERE tablename = %s))::text
"""
LEFT_BEHIND: Final = """
SELECT schemaname::text FROM pg_tables WHERE tablename = %s AND NOT EXISTS (
    SELECT FROM pg_class class JOIN pg_namespace namespace ON namespace.oid = class.relnamespace
    WHERE namespace.nspname = schemaname AND class.relname = ANY(%s::text[]))
"""
"""Where our tables lie beside no tracked table; for a driver, with the name of one of ours and the tracked names."""
_MAPPERS: Final[list[Any]] = [inspect(tracked.model) for tracked in TRACKED]
TRACKED_NAMES: Final[list[str]] = [mapper.local_table.fullname for mapper in _MAPPERS]
_found: Final[WeakKeyDictionary[Dialect, str]] = WeakKeyDictionary()


def find_schema(dialect: Dialect, rows: Callable[[str, Any], list[Any]]) -> str | None:
    """Return the schema of Tidegate's own tables; None where there are no tables yet, or no schemas.

    It is found once for an engine, and for all that its ``execution_options`` made.

    Args:
        dialect: the engine's.
        rows: runs a statement with parameters, in the driver's form.
    """
    if dialect.name != "postgresql":
        return None
    if dialect not in _found:
        ((schema,),) = rows(_FIND, (TRACKED_NAMES, STATE_NAME))
        if schema is None:  # where the tables will be made is the search path's choice
            return None
        _found[dialect] = schema
    return _found[dialect]


def forget_schema(dialect: Dialect) -> None:
    """Find the schema anew: the tables by which it was found are gone, or have moved."""
    _found.pop(dialect, None)


def schema_of(bind: Engine | Connection) -> str | None:
    """Return the schema of Tidegate's own tables in a database."""
    if bind.dialect.name != "postgresql" or bind.dialect in _found:
        return _found.get(bind.dialect)
    if isinstance(bind, Connection):
        return find_schema(bind.dialect, lambda sql, given: list(bind.exec_driver_sql(sql, given)))
    with bind.connect() as connection:
        return schema_of(connection)


def placed(bind: Engine | Connection) -> dict[str, Any]:
    """Return the execution options with which statements on Tidegate's own tables find them."""
    schema = schema_of(bind)
    return {"schema_translate_map": {None: schema, OWN_SCHEMA: schema}}


def placed_beside(connection: Connection) -> dict[str, Any]:
    """Return the execution options for a statement on a program's tables, and on ours that name :data:`OWN_SCHEMA`."""
    return {"schema_translate_map": {OWN_SCHEMA: schema_of(connection)}}


def own(engine: Engine) -> Engine:
    """Return *engine* for statements on Tidegate's own tables, and on no others."""
    return engine.execution_options(**placed(engine))


def execute_own(connection: Any, statement: Executable, parameters: Any = None) -> Any:
    """Run a statement on Tidegate's own tables, on a connection that is somebody's."""
    if isinstance(connection, Connection):
        return connection.execute(statement, parameters, execution_options=placed(connection))
    return connection.execute(statement, parameters)


def state_table(dialect: Dialect) -> str:
    """Return the name of the table of named facts, quoted, for a statement as text; the schema was found before."""
    schema = _found.get(dialect)
    if schema is None:
        return STATE_NAME
    return f"{dialect.identifier_preparer.quote_identifier(schema)}.{STATE_NAME}"
