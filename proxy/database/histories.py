"""Which history a shard's database has: recorded in the database itself, and known in this process.

The record is a row of ``tidegate_state``. It is bound to the life of the server: its timeline, and when it was started.
A promotion begins a new timeline. Data can go back, to a backup or to a snapshot of the volume, only while the server
is stopped; and once it runs again, its log may soon be as long as before. So whoever finds the record bound to another
life makes a new history before anything else. Its ordinal is above the recorded one and above the newest that was named
in the cache: so of two servers that were promoted one after the other, the later one has the newer history, although
neither has the record of the other.

Nothing here is asked for by a read. A connection is asked when it opens, a commit and the questions to the primary
bring the record with what they bring anyway, and the outbox's thread asks each time that it looks.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tidegate.position import UNKNOWN, AskedFor, History, HistoryRecord, Position
from tidegate.proxy.database.placement import find_schema, state_table
from tidegate.proxy.database.schema import ddl
from tidegate.routing.replicas.probe_sql import in_transaction, row_or
from tidegate.routing.threads.fork_hooks import reset_after_fork

if TYPE_CHECKING:
    from sqlalchemy import Dialect, Engine

    from tidegate.cache.store import Store

_log: Final = logging.getLogger(__name__)
NAME: Final = "history"
"""The name of the row: ordinal, token, timeline, when the server was started, and the id of the database."""
_STARTED: Final = "extract(epoch FROM pg_postmaster_start_time())::numeric::text"
_RECORD: Final = "(SELECT value FROM {state} WHERE name = 'history')"
_DATABASE: Final = "(SELECT value FROM {state} WHERE name = 'database')"
PLACE: Final = f"pg_current_wal_insert_lsn()::text, pg_walfile_name(pg_current_wal_insert_lsn()), {_STARTED}"
"""The columns that tell where a primary's log is, and of which life it is."""
HERE: Final = f"{PLACE}, {_RECORD}"
"""The columns that tell where a primary's log is and which history it has, with a place for the table of named facts.
"""
_ASK: Final = (
    "SELECT pg_is_in_recovery(), CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn()::text END,"
    " CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_insert_lsn()) END,"
    f" {_STARTED}, {_RECORD}, {_DATABASE}"
)
_BARE: Final = _ASK.replace(_RECORD, "NULL").replace(_DATABASE, "NULL")
_REPLACE: Final = "UPDATE {state} SET value = %s WHERE name = 'history' AND value = %s"
_INSERT: Final = "INSERT INTO {state} (name, value) VALUES ('history', %s) ON CONFLICT (name) DO NOTHING"
_LIVES_KEPT: Final = 64


class Life(NamedTuple):
    """One run of a server as a primary: the timeline that it writes, and when it was started."""

    timeline: int
    started: str


class Here(NamedTuple):
    """Where a primary's log was, and which history it had; None: its record is none, or of another life.

    *database* is the id of the database by that record.
    """

    position: Position
    history: History | None
    life: Life
    database: str = ""


def here_of(row: Any) -> Here:
    """Return what a row of the columns :data:`HERE` says."""
    lsn, file, started, text = row
    position, record = Position.parse(lsn, file), HistoryRecord.of_text(text)
    life = Life(position.timeline, started)
    if record is None or (record.timeline, record.started) != life:
        return Here(position, None, life)
    return Here(position, record.history, life, record.database)


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
        self._is_lost = False
        self._by_life: dict[Life, History] = {}
        self._left: frozenset[Life] = frozenset()
        self._times_forgotten = 0
        self._known = UNKNOWN if dialect.name == "postgresql" else History()
        self._highest = self._known.ordinal
        self._newest: History | None = None
        self._told = False
        self._lock = threading.Lock()
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
        return self._dialect.name != "postgresql" or history in self._by_life.values()

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
            if history.ordinal >= self._highest and life not in self._left:
                self._known, self._highest = history, history.ordinal
                self._judge()
        return history

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
        # A transaction that is open is a listener's of the program: to end it would undo what it has set.
        began_here, times_forgotten = not in_transaction(raw), self._times_forgotten
        try:
            row = self._asked(raw)
            if row[0]:
                return None
            here = here_of(row[1:5])
            if self._lost(row[5]):
                return here._replace(history=None)
            if here.history is None and began_here:
                here = here._replace(history=self._make(raw, row[4], here.life, UNKNOWN), database=self._database or "")
        finally:
            if began_here:
                raw.rollback()
        with self._lock:
            if times_forgotten == self._times_forgotten:  # it was asked after the last change: it is the new primary
                self._left -= {here.life}
        return here._replace(history=self.note(here))

    def _lost(self, named: str | None) -> bool:
        """Tell whether a primary's database is another one than was joined: dropped and made anew under its name."""
        if self._database is None or (named or "").split(" ")[0] == self._database:
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
        with engine.connect() as connection:
            self.make_newer(connection.connection.dbapi_connection, than)

    def make_newer(self, raw: Any, than: History) -> None:
        """Do as :meth:`renew` does, on a driver's connection on which nothing is under way."""
        try:
            row = self._asked(raw)
            if row[0] or self._lost(row[5]):
                return
            here, recorded = here_of(row[1:5]), HistoryRecord.of_text(row[4])
            if recorded is None or recorded.history.ordinal <= than.ordinal:
                made = self._make(raw, row[4], here.life, than)
                self.note(here._replace(history=made, database=self._database or ""))
        finally:
            raw.rollback()

    def meet(self) -> History | None:
        """Tell the cache what is known here, and learn what others have named.

        Returns:
            One with the ordinal of ours and another token, if such a one was named: a newer history must be made.

        Raises:
            StoreUnavailable: the cache does not answer.
        """
        known = self._known
        if self._store is None or known is UNKNOWN or self._dialect.name != "postgresql":
            return None
        newest = self._store.newest_history(self._shard, known)
        with self._lock:
            self._newest = newest
            self._judge()
        if newest is not None and newest.ordinal == known.ordinal and newest != known:
            return newest
        return None

    def _asked(self, raw: Any) -> Any:
        self._schema(raw)
        asked, bare = _ASK.format(state=state_table(self._dialect)), _BARE
        row = row_or(raw, asked, bare)
        if row[5] is None and self._database is not None and not in_transaction(raw):
            self._restore_tables(raw)  # the tables were there, if they are not: commits ask them
        return row

    def _schema(self, raw: Any) -> str | None:
        return find_schema(self._dialect, lambda sql, given: _run(raw, sql, given))

    def _restore_tables(self, raw: Any) -> None:
        try:
            for statement in ddl(schema=self._schema(raw)):
                _run(raw, statement)
            raw.commit()
        except Exception as error:  # noqa: BLE001  # no right: then commits of tracked rows say what is missing
            raw.rollback()
            _log.error("the tables of Tidegate are gone, and cannot be made: %s", error)  # one line

    def _make(self, raw: Any, record: str | None, life: Life, than: History) -> History | None:
        """Record a new history for *life* in place of *record*; None if the cache cannot be asked for the newest."""
        if self._store is None or self._database is None:
            return None
        try:
            return self._made(raw, record, life, than, self._store.newest_history(self._shard))
        except Exception as error:  # noqa: BLE001  # no cache, or no right: then nobody stores anything
            _log.warning("the history of this database cannot be recorded now, so nothing is cached: %s", error)
            return None

    def _made(self, raw: Any, record: str | None, life: Life, than: History, newest: History | None) -> History | None:
        recorded = HistoryRecord.of_text(record)
        before = [than, *([newest] if newest else []), *([recorded.history] if recorded else [])]
        made = History(max(0, *(history.ordinal for history in before)) + 1, os.urandom(8).hex())
        text = HistoryRecord(made, life.timeline, life.started, self._database or "").text()
        written = HistoryRecord.of_text(self._write(raw, record, text))
        if written is None or (written.timeline, written.started) != life:
            return None
        if self._store is not None:  # at once: the next that is made, on whichever server, must be above it
            self._store.newest_history(self._shard, written.history)
        _log.info("the history of this database is %s now: the server was started or promoted", written.history.text())
        return written.history

    def _write(self, raw: Any, instead_of: str | None, text: str) -> str | None:
        """Write a record instead of another one, and return the one that is there: another gate may be faster."""
        state = state_table(self._dialect)
        if instead_of is None:
            _run(raw, _INSERT.format(state=state), (text,))
        else:
            _run(raw, _REPLACE.format(state=state), (text, instead_of))
        raw.commit()
        found = _run(raw, f"SELECT {_RECORD}".format(state=state))
        written: str | None = found[0][0]
        return written

    def _warn(self, what: str) -> None:
        _log.error(what)

    def _judge(self) -> None:
        newest, known = self._newest, self._known
        behind = newest is not None and newest.ordinal > known.ordinal and known is not UNKNOWN
        self.asked = AskedFor(UNKNOWN if behind or self._is_lost else known)
        if behind and not self._told:
            self._warn(
                "the cache has marks of a newer history of this database than this server has: another server was "
                "promoted, and this gate was left behind on the old one. It reads from there, stores nothing, and "
                "writes into the outbox. If this server is the right one, run 'tidegate init --new-history' on it"
            )
        self._told = behind


def _run(raw: Any, sql: str, given: Any = None) -> list[Any]:
    cursor = raw.cursor()
    try:
        if given is None:
            cursor.execute(sql)
        else:
            cursor.execute(sql, given)
        return list(cursor.fetchall()) if cursor.description else []
    finally:
        cursor.close()
