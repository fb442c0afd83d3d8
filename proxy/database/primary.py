"""What the root recovery asks of a primary, as SQL; and what replaces it on databases without transaction ids."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from tidegate.cache.root_recovery import Ended, OldestRunning, Transaction
from tidegate.errors import NoNodeAvailable
from tidegate.position import NOWHERE, AskedFor, History, Origin
from tidegate.proxy.database.driver_errors import driver_connection
from tidegate.proxy.database.history_record import HERE, PLACE, Here, Life, here_of
from tidegate.proxy.database.origins import is_of_another
from tidegate.proxy.database.placement import schema_of, state_table
from tidegate.routing.replicas.probe_sql import row_or

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from sqlalchemy import Connection, Engine

    from tidegate.position import Position
    from tidegate.proxy.database.histories import Histories

_HERE: Final = f"SELECT {HERE}"
_TRANSACTION: Final = "pg_current_xact_id()::text, "
_OLDEST: Final = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text"
# An id that this server has not given out yet comes from another history: no transaction here has it, and
# pg_xact_status would raise. The snapshot's xmax cannot tell whether an id was given out: it is one above the last
# *completed* id, and transactions that run or are prepared may have ids above it. An id of our own can tell: all ids
# below it were given out. Once our transaction has ended, xmax is above that id, so the next question uses up no id.
_IN_PROGRESS: Final = (
    "SELECT x FROM unnest(%s::text[]) x WHERE CASE"
    " WHEN x::xid8 < pg_snapshot_xmax(pg_current_snapshot()) OR x::xid8 < pg_current_xact_id()"
    " THEN pg_xact_status(x::xid8) = 'in progress' ELSE false END"
)


def here(connection: Connection) -> Here:
    """Return where the log of a primary is now, and which history it has, in one statement."""
    if connection.dialect.name != "postgresql":
        return Here(NOWHERE, History(), Life(0, ""))
    ((*row,),) = connection.exec_driver_sql(_placed(connection, _HERE)).all()
    return here_of(row)


def _placed(connection: Connection, sql: str) -> str:
    schema_of(connection)
    return sql.format(state=state_table(connection.dialect))


def _place(connection: Connection, before: str = "") -> Sequence[str]:
    """Return the columns *before*, and where the log is; no history where our tables are gone: no read fails by that.

    Args:
        connection: to the primary.
        before: columns, each with a comma behind it.
    """
    sql = _placed(connection, f"SELECT {before}{HERE}")
    with driver_connection(connection) as raw:
        row: Sequence[str] = row_or(raw, sql, f"SELECT {before}{PLACE}, NULL")
    return row


class PostgresPrimary:
    """Answer the questions of the root recovery for the primary of one shard.

    Args:
        engine: the primary's engine; each question is a transaction of its own on it.
        shard: the shard's name.
        histories: knows the history of its database.
    """

    def __init__(self, engine: Engine, shard: str, histories: Histories) -> None:
        self._engine = engine
        self._shard = shard
        self._histories = histories

    def asked(self, _tenant: str) -> AskedFor:
        """Return whose marks this process asks for; there is only one shard."""
        return self._histories.asked

    def origin(self, _tenant: str) -> Origin | None:
        """Return whose data the primary holds. It is asked each time, since a failover may have come in between."""
        history = self.here().history
        return None if history is None else Origin(0, history, self._shard)

    def here(self) -> Here:
        """Return where the primary's log is now and which history it has, after making a new one if that is due.

        Raises:
            NoNodeAvailable: the server is a standby.
        """
        with self._engine.connect() as connection:
            with driver_connection(connection) as raw:
                found = self._histories.ask(raw)
            if found is not None and is_of_another(connection.info, found.life):
                self._histories.moves += 1
        if found is None:
            raise NoNodeAvailable("the server is a standby, and no other is known to be the primary")
        return found

    def transaction(self, _tenant: str) -> Transaction:
        """Return a transaction id that no transaction had yet, the position, and the history."""
        with self._engine.connect() as connection:
            xid, *row = _place(connection, _TRANSACTION)
        return Transaction(xid, *self._noted(here_of(row)))

    def oldest_running(self, _tenant: str) -> OldestRunning:
        """Return the id below which all transactions have ended, and the position and history read after that."""
        with self._engine.connect() as connection:
            ((xmin,),) = connection.exec_driver_sql(_OLDEST).all()
            return OldestRunning(int(xmin), *self._noted(here_of(_place(connection))))

    def ended(self, _tenant: str, xids: Collection[str]) -> Ended:
        """Return those of *xids* that are not in progress, and the position and history read after that."""
        decimal = [xid for xid in xids if xid.isdecimal()]
        with self._engine.connect() as connection:
            running = {row[0] for row in connection.exec_driver_sql(_IN_PROGRESS, (decimal,))}
            return Ended([xid for xid in xids if xid not in running], *self._noted(here_of(_place(connection))))

    def _noted(self, found: Here) -> tuple[Position, History | None]:
        return found.position, self._histories.note(found)

    def renew(self, _tenant: str, than: History) -> None:
        """Make a history of the primary's database that is newer than *than*."""
        self._histories.renew(self._engine, than)


class ClockPrimary:
    """Answer for a database that cannot tell how a transaction ended: it has ended once it is older than a time-out.

    Args:
        shard: the shard's name.
        timeout_s: how long a transaction of this database may take, in seconds.
        now_ms: returns the wall clock in milliseconds.
    """

    def __init__(
        self, shard: str, timeout_s: float, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self._origin = Origin(0, History(), shard)
        self._timeout_ms = int(timeout_s * 1000)
        self._now_ms = now_ms

    def asked(self, _tenant: str) -> AskedFor:
        """Return the one history that such a database has here."""
        return AskedFor(self._origin.history)

    def origin(self, _tenant: str) -> Origin:
        """Return the origin, which never changes."""
        return self._origin

    def here(self) -> Here:
        """Return ``NOWHERE``, and the one history."""
        return Here(NOWHERE, self._origin.history, Life(0, ""))

    def transaction(self, _tenant: str) -> Transaction:
        """Return the time in milliseconds in place of a transaction id, and ``NOWHERE``."""
        return Transaction(str(self._now_ms()), NOWHERE, self._origin.history)

    def oldest_running(self, _tenant: str) -> OldestRunning:
        """Return the time from which a transaction may still run, in milliseconds, and ``NOWHERE``."""
        return OldestRunning(self._now_ms() - self._timeout_ms + 1, NOWHERE, self._origin.history)

    def ended(self, _tenant: str, xids: Collection[str]) -> Ended:
        """Return those of *xids*, made by :func:`clock_xid`, that began before the time-out; and ``NOWHERE``."""
        before = self._now_ms() - self._timeout_ms
        ended = [xid for xid in xids if int(xid.partition("-")[0]) <= before]
        return Ended(ended, NOWHERE, self._origin.history)

    def renew(self, _tenant: str, _than: History) -> None:
        """Do nothing: there is no other history."""


def clock_xid(nonce: str) -> str:
    """Make an id for a transaction of a database that has none: the time in milliseconds, and *nonce*."""
    return f"{time.time_ns() // 1_000_000}-{nonce}"
