"""Look whether a database has the triggers of the tracked tables, and make them."""

from __future__ import annotations

import json
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import insert, select, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError

from tidegate.error_text import first_line
from tidegate.proxy.database.note_functions import qualified
from tidegate.proxy.database.placement import execute_own, schema_of
from tidegate.proxy.database.schema import CACHE, FAMILIES, OUTBOX, STATE, make_functions
from tidegate.proxy.tracking import postgresql_triggers, sqlite_triggers
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
# Whoever names a partition, or a table that inherits, does not fire the triggers of the table above it.
_FAMILY: Final = text(
    "WITH RECURSIVE family (nr, oid, level) AS ("
    " SELECT nr, to_regclass(name)::oid, 0 FROM unnest(CAST(:names AS text[])) WITH ORDINALITY tracked (name, nr)"
    " WHERE to_regclass(name) IS NOT NULL"
    " UNION SELECT nr, inhrelid, level + 1 FROM family JOIN pg_inherits ON inhparent = family.oid)"
    " SELECT nr, class.oid::text, format('%I.%I', namespace.nspname, class.relname) AS on_table,"
    " class.relispartition AS is_partition, bool_or(class.relkind = 'f') OVER (PARTITION BY nr) AS has_foreign,"
    " (SELECT array_agg(tgname::text) FROM pg_trigger t"
    " WHERE t.tgrelid = class.oid AND t.tgname LIKE 'tidegate\\_note\\_%'"
    " AND t.tgenabled IN ('A', CASE WHEN t.tgname LIKE '%\\_replica' THEN 'R'"
    " WHEN t.tgname LIKE '%\\_truncate' THEN 'A' ELSE 'O' END)) AS names"
    " FROM family JOIN pg_class class ON class.oid = family.oid"
    " JOIN pg_namespace namespace ON namespace.oid = class.relnamespace ORDER BY nr, level, on_table"
)


_OID: Final = text("SELECT to_regclass(:name)::oid")
_FIRST: Final = "first"
"""Stands among the tables of a family while its triggers are made for the first time."""


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
        for row in connection.execute(_FAMILY, {"names": _names(tables, schema)})
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


def _names(tables: Iterable[TrackedTable], schema: str | None) -> list[str]:
    return [qualified(table.table.schema or schema, table.table.name) for table in tables]


def note_gone(engine: Engine, tables: Iterable[TrackedTable]) -> list[str]:
    """Note that anything may have changed, if a tracked table has lost or got a partition, or a table that inherits.

    Its rows go and come with it, and no trigger fires. Which tables there were, the database remembers.

    Returns:
        The names of the tracked tables that have lost or got some.
    """
    if engine.dialect.name != "postgresql":
        return []
    with engine.begin() as connection:
        names, now = list(dict.fromkeys(_names(tables, schema_of(connection)))), dict[str, list[str]]()
        for row in connection.execute(_FAMILY, {"names": names}).all():
            now.setdefault(names[row.nr - 1], []).append(row.oid)
        is_families = STATE.c.name == FAMILIES
        text_before = execute_own(connection, select(STATE.c.value).where(is_families)).scalar()
        before: dict[str, list[str]] = json.loads(text_before or "{}")
        if before == before | now:
            return []
        text_now = json.dumps(before | now, sort_keys=True)
        if text_before is None:
            written: Any = postgresql.insert(STATE).values(name=FAMILIES, value=text_now).on_conflict_do_nothing()
        else:
            written = update(STATE).where(is_families, STATE.c.value == text_before).values(value=text_now)
        looked_at = {name: set(some) for name, some in before.items() if _FIRST not in some}
        gone = [name for name, some in now.items() if looked_at.get(name, set(some)) != set(some)]
        if execute_own(connection, written).rowcount and gone:  # else another gate is about to note it
            why = f"a partition of {', '.join(gone)}, or a table that inherited from it, is gone or new"
            execute_own(connection, insert(OUTBOX), everything_note(why)._asdict())
    return gone


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
    (name,) = _names([found.table], schema_of(connection))
    if not _is_new(connection, name, found.on):
        _note_unwatched(connection, found.on)
    for statement in found.create:
        connection.exec_driver_sql(statement.replace("%", "%%"))
    give_to_owner(connection, found.table, found.on)


def _is_new(connection: Connection, name: str, on: str) -> bool:
    """Tell whether a table never had triggers, so that nothing cached depends on it; remember that it has some now.

    A partition that comes to a family of which somebody has looked at all tables may have come with its rows.
    """
    first = {"name": FAMILIES, "value": "{}"}
    execute_own(connection, postgresql.insert(STATE).values(first).on_conflict_do_nothing())
    is_families = STATE.c.name == FAMILIES
    found = execute_own(connection, select(STATE.c.value).where(is_families).with_for_update())
    before: dict[str, list[str]] = json.loads(found.scalar_one())
    known, oid = before.get(name, [_FIRST]), str(connection.scalar(_OID, {"name": on}))
    if _FIRST not in known or oid in known:
        return False
    value = json.dumps(before | {name: [*known, oid]}, sort_keys=True)
    execute_own(connection, update(STATE).where(is_families).values(value=value))
    return True


def _note_unwatched(connection: Connection, table: str) -> None:
    """Note that anything may have changed: while there were no triggers, nobody has noted it.

    As long as no cache serves, that is no matter.
    """
    if execute_own(connection, select(STATE.c.name).where(STATE.c.name == CACHE)).first() is not None:
        execute_own(connection, insert(OUTBOX), everything_note(f"{table} had no triggers")._asdict())
