"""The SQL of the rows that a trigger of PostgreSQL notes: their values, those of their parents, and whose they are.

The row itself is ``l0``, its parent ``l1``, and so on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Date, DateTime, TypeDecorator

from tidegate.proxy.database.note_functions import literal, qualified, quoted
from tidegate.proxy.tracking.notes import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Column

    from tidegate.proxy.tracking.tracked_table import TrackedTable


class RowSql:
    """Write the SQL about rows of one tracked table.

    Args:
        table: the table.
        own_schema: the schema of Tidegate's own tables; None: where the search path leads.
    """

    def __init__(self, table: TrackedTable, own_schema: str | None) -> None:
        self._table = table
        self._own = own_schema

    def columns(self) -> list[str]:
        """Return the columns of the row itself that a note needs, quoted."""
        # Two fields may be one column: a key has a name in each class.
        return list(dict.fromkeys(quoted(column.name) for column in self._table.fields.values()))

    def as_json(self) -> str:
        """Return the SQL of a row of a note: the values of the row, and of its parents."""
        levels = []
        for at, level in enumerate(self._table.levels):
            pairs = ", ".join(
                f"{literal(name)}, {_value(f'l{at}.{quoted(column.name)}', column)}"
                for name, column in level.fields.items()
            )
            built = f"json_build_object({pairs})"
            levels.append(built if at == 0 else f"CASE WHEN {_key(at, level)[0]} IS NOT NULL THEN {built} END")
        return f"json_build_array({', '.join(levels)})"

    def joins(self) -> str:
        """Return the SQL that joins parents."""
        joined = ""
        for at, level in enumerate(self._table.levels[:-1]):
            if level.parent is not None:
                above = level.parent.table
                name = qualified(above.table.schema or self._own, above.table.name)
                pairs = zip(_key(at + 1, above), _columns(at, level, level.parent.fields), strict=True)
                joined += f" LEFT JOIN {name} l{at + 1} ON {' AND '.join(f'{key} = {named}' for key, named in pairs)}"
        return joined

    def tenant(self) -> str:
        """Return the SQL of the tenant; null: the parent that would tell is not there."""
        found = [
            f"l{at}.{quoted(level.fields[level.tenant].name)}"
            for at, level in enumerate(self._table.levels)
            if level.tenant is not None
        ]
        return f"{found[0]}::text"

    def lost(self) -> str:
        """Return the SQL that tells of a row whether it names a parent that is not there, and so is nobody's."""
        levels = self._table.levels
        broken = [
            f"{named} AND {_key(at + 1, levels[at + 1])[0]} IS NULL"
            for at, level in enumerate(levels)
            if (named := _names(at, level)) and not any(below.tenant for below in levels[: at + 1])
        ]
        return " OR ".join(broken) or "false"


def _columns(at: int, level: TrackedTable, names: Sequence[str]) -> list[str]:
    """Return the SQL of some fields of a level."""
    return [f"l{at}.{quoted(level.fields[name].name)}" for name in names]


def _key(at: int, level: TrackedTable) -> list[str]:
    return _columns(at, level, level.pk)


def _names(at: int, level: TrackedTable) -> str:
    """Return the SQL that tells whether a row names a parent; "": it has none by its kind."""
    named = level.parent.fields if level.parent else ()
    return " AND ".join(f"{column} IS NOT NULL" for column in _columns(at, level, named))


def _value(sql: str, column: Column[Any]) -> str:
    """Return the SQL of a value as a note has it: dates in ISO form and UTC, whatever the session's settings."""
    kind: Any = column.type.impl if isinstance(column.type, TypeDecorator) else column.type
    if not isinstance(kind, Date | DateTime):
        return sql
    form = "YYYY-MM-DD" if isinstance(kind, Date) else 'YYYY-MM-DD"T"HH24:MI:SS.US'
    there = f"{sql} AT TIME ZONE 'UTC'" if getattr(kind, "timezone", False) else sql
    readable = f"{sql} >= '0001-01-03' AND {sql} < '9999-12-30'"
    return f"CASE WHEN {sql} IS NULL THEN NULL WHEN {readable} THEN to_char({there}, '{form}') ELSE '{UNREADABLE}' END"
