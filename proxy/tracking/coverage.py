"""Which tracked tables have their triggers, on each database of a gate: what no trigger watches is not cached."""

from __future__ import annotations

import logging
import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import DBAPIError

from tidegate.error_text import first_line
from tidegate.proxy.tracking.triggers import make_triggers, missing_triggers, note_gone

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from sqlalchemy import Engine

    from tidegate.proxy.tracking.tracked_tables import Tables
    from tidegate.proxy.tracking.triggers import Missing

_log: Final = logging.getLogger(__name__)
_AGAIN_S: Final = 30.0
"""How often the triggers are looked for, in seconds."""
_SOON_S: Final = 1.0
"""How often they are while a table lacks them, or is not there yet, in seconds."""

Key = tuple[str | None, str]


class Coverage:
    """Make the triggers of the tracked tables where they are missing, and know which tables have none.

    Args:
        tables: all that is tracked.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, tables: Tables, clock: Callable[[], float] = time.monotonic) -> None:
        self.tables: Final = tables
        self._clock: Final = clock
        self._by_shard: dict[str, frozenset[Key]] = {}
        self._due_s: dict[str, float] = {}
        self._said: dict[str, str] = {}
        self.uncovered: frozenset[Key] = frozenset()
        """The tables that lack triggers on one of the databases, by schema and name."""

    def expect(self, shard: str) -> None:
        """Count every table as uncovered on a database until :meth:`look` has been there."""
        self._set(shard, (table.key for table in self.tables))
        self._due_s[shard] = -math.inf

    def covers(self, keys: Collection[Key]) -> bool:
        """Tell whether all of these tables have their triggers."""
        return self.uncovered.isdisjoint(keys)

    def look(self, shard: str, engine: Engine, *, now: bool = False) -> None:
        """Look for the triggers in a database if it is time to, and make those that are missing.

        Args:
            shard: the shard's name.
            engine: its primary's engine.
            now: whether it is time in any case.

        Raises:
            DBAPIError: the database does not answer.
        """
        if not now and self._clock() < self._due_s.get(shard, -math.inf):
            return
        missing = missing_triggers(engine, self.tables)
        left = [found for found in missing if not found.on]
        try:
            if made := make_triggers(engine, missing):
                _log.info("made the triggers that note changes of %s", ", ".join(made))
        except DBAPIError as error:
            left = missing_triggers(engine, self.tables)  # some were made before it failed
            self._say(shard, missing, error)
        else:
            self._said.pop(shard, None)
        with suppress(DBAPIError):  # the next look does it
            note_gone(engine, self.tables)
        self._set(shard, (found.table.key for found in left))
        self._due_s[shard] = self._clock() + (_SOON_S if left else _AGAIN_S)

    def _set(self, shard: str, keys: Iterable[Key]) -> None:
        self._by_shard[shard] = frozenset(keys)
        self.uncovered = frozenset().union(*self._by_shard.values())

    def _say(self, shard: str, missing: list[Missing], error: DBAPIError) -> None:
        names = ", ".join(dict.fromkeys(found.on for found in missing if found.on))
        said = (
            f"the triggers that note changes of {names} are missing, and this user may not make them "
            f"({first_line(error)}): answers that depend on these tables are not cached. Run 'tidegate init' as the "
            "owner of the tables, or grant this user TRIGGER on them, and CREATE on their schema"
        )
        if self._said.get(shard) != said:
            self._said[shard] = said
            _log.error("%s", said)
