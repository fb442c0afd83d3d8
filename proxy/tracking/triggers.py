"""Look whether a database has the triggers of the tracked tables, and make them."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError

from tidegate.error_text import first_line
from tidegate.proxy.database.placement import execute_own, schema_of
from tidegate.proxy.database.schema import CACHE, OUTBOX, STATE, make_functions
from tidegate.proxy.tracking import postgresql_triggers, sqlite_triggers
from tidegate.proxy.tracking.families import families_of, is_first_time, names_of
from tidegate.proxy.tracking.notes import everything_note
from tidegate.proxy.tracking.trigger_owners import give_to_owner
from tidegate.routing.replicas.failures import sqlstate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy import Connection, Engine

    from tidegate.proxy.tracking.tracked_table import TrackedTable

_log: Final = logging.getLogger(__name__)
_LOCK_S: Final = 2
LOCK_ATTEMPTS: Final = 5
"""How often a command tries to lock a table."""
_LOCKED: Final = "55P03"
_ONE_BY_ONE: Final = text("SELECT pg_advisory_xact_lock(hashtext('tidegate triggers'))")


class Missing(NamedTuple):
    """A table that lacks triggers.

    Args:
        table: the tracked table.
        on: the name of the table itself, of a partition, or of a table that inherits from it, as the database quotes
            it; "": it is not there at all.
        create: what makes the triggers; nothing, if there can be none: PostgreSQL fails each statement on a family of
            tables of which one is a foreign table, if it has such triggers.
    """

    table: TrackedTable
    on: str
    create: tuple[str, ...]


def triggers_sql(tables: Iterable[TrackedTable], schema: str, *, undo: bool = False) -> list[str]:
    """Return the statements that make triggers and their functions on PostgreSQL; with *undo*, those that drop them.

    Args:
        tables: the tracked tables.
        schema: the schema in which they lie, if they do not say; Tidegate's own tables lie there too.
        undo: whether to drop.
    """
    made = [postgresql_triggers.TableTriggers(table, schema) for table in tables]
    return [statement for one in made for statement in (one.drop_sql() if undo else one.create_sql())]


def missing_triggers(engine: Engine, tables: Iterable[TrackedTable]) -> list[Missing]:
    """Return which of *tables* lack triggers, or are not there."""
    with engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            return [found for table in tables for found in _missing_on_sqlite(connection, table)]
        return _missing_on_postgresql(connection, tuple(tables))


def wanted_triggers(connection: Connection, tables: Sequence[TrackedTable]) -> dict[str, frozenset[str]]:
    """Return the names of the triggers that each table should have, by the name that the database gives the table."""
    if connection.dialect.name == "sqlite":
        return {made.on: frozenset(made.names) for made in map(sqlite_triggers.TableTriggers, tables)}
    wanted: dict[str, frozenset[str]] = {}
    for row, made in on_postgresql(connection, tables):
        wanted[row.on_table] = wanted.get(row.on_table, frozenset()).union(made.names)
    return wanted


def on_postgresql(
    connection: Connection, tables: Sequence[TrackedTable]
) -> list[tuple[Any, postgresql_triggers.TableTriggers]]:
    """Return what there is of *tables* and their families, each with the triggers that it should have."""
    schema = schema_of(connection)
    return [
        (
            row,
            postgresql_triggers.TableTriggers(tables[row.nr - 1], schema, row.on_table, is_partition=row.is_partition),
        )
        for row in families_of(connection, names_of(tables, schema))
    ]


def _missing_on_sqlite(connection: Connection, table: TrackedTable) -> list[Missing]:
    rows = connection.execute(
        text("SELECT type, name FROM sqlite_master WHERE tbl_name = :name"), {"name": table.table.name}
    ).all()
    there = {row.name for row in rows}
    made = sqlite_triggers.TableTriggers(table)
    if table.table.name not in there:
        return [Missing(table, "", ())]
    return [] if there.issuperset(made.names) else [Missing(table, made.on, tuple(made.create_sql()))]


def _missing_on_postgresql(connection: Connection, tables: Sequence[TrackedTable]) -> list[Missing]:
    found = on_postgresql(connection, tables)
    there = {row.nr for row, _ in found}
    missing = [Missing(table, "", ()) for nr, table in enumerate(tables, 1) if nr not in there]
    for row, made in found:
        if row.has_foreign:
            missing.append(Missing(tables[row.nr - 1], row.on_table, ()))
        elif not set(row.names or ()).issuperset(made.names):
            missing.append(Missing(tables[row.nr - 1], row.on_table, tuple(made.create_sql())))
    return missing


def make_triggers(engine: Engine, missing: Sequence[Missing], *, attempts: int = 1) -> list[str]:
    """Make the triggers of tables that lack them, and the functions beside them.

    Each table is locked against writes for a moment. That lock is waited for two seconds: a writer that runs long must
    not make all others wait behind it.

    Args:
        engine: the primary's.
        missing: the tables, as :func:`missing_triggers` gives them.
        attempts: how often the lock is tried.

    Returns:
        The names of the tables.

    Raises:
        DBAPIError: this user may not make them, or a table is locked for too long.
    """
    there, failed = [found for found in missing if found.create], list[DBAPIError]()
    make_functions(engine)
    for found in there:
        try:
            alone_on_table(engine, found.on, partial(_make, found), attempts=attempts)
        except DBAPIError as error:  # the others can be made all the same
            failed.append(error)
    if failed:
        raise failed[0]
    return [found.on for found in there]


def alone_on_table(engine: Engine, table: str, do: Callable[[Connection], None], *, attempts: int = 1) -> None:
    """Call *do* in a transaction in which it may lock *table*, for which it waits two seconds at most.

    Args:
        engine: the primary's.
        table: the table's name.
        do: changes triggers; nobody else does meanwhile.
        attempts: how often the lock is tried.

    Raises:
        DBAPIError: as *do* raises it, or the table is locked for too long.
    """
    for left in reversed(range(attempts)):
        try:
            with engine.begin() as connection:
                if engine.dialect.name == "postgresql":
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_S}s'")
                    connection.execute(_ONE_BY_ONE)
                do(connection)
        except DBAPIError as error:
            if sqlstate(error) != _LOCKED or not left:
                raise
            _log.info("%s is locked by others; its triggers are tried again: %s", table, first_line(error))
        else:
            return


def _make(found: Missing, connection: Connection) -> None:
    if connection.dialect.name != "postgresql":
        for statement in found.create:
            connection.exec_driver_sql(statement)
        return
    if found.on not in (one.on for one in _missing_on_postgresql(connection, (found.table,))):
        return  # another gate was faster
    (name,) = names_of([found.table], schema_of(connection))
    if not is_first_time(connection, name, found.on):
        _note_unwatched(connection, found.on)
    for statement in found.create:
        connection.exec_driver_sql(statement.replace("%", "%%"))
    give_to_owner(connection, found.table, found.on)


def _note_unwatched(connection: Connection, table: str) -> None:
    """Note that anything may have changed: while there were no triggers, nobody has noted it.

    As long as no cache serves, that is no matter.
    """
    if execute_own(connection, select(STATE.c.name).where(STATE.c.name == CACHE)).first() is not None:
        execute_own(connection, insert(OUTBOX), everything_note(f"{table} had no triggers")._asdict())
