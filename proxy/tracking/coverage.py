"""Which tracked tables have their triggers, on each database of a gate: what no trigger watches is not cached."""

from __future__ import annotations

import logging
import math
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import DBAPIError

from tidegate.error_text import first_line
from tidegate.fork_hooks import reset_after_fork
from tidegate.proxy.tracking.families import note_changed_families
from tidegate.proxy.tracking.rights import how_to_make, needed_grants
from tidegate.proxy.tracking.tracked_tables import keys_of
from tidegate.proxy.tracking.triggers import make_triggers, missing_triggers
from tidegate.repositories.policies import Read

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from sqlalchemy import Engine

    from tidegate.proxy.tracking.model_tables import Key
    from tidegate.proxy.tracking.tracked_tables import Tables
    from tidegate.proxy.tracking.triggers import Missing
    from tidegate.repositories.policies import Policy, Tracked

_log: Final = logging.getLogger(__name__)
_AGAIN_S: Final = 30.0
"""How often the triggers are looked for, in seconds."""
_SOON_S: Final = 1.0
"""How often they are while a table is not there yet, in seconds."""
_SOON_TIMES: Final = 60
"""How many times they are: a release of a host may lack a table for good."""


def cached_methods(repository: str, policies: Mapping[str, Policy]) -> tuple[str, ...]:
    """Return the methods of a repository that are cached, with its name before them."""
    cached = (name for name, policy in policies.items() if isinstance(policy, Read) and policy.guard is not None)
    return tuple(f"{repository}.{name}" for name in cached)


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
        self._soon: dict[str, int] = {}
        self._doubts: dict[str, int] = {}
        self._lock = threading.Lock()
        self._said: dict[str, str] = {}
        self._advice: dict[str, str] = {}
        self._users: dict[str, tuple[frozenset[Key], tuple[str, ...]]] = {}
        self.uncovered: frozenset[Key] = frozenset()
        """The tables that lack triggers on one of the databases, by schema and name."""
        reset_after_fork(self._forked)

    def _forked(self) -> None:
        self._lock = threading.Lock()

    def covers(self, keys: Collection[Key]) -> bool:
        """Tell whether all of these tables have their triggers."""
        return self.uncovered.isdisjoint(keys)

    def note_repository(self, repository: str, policies: Mapping[str, Policy], tracked: Iterable[Tracked]) -> None:
        """Note which methods of a repository are cached, as long as all its tables have their triggers.

        Args:
            repository: the name of its class.
            policies: those of its methods.
            tracked: what its answers depend on.
        """
        self._users[repository] = (
            frozenset(key for row in tracked for key in keys_of(row.model)),
            cached_methods(repository, policies),
        )

    @property
    def uncached(self) -> list[str]:
        """Return the methods that are not cached now, since a table that they depend on has no triggers."""
        users = self._users.values()
        return [name for keys, methods in users if keys & self.uncovered for name in methods]

    @property
    def advice(self) -> str:
        """Return how to make the triggers that this gate could not make; "": it could, or has not tried yet."""
        return "; ".join(dict.fromkeys(self._advice.values()))

    def ensure(self, shard: str, engine: Engine) -> None:
        """Look for the triggers in a database, if this process never has: before its first use.

        Raises:
            DBAPIError: the database does not answer.
        """
        if shard not in self._by_shard:
            self.look(shard, engine, now=True)

    def doubt(self, shard: str) -> None:
        """Count all tables of a database as uncovered until :meth:`look` has been at it: it has another history.

        A promotion may have lost the transaction that made triggers, and a backup may be of before it.
        """
        with self._lock:
            self._doubts[shard] = self._doubts.get(shard, 0) + 1
            self._due_s[shard] = -math.inf
            self._by_shard[shard] = frozenset(table.key for table in self.tables)
            self.uncovered = frozenset().union(*self._by_shard.values())

    def add(self, tracked: Iterable[Tracked]) -> None:
        """Track more models; their tables count as uncovered until :meth:`look` has been at every database.

        Raises:
            PolicyError: as for :meth:`Tables.add`.
        """
        known = {table.said() for table in self.tables}
        self.tables.add(tracked)
        new = frozenset(table.key for table in self.tables if table.said() not in known)
        for shard, uncovered in tuple(self._by_shard.items()):
            self._set(shard, uncovered | new)
            self._due_s[shard] = -math.inf

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
        doubts = self._doubts.get(shard, 0)
        self._due_s[shard] = self._clock() + _AGAIN_S  # also where something fails
        missing = missing_triggers(engine, self.tables)
        # A table that is not there has no rows that anything could depend on.
        left, made = [found for found in missing if found.on], []
        try:
            if made := make_triggers(engine, missing):
                _log.info("made the triggers that note changes of %s", ", ".join(made))
        except DBAPIError as error:
            left = [found for found in missing_triggers(engine, self.tables) if found.on]  # some were made before
            self._set(shard, (found.table.key for found in left), doubts)
            self._say(shard, engine, left, error)
        else:
            left = [found for found in missing if found.on and not found.create]
            self._said.pop(shard, None)
            self._advice.pop(shard, None)
        with suppress(DBAPIError):  # the next look does it
            note_changed_families(engine, self.tables)
        self._set(shard, (found.table.key for found in left), doubts)
        if left or len(missing) == len(made):
            self._soon.pop(shard, None)
        elif (times := self._soon.get(shard, 0)) < _SOON_TIMES:
            self._soon[shard] = times + 1
            self._due_s[shard] = min(self._due_s[shard], self._clock() + _SOON_S)

    def _set(self, shard: str, keys: Iterable[Key], doubts: int | None = None) -> None:
        with self._lock:
            if doubts is not None and doubts != self._doubts.get(shard, 0):
                return  # what was found may be of the database before
            self._by_shard[shard] = frozenset(keys)
            self.uncovered = frozenset().union(*self._by_shard.values())

    def _say(self, shard: str, engine: Engine, missing: Sequence[Missing], error: DBAPIError) -> None:
        names = list(dict.fromkeys(found.on for found in missing))
        with suppress(DBAPIError):
            self._advice[shard] = how_to_make(needed_grants(engine, names))
        said = (
            f"the triggers that note changes of {', '.join(names)} are missing, and could not be made "
            f"({first_line(error)}): {', '.join(self.uncached) or 'answers that depend on these tables'} are not "
            f"cached; {self.advice}"
        )
        if self._said.get(shard) != said:
            self._said[shard] = said
            _log.error("%s", said)
