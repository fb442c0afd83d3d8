"""Which history a shard's database has, as this process knows it; and a new one is made where one is due.

Whoever finds the record bound to another life makes a new history before anything else (see
:mod:`~tidegate.proxy.database.history_record`). Its ordinal is above the recorded one and above the newest that was
named in the cache: so of two servers that were promoted one after the other, the later one has the newer history,
although neither has the record of the other.

Nothing here is asked for by a read. A connection is asked when it opens, a commit and the questions to the primary
bring the record with what they bring anyway, and the outbox's thread asks each time that it looks.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Any, Final

from tidegate.error_text import first_line
from tidegate.fork_hooks import reset_after_fork
from tidegate.interruptions import pass_interruption
from tidegate.position import UNKNOWN, AskedFor, History, HistoryRecord
from tidegate.proxy.database.driver_errors import driver_connection
from tidegate.proxy.database.history_record import ask, restore_tables, write_record
from tidegate.proxy.database.placement import forget_schema
from tidegate.routing.replicas.probe_sql import ended_here, in_transaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Dialect, Engine

    from tidegate.cache.store import Store
    from tidegate.proxy.database.history_record import Asked, Here, Life

_log: Final = logging.getLogger(__name__)
_LIVES_KEPT: Final = 64
_RESTORES: Final = 2
"""Somebody else may be making the tables just then: the first try fails, and the second names the database."""


class Histories:
    """Know the history of one shard's database in this process, and make a new one where one is due.

    Args:
        dialect: of the primary's engine.
        shard: the shard's name.
    """

    def __init__(self, dialect: Dialect, shard: str) -> None:
        self._dialect: Final = dialect
        self._shard: Final = shard
        self._store: Store | None = None
        self._database: str | None = None
        self._bound_to: str | None = None
        self._is_lost = False
        self._by_life: dict[Life, History] = {}
        self._left: frozenset[Life] = frozenset()
        self._times_forgotten = 0
        self._known = UNKNOWN if dialect.name == "postgresql" else History()
        self._highest = self._known.ordinal
        self._is_below = False
        self._newest: History | None = None
        self._told = False
        self._lock = threading.Lock()
        self._announced: History | None = None
        self.on_change: Callable[[], None] = lambda: None
        """Is called before another history is asked for."""
        self.moves = 0
        """How often a pooler was found to have moved connections to another life of the server."""
        self.asked: AskedFor = AskedFor(self._known)
        """Whose marks this process asks for; for an epoch the caller must see."""
        reset_after_fork(self._forked)

    def _forked(self) -> None:
        self._lock = threading.Lock()

    def join(self, database: str) -> None:
        """Take note of the id of the database that this gate has joined; what another one answers is none of ours."""
        self._database = database

    def use(self, store: Store) -> None:
        """Have new histories named in *store*. Without one none is made, as nobody stores anything then."""
        self._store = store

    def of(self, life: Life) -> History | None:
        """Return the history of a server in *life*; None if it is not known."""
        return self._by_life.get(life)

    def knows(self, history: History) -> bool:
        """Tell whether a server has said that this is a history of the database that was joined."""
        return self._dialect.name != "postgresql" or (not self._is_lost and history in self._by_life.values())

    def note(self, here: Here) -> History | None:
        """Take note of what a server has answered; an older history than one that was seen is another server's.

        Returns:
            Its history; None if it is not known, or of another database than the one that was joined.
        """
        life, history = here.life, here.history
        if self._dialect.name != "postgresql":
            return history
        if history is None or here.database != self._database:
            return None
        if self._by_life.get(life) == history == self._known:
            return history
        with self._lock:
            if len(self._by_life) >= _LIVES_KEPT:
                self._by_life = {}
            self._by_life[life] = history
            if life not in self._left:
                # Of a primary whose history was made when the cache had forgotten the newest: a newer one must be made.
                self._is_below = history.ordinal < self._highest
                if not self._is_below:
                    self._known, self._highest = history, history.ordinal
                    self._judge()
        return history

    @property
    def is_lost(self) -> bool:
        """Tell whether the database is another one by now than the gate was made for."""
        return self._is_lost

    def forget(self) -> None:
        """Forget the history until a server has answered: another one has become the primary.

        Questions may be under way to the server that was left. Their answers tell nothing of the new one.
        """
        with self._lock:
            if self._dialect.name == "postgresql":
                self._known, self._left = UNKNOWN, frozenset(self._by_life)
                self._times_forgotten += 1
                self._judge()

    def ask(self, raw: Any) -> Here | None:
        """Ask the server of a driver's connection, on which nothing is under way; commit.

        If its record is of another life, a new history is made first.

        Returns:
            Where it is; None for a standby.
        """
        times_forgotten = self._times_forgotten
        with ended_here(raw) as began_here:
            found = self._asked(raw)
            if found.standby:
                return None
            here = found.here
            if self._lost(found):
                return here._replace(history=None)
            if (here.history is None or here.database != self._database) and began_here:
                here = here._replace(history=self._make(raw, found, UNKNOWN), database=self._database or "")
        with self._lock:
            if times_forgotten == self._times_forgotten:  # it was asked after the last change: it is the new primary
                self._left -= {here.life}
        return here._replace(history=self.note(here))

    def _lost(self, found: Asked) -> bool:
        """Tell whether a primary's database is another one than was joined, under its name: made anew, or a copy."""
        if self._database is None:
            self._bound_to = found.bound_to
            return False
        if found.database == f"{self._database} {found.bound_to}":
            return False
        if not self._is_lost:
            self._warn(
                "the database behind this gate is another one than the gate was made for: it was dropped and made "
                "anew, or is a copy. Nothing is cached any more; start the program again"
            )
        with self._lock:
            self._is_lost = True
            self._judge()
        return True

    def renew(self, engine: Engine, than: History) -> None:
        """Make a history that is newer than *than*: another database has one of the same ordinal, or the log went back.

        Nothing is done if the record is newer by now.
        """
        with engine.connect() as connection, driver_connection(connection) as raw:
            self.make_newer(raw, than)

    def make_newer(self, raw: Any, than: History) -> None:
        """Do as :meth:`renew` does, on a driver's connection on which nothing is under way."""
        with ended_here(raw):
            found = self._asked(raw)
            if found.standby or self._lost(found):
                return
            recorded = HistoryRecord.of_text(found.record)
            if recorded is None or recorded.history.ordinal <= than.ordinal:
                made = self._make(raw, found, than)
                self.note(found.here._replace(history=made, database=self._database or ""))

    def meet(self) -> History | None:
        """Tell the cache what is known here, and learn what others have named.

        Returns:
            One that is not older than that of our primary, and not the same: a newer history must be made.

        Raises:
            StoreUnavailable: the cache does not answer.
        """
        known = self._known
        if known is UNKNOWN and self._is_below:
            return History(self._highest)
        if self._store is None or known is UNKNOWN or self._dialect.name != "postgresql":
            return None
        newest = self._store.newest_history(self._shard, known)
        with self._lock:
            self._newest = newest
            self._judge()
        if newest is not None and newest.ordinal == known.ordinal and newest != known:
            return newest
        return None

    def _asked(self, raw: Any) -> Asked:
        found = self._ask_once(raw)
        if found.database is None and self._database is not None and not found.standby and not in_transaction(raw):
            # Our tables were there. They may have moved with the tracked ones; or somebody has removed them.
            forget_schema(self._dialect)
            found = self._ask_once(raw)
            for _ in range(_RESTORES):
                if found.database is None:
                    self._restore(raw, found)
                    found = self._ask_once(raw)
        return found

    def _ask_once(self, raw: Any) -> Asked:
        return ask(raw, self._dialect)

    def _write(self, raw: Any, instead_of: str | None, text: str) -> str | None:
        return write_record(raw, self._dialect, instead_of, text)

    def _restore(self, raw: Any, found: Asked) -> None:
        """Make the tables again, and name this database as before; not another one of its name."""
        named = f"{self._database} {found.bound_to}" if found.bound_to == self._bound_to else None
        try:
            restore_tables(raw, self._dialect, named)
        except Exception as error:  # noqa: BLE001  # no right: then commits of tracked rows say what is missing
            raw.rollback()
            pass_interruption(error)
            _log.error("the tables of Tidegate are gone, and cannot be made: %s", first_line(error))

    def _make(self, raw: Any, found: Asked, than: History) -> History | None:
        """Record a new history in place of what was found; None if the cache cannot be asked for the newest."""
        if self._store is None or self._database is None:
            return None
        try:
            return self._made(raw, found, than, self._store.newest_history(self._shard))
        except Exception as error:  # noqa: BLE001  # no cache, or no right: then nobody stores anything
            pass_interruption(error)
            why = first_line(error)
            _log.warning("the history of this database cannot be recorded now, so nothing is cached: %s", why)
            return None

    def _made(self, raw: Any, found: Asked, than: History, newest: History | None) -> History | None:
        life, recorded = found.here.life, HistoryRecord.of_text(found.record)
        before = [than, *([newest] if newest else []), *([recorded.history] if recorded else [])]
        made = History(max(0, *(history.ordinal for history in before)) + 1, os.urandom(8).hex())
        record = HistoryRecord(made, life.timeline, life.started, found.counts_since, self._database or "")
        written = HistoryRecord.of_text(self._write(raw, found.record, record.text()))
        if written is None or written[1:] != record[1:]:
            return None
        if self._store is not None:  # at once: the next that is made, on whichever server, must be above it
            self._store.newest_history(self._shard, written.history)
        # Nobody need do anything, and a program's tests may empty a table between any two of them: not for all to read.
        _log.debug("the history of this database is %s now", written.history.text())
        return written.history

    def _warn(self, what: str) -> None:
        _log.error(what)

    def _judge(self) -> None:
        newest, known = self._newest, self._known
        behind = newest is not None and newest.ordinal > known.ordinal and known is not UNKNOWN
        if known not in {UNKNOWN, self._announced}:
            self._announced = known
            self.on_change()  # first: as soon as it is asked for, answers may be stored for it
        self.asked = AskedFor(UNKNOWN if behind or self._is_lost else known)
        if behind and not self._told:
            self._warn(
                "the cache has marks of a newer history of this database than this server has: another server was "
                "promoted, and this gate was left behind on the old one. It reads from there, stores nothing, and "
                "writes into the outbox. If this server is the right one, run 'tidegate init --new-history' on it"
            )
        self._told = behind
