"""Drop triggers: all of them, or those that this release would not make.

Another release, or another program, notes other columns of the same table, under another fingerprint. Its triggers stay
beside those of this release, since its gates need them as long as they run: without them nothing would bump the tags
that these know. Once none of its gates runs, its triggers are dead weight; and they fail when a column that they name
is renamed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import text

from tidegate.proxy.database.placement import schema_of
from tidegate.proxy.tracking.triggers import LOCK_ATTEMPTS, alone_on_table, wanted_triggers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from sqlalchemy import Connection, Engine

    from tidegate.proxy.tracking.tracked_table import TrackedTable

# Another installation may have its tables in another schema of this database: its functions lie beside its outbox.
# Functions beside no outbox are what is left after our tables have moved.
_FOUND: Final = text(
    "SELECT format('%I.%I', own.nspname, function.proname) AS function,"
    " quote_ident(namespace.nspname) || '.' || quote_ident(class.relname) AS on_table, t.tgname::text AS name"
    " FROM pg_proc function JOIN pg_namespace own ON own.oid = function.pronamespace"
    " LEFT JOIN pg_trigger t ON t.tgfoid = function.oid AND t.tgparentid = 0"
    " LEFT JOIN pg_class class ON class.oid = t.tgrelid"
    " LEFT JOIN pg_namespace namespace ON namespace.oid = class.relnamespace"
    " WHERE function.proname LIKE 'tidegate\\_note\\_%' AND function.prorettype = 'trigger'::regtype"
    " AND (own.nspname = coalesce(:own, current_schema())"
    " OR NOT EXISTS (SELECT FROM pg_class WHERE relname = 'tidegate_outbox' AND relnamespace = own.oid))"
    " ORDER BY on_table, name, function"
)
_ON_SQLITE: Final = text(
    "SELECT NULL, tbl_name, name FROM sqlite_master WHERE type = 'trigger' AND name GLOB 'tidegate_note_*'"
    " ORDER BY tbl_name, name"
)


class OldTriggers(NamedTuple):
    """The triggers on one table that this release would not make.

    Args:
        on: the table's name, as the database quotes it.
        names: the triggers'.
        is_known: whether they were made for a table that this release tracks. Else a repository of somebody's own may
            need them.
    """

    on: str
    names: tuple[str, ...]
    is_known: bool


def old_triggers(engine: Engine, tables: Iterable[TrackedTable]) -> list[OldTriggers]:
    """Return the triggers that *tables* do not need, by table."""
    with engine.connect() as connection:
        wanted = wanted_triggers(connection, tuple(tables))
        known, found = frozenset[str]().union(*wanted.values()), list[OldTriggers]()
        for on, names in _by_table(connection).items():
            if old := tuple(name for name in names if name not in wanted.get(on, ())):
                # A table that was a partition has the triggers of the table that it was a part of.
                found.append(OldTriggers(on, old, on in wanted or known.issuperset(old)))
        return found


def prune_triggers(
    engine: Engine, tables: Iterable[TrackedTable], untracked: Collection[str] = (), *, attempts: int = LOCK_ATTEMPTS
) -> list[str]:
    """Drop the triggers that *tables* do not need, while no gate runs that needs them, and functions that none uses.

    Args:
        engine: the primary's.
        tables: the tracked tables.
        untracked: the names of further tables that no gate tracks any more, as the database quotes them, with their
            schema: nobody but the caller can know that.
        attempts: as for :func:`make_triggers`.

    Returns:
        What was dropped, in words.

    Raises:
        DBAPIError: this user may not drop them, or a table is locked for too long.
    """
    old = [one for one in old_triggers(engine, tables) if one.is_known or one.on in untracked]
    return _drop(engine, {one.on: one.names for one in old}, "old triggers of {}", attempts)


def drop_triggers(engine: Engine, *, attempts: int = LOCK_ATTEMPTS) -> list[str]:
    """Drop all triggers and functions that were made to note changes.

    Args:
        engine: the primary's.
        attempts: as for :func:`make_triggers`.

    Returns:
        What was dropped, in words.

    Raises:
        DBAPIError: this user may not drop them, or a table is locked for too long.
    """
    with engine.connect() as connection:
        found = _by_table(connection)
    return _drop(engine, found, "triggers of {}", attempts)


def _by_table(connection: Connection) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    if connection.dialect.name == "sqlite":
        quote: Callable[[str], str] = connection.dialect.identifier_preparer.quote
        rows = [(function, quote(on), name) for function, on, name in connection.execute(_ON_SQLITE)]
    else:
        rows = [tuple(row) for row in _functions(connection)]
    for _, on, name in rows:
        if name is not None:
            found[on] = (*found.get(on, ()), name)
    return found


def _functions(connection: Connection) -> Sequence[Any]:
    """Return each function of a trigger with each trigger that calls it, and its table; or None and None."""
    return connection.execute(_FOUND, {"own": schema_of(connection)}).all()


def _drop(engine: Engine, by_table: dict[str, tuple[str, ...]], said: str, attempts: int) -> list[str]:
    for on, names in by_table.items():
        alone_on_table(engine, on, _dropping(on, names), attempts=attempts)
    dropped = [said.format(on) for on in by_table]
    if engine.dialect.name != "postgresql":
        return dropped
    with engine.begin() as connection:
        unused = [function for function, _, name in _functions(connection) if name is None]
        for function in unused:
            connection.exec_driver_sql(f"DROP FUNCTION IF EXISTS {function}()".replace("%", "%%"))
    of_triggers = {name for names in by_table.values() for name in names}
    return [*dropped, *(f"function {name}" for name in unused if name.rpartition(".")[2] not in of_triggers)]


def _dropping(on: str, names: Iterable[str]) -> Callable[[Connection], None]:
    def drop(connection: Connection) -> None:
        for name in names:
            place = "" if connection.dialect.name == "sqlite" else f" ON {on}"
            connection.exec_driver_sql(f'DROP TRIGGER IF EXISTS "{name}"{place}'.replace("%", "%%"))

    return drop
