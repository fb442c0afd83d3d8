"""What the root recovery asks of a primary, as SQL; and what replaces it on databases without transaction ids."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from tidegate.position import NOWHERE, Origin, Position

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sqlalchemy import Engine

_HERE: Final = "pg_current_wal_insert_lsn()::text, pg_walfile_name(pg_current_wal_insert_lsn())"
_POSITION: Final = f"SELECT {_HERE}"
_TRANSACTION: Final = f"SELECT pg_current_xact_id()::text, {_HERE}"
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


class PostgresPrimary:
    """Answer the questions of the root recovery for the primary of one shard.

    Args:
        engine: the primary's engine; each question is a transaction of its own on it.
        shard: the shard's name.
    """

    def __init__(self, engine: Engine, shard: str) -> None:
        self._engine = engine
        self._shard = shard

    def epoch(self, _tenant: str) -> int:
        """Return 0: there is only one shard."""
        return 0

    def origin(self, _tenant: str) -> Origin:
        """Return whose data the primary holds. It is asked each time, since a failover may have come in between."""
        return Origin(0, self._position().timeline, self._shard)

    def transaction(self, _tenant: str) -> tuple[str, Position]:
        """Return a transaction id that no transaction had yet, and the position."""
        ((xid, lsn, file),) = self._rows(_TRANSACTION)
        return xid, Position.parse(lsn, file)

    def oldest_running(self, _tenant: str) -> tuple[int, Position]:
        """Return the id below which all transactions have ended, and the position read after that."""
        ((xmin,),) = self._rows(_OLDEST)
        return int(xmin), self._position()

    def ended(self, _tenant: str, xids: Collection[str]) -> tuple[Collection[str], Position]:
        """Return those of *xids* that are not in progress, and the position read after that."""
        decimal = [xid for xid in xids if xid.isdecimal()]
        running = {row[0] for row in self._rows(_IN_PROGRESS, (decimal,))}
        return [xid for xid in xids if xid not in running], self._position()

    def _position(self) -> Position:
        ((lsn, file),) = self._rows(_POSITION)
        return Position.parse(lsn, file)

    def _rows(self, sql: str, parameters: Any = None) -> list[Any]:
        with self._engine.connect() as connection:
            return list(connection.exec_driver_sql(sql, parameters))


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
        self._origin = Origin(0, 0, shard)
        self._timeout_ms = int(timeout_s * 1000)
        self._now_ms = now_ms

    def epoch(self, _tenant: str) -> int:
        """Return 0: there is only one shard."""
        return 0

    def origin(self, _tenant: str) -> Origin:
        """Return the origin, which never changes."""
        return self._origin

    def transaction(self, _tenant: str) -> tuple[str, Position]:
        """Return the time in milliseconds in place of a transaction id, and ``NOWHERE``."""
        return str(self._now_ms()), NOWHERE

    def oldest_running(self, _tenant: str) -> tuple[int, Position]:
        """Return the time from which a transaction may still run, in milliseconds, and ``NOWHERE``."""
        return self._now_ms() - self._timeout_ms + 1, NOWHERE

    def ended(self, _tenant: str, xids: Collection[str]) -> tuple[Collection[str], Position]:
        """Return those of *xids*, made by :func:`clock_xid`, that began before the time-out; and ``NOWHERE``."""
        before = self._now_ms() - self._timeout_ms
        return [xid for xid in xids if int(xid.partition("-")[0]) <= before], NOWHERE


def clock_xid(nonce: str) -> str:
    """Make an id for a transaction of a database that has none: the time in milliseconds, and *nonce*."""
    return f"{time.time_ns() // 1_000_000}-{nonce}"
