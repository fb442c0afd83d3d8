"""The family of a tracked table: its partitions, and the tables that inherit from it. Their rows are its rows.

They come and go with their rows, and no trigger fires then. So the database remembers which there were when somebody
last looked.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import insert, select, text, update
from sqlalchemy.dialects import postgresql

from tidegate.proxy.database.note_functions import qualified
from tidegate.proxy.database.placement import execute_own, schema_of
from tidegate.proxy.database.schema import FAMILIES, OUTBOX, STATE
from tidegate.proxy.tracking.notes import everything_note

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Connection, Engine

    from tidegate.proxy.tracking.tracked_table import TrackedTable

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
_OID: Final = text("SELECT to_regclass(:name)::oid::text")
_FIRST: Final = "first"
"""Stands among the tables of a family while its triggers are made for the first time."""
_IS_FAMILIES: Final = STATE.c.name == FAMILIES


def families_of(connection: Connection, names: Sequence[str]) -> Sequence[Any]:
    """Return a row for each table of each family, the tracked table first, with the triggers of ours that it has.

    Args:
        connection: to a PostgreSQL database.
        names: of the tracked tables, as the database quotes them. A row tells by ``nr``, from 1, of which it is.
    """
    return connection.execute(_FAMILY, {"names": list(names)}).all()


def names_of(tables: Iterable[TrackedTable], schema: str | None) -> list[str]:
    """Return the names of tracked tables as the database quotes them; *schema* is that of those that do not say."""
    return [qualified(table.table.schema or schema, table.table.name) for table in tables]


def note_changed_families(engine: Engine, tables: Iterable[TrackedTable]) -> list[str]:
    """Note that anything may have changed, if a family has lost a table since somebody last looked, or got one.

    Returns:
        The names of the tracked tables whose families have changed.
    """
    if engine.dialect.name != "postgresql":
        return []
    with engine.begin() as connection:
        names, now = list(dict.fromkeys(names_of(tables, schema_of(connection)))), dict[str, list[str]]()
        for row in families_of(connection, names):
            now.setdefault(names[row.nr - 1], []).append(row.oid)
        if (before := _known(connection)) == before | now:
            return []
        before = _known(connection, lock=True)  # two gates must not both find the same
        looked_at = {name: set(some) for name, some in before.items() if _FIRST not in some}
        changed = [name for name, some in now.items() if looked_at.get(name, set(some)) != set(some)]
        _remember(connection, before | now)
        if changed:
            why = f"a partition of {', '.join(changed)}, or a table that inherited from it, is gone or new"
            execute_own(connection, insert(OUTBOX), everything_note(why)._asdict())
    return changed


def is_first_time(connection: Connection, name: str, on: str) -> bool:
    """Tell whether a table never had triggers, so that nothing cached depends on it; remember that it has some now.

    A table that comes to a family of which somebody has looked at all may have come with its rows.

    Args:
        connection: in the transaction that makes the triggers.
        name: the tracked table's, as :func:`names_of` gives it.
        on: the name of the table of its family.
    """
    before = _known(connection, lock=True)
    known, oid = before.get(name, [_FIRST]), str(connection.scalar(_OID, {"name": on}))
    if _FIRST not in known or oid in known:
        return False
    _remember(connection, before | {name: [*known, oid]})
    return True


def _known(connection: Connection, *, lock: bool = False) -> dict[str, list[str]]:
    found = select(STATE.c.value).where(_IS_FAMILIES)
    if lock:
        first = postgresql.insert(STATE).values(name=FAMILIES, value="{}")
        execute_own(connection, first.on_conflict_do_nothing())
        found = found.with_for_update()
    known: dict[str, list[str]] = json.loads(execute_own(connection, found).scalar() or "{}")
    return known


def _remember(connection: Connection, families: Mapping[str, Sequence[str]]) -> None:
    value = json.dumps(families, sort_keys=True)
    execute_own(connection, update(STATE).where(_IS_FAMILIES).values(value=value))
