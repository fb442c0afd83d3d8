"""The triggers of SQLite that note what changes: one for each kind of change, for each row.

The notes of a transaction are all that lie in the outbox when it commits: there is one writer at a time, and what
others have left there is told once more, which is harmless.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.dialects import sqlite

from tidegate.proxy.tracking.notes import source_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.proxy.tracking.tracked_table import TrackedTable

PREFIX: Final = "tidegate_note_"
_DIALECT: Final[Any] = sqlite.dialect()
_quote: Final = _DIALECT.identifier_preparer.quote
_SIDES: Final = {"insert": ("NEW",), "update": ("OLD", "NEW"), "delete": ("OLD",)}


class TableTriggers:
    """Write the DDL of the triggers of one tracked table.

    Args:
        table: the table.
    """

    def __init__(self, table: TrackedTable) -> None:
        self._table: Final = table
        self.on: Final = _quote(table.table.name)
        self.fingerprint: Final = blake2b("\n".join(self._made("?")).encode(), digest_size=6).hexdigest()

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the triggers."""
        return tuple(f"{PREFIX}{self.fingerprint}_{what}" for what in _SIDES)

    def create_sql(self) -> list[str]:
        """Return the statements that make the triggers; they may be run again."""
        return self._made(self.fingerprint)

    def drop_sql(self) -> list[str]:
        """Return the statements that drop them."""
        return [f"DROP TRIGGER IF EXISTS {_quote(name)}" for name in self.names]

    def _made(self, fingerprint: str) -> list[str]:
        made = []
        for what, sides in _SIDES.items():
            rows = ", ".join(f"json_array({', '.join(self._levels(side))})" for side in sides)
            source = source_of(self._table, what).replace("'", "''")
            made.append(
                f"CREATE TRIGGER IF NOT EXISTS {PREFIX}{fingerprint}_{what} AFTER {what.upper()} ON {self.on} BEGIN "
                f"INSERT INTO tidegate_outbox (source, rows) VALUES ('{source}', json_array({rows})); END"
            )
        return made

    def _levels(self, side: str) -> list[str]:
        levels, key = [_object(self._table, side)], list[str]()
        for at, level in enumerate(self._table.levels[:-1]):
            if level.parent is None:
                break
            named = [_quote(level.fields[name].name) for name in level.parent.fields]
            found = _found(level, at, key) if at else ""
            key = [f"(SELECT l{at}.{name} {found})" if at else f"{side}.{name}" for name in named]
            above = level.parent.table
            levels.append(f"(SELECT {_object(above, f'l{at + 1}')} {_found(above, at + 1, key)})")
        return levels


def _found(level: TrackedTable, at: int, key: Sequence[str]) -> str:
    columns = [_quote(level.fields[name].name) for name in level.pk]
    where = " AND ".join(f"l{at}.{column} = {value}" for column, value in zip(columns, key, strict=True))
    return f"FROM {_quote(level.table.name)} l{at} WHERE {where}"


def _object(level: TrackedTable, source: str) -> str:
    pairs = ", ".join(
        "'{}', {}.{}".format(name.replace("'", "''"), source, _quote(column.name))
        for name, column in level.fields.items()
    )
    return f"json_object({pairs})"
