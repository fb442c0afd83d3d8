"""What the root recovery asks of a primary, as SQL; and what stands in for it on databases without transaction ids."""

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
# A transaction id of the future is one of another history: nothing here waits for it, and pg_xact_status raises. The
# snapshot's xmax tells none: it is the last *completed* id and one, and what runs or is prepared may be above it. An id
# of one's own does, and once that has ended xmax is above it, so that no id is used up at the next question.
_IN_PROGRESS: Final = (
    "SELECT x FROM unnest(%s::text[]) x WHERE CASE"
    " WHEN x::xid8 < pg_snapshot_xmax(pg_current_snapshot()) OR x::xid8 < pg_current_xact_id()"
    " THEN pg_xact_status(x::xid8) = 'in progress' ELSE false END"
)


class PostgresPrimary:
    """The primary of one shard.

    Args:
        engine: the primary's engine; each question is a transaction of its own on it.
        shard: the shard's name.
    """

    def __init__(self, engine: Engine, shard: str) -> None:
        self._engine = engine
        self._shard = shard

    def epoch(self, _tenant: str) -> int:
        """Of the only shard."""
        return 0

    def origin(self, _tenant: str) -> Origin:
        """Whose data the primary holds; asked each time, as a failover may have come between."""
        return Origin(0, self._position().timeline, self._shard)

    def transaction(self, _tenant: str) -> tuple[str, Position]:
        """A transaction id of its own, and the position."""
        ((xid, lsn, file),) = self._rows(_TRANSACTION)
        return xid, Position.parse(lsn, file)

    def oldest_running(self, _tenant: str) -> tuple[int, Position]:
        """The id below which all transactions have ended, and the position read after that."""
        ((xmin,),) = self._rows(_OLDEST)
        return int(xmin), self._position()

    def ended(self, _tenant: str, xids: Collection[str]) -> tuple[Collection[str], Position]:
        """Those of *xids* that are not in progress, and the position read after that."""
        asked = [xid for xid in xids if xid.isdecimal()]
        running = {row[0] for row in self._rows(_IN_PROGRESS, (asked,))}
        return [xid for xid in xids if xid not in running], self._position()

    def _position(self) -> Position:
        ((lsn, file),) = self._rows(_POSITION)
        return Position.parse(lsn, file)

    def _rows(self, sql: str, parameters: Any = None) -> list[Any]:
        with self._engine.connect() as connection:
            return list(connection.exec_driver_sql(sql, parameters))


class ClockPrimary:
    """For databases that cannot tell how a transaction ended: it has, once it is older than a time-out.

    Args:
        shard: the shard's name.
        timeout_s: how long a transaction of this database may take, in seconds.
        now_ms: wall clock in milliseconds.
    """

    def __init__(
        self, shard: str, timeout_s: float, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self._origin = Origin(0, 0, shard)
        self._timeout_ms = int(timeout_s * 1000)
        self._now_ms = now_ms

    def epoch(self, _tenant: str) -> int:
        """Of the only shard."""
        return 0

    def origin(self, _tenant: str) -> Origin:
        """Always the same."""
        return self._origin

    def transaction(self, _tenant: str) -> tuple[str, Position]:
        """The time stands in for a transaction id."""
        return str(self._now_ms()), NOWHERE

    def oldest_running(self, _tenant: str) -> tuple[int, Position]:
        """What began before the time-out has ended."""
        return self._now_ms() - self._timeout_ms + 1, NOWHERE

    def ended(self, _tenant: str, xids: Collection[str]) -> tuple[Collection[str], Position]:
        """Those that began before the time-out; ids are ``clock_xid``'s."""
        before = self._now_ms() - self._timeout_ms
        return [xid for xid in xids if int(xid.partition("-")[0]) <= before], NOWHERE


def clock_xid(nonce: str) -> str:
    """An id for a transaction of a database that has none: when, and a nonce."""
    return f"{time.time_ns() // 1_000_000}-{nonce}"
