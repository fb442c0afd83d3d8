"""Where a write stands in the log of its database, and whose log that is.

Positions are compared within one shard only.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Self


class Position(NamedTuple):
    """A place in a log.

    Positions have no total order: a node on timeline 2 that still replays below the branch has not seen what timeline 1
    wrote after it. So a node has reached a position if *neither* of its numbers is lower. The greater of two positions
    has the greater timeline and the greater LSN, which may come from different ones.

    Args:
        timeline: the number of the timeline; it counts promotions.
        lsn: the place in the log, in bytes.
    """

    timeline: int = 0
    lsn: int = 0

    def reached(self, other: Position) -> bool:
        """Tell whether a node at this position has seen everything up to *other*."""
        return self.timeline >= other.timeline and self.lsn >= other.lsn

    def merged(self, other: Position) -> Position:
        """Return the position that a node must have reached to have seen both."""
        return Position(max(self.timeline, other.timeline), max(self.lsn, other.lsn))

    @classmethod
    def parse(cls, lsn: str, wal_file: str) -> Self:
        """Parse an LSN like "0/16B3748" and the name of a WAL file, whose first eight digits are the timeline."""
        return cls(int(wal_file[:8], 16), _number(lsn))

    def moved(self, lsn: str) -> Self:
        """Return the position on the same timeline at an LSN like "0/16B3748"."""
        return type(self)(self.timeline, _number(lsn))

    def text(self) -> str:
        """Return 25 characters. Such texts compare number by number, as their numbers do."""
        return f"{self.timeline:08x}.{self.lsn:016x}"

    @classmethod
    def of_text(cls, text: str) -> Self:
        """Return the position that :meth:`text` wrote."""
        return cls(int(text[:8], 16), int(text[9:], 16))


def _number(lsn: str) -> int:
    high, low = lsn.split("/")
    return (int(high, 16) << 32) + int(low, 16)


NOWHERE = Position()


class History(NamedTuple):
    """One of the pasts and futures of a database: what was committed there since it was made, and nothing else.

    A promotion, a restore and a restart begin a new one. It is made in the database itself, with an ordinal above every
    one that is known there and in the cache. Two with one ordinal and different tokens are in conflict: neither is
    newer, and a newer one must be made.

    Args:
        ordinal: the greater is the newer.
        token: random, in hexadecimal digits; "" on a database that cannot go back.
    """

    ordinal: int = 0
    token: str = ""

    def text(self) -> str:
        """Return the history as it stands in a root."""
        return f"{self.ordinal}.{self.token}"

    @classmethod
    def of_text(cls, text: str) -> Self:
        """Return the history that :meth:`text` wrote."""
        ordinal, token = text.split(".")
        return cls(int(ordinal), token)


class HistoryRecord(NamedTuple):
    """A history as its database records it, bound to what it was made for. A standby shows that of its primary.

    Args:
        history: the history.
        timeline: the timeline that the primary wrote then.
        started: when the server was started then, in seconds since the epoch, as it says it.
        counts_since: since when it counted its statistics then, in the same form: since it last got over a crash.
        database: the id of the database.
    """

    history: History
    timeline: int
    started: str
    counts_since: str
    database: str

    def text(self) -> str:
        """Return the record as it stands in the database."""
        history, *bound_to = self
        return " ".join((str(history.ordinal), history.token, *map(str, bound_to)))

    @classmethod
    def of_text(cls, text: str | None) -> Self | None:
        """Return the record that :meth:`text` wrote; None if there is none."""
        if not text:
            return None
        ordinal, token, timeline, *others = text.split(" ")
        return cls(History(int(ordinal), token), int(timeline), *others)


UNKNOWN: Final = History(-1)
"""Nobody can tell at the moment which history the database has: no data are of this one."""


class AskedFor(NamedTuple):
    """Whose marks a caller asks the cache for; what comes from others is no hit.

    Args:
        history: that of the tenant's database, as far as this process knows.
        epoch: when the tenant's shard last changed, as far as this process knows; None: there is one shard.
    """

    history: History
    epoch: int | None = None


class Origin(NamedTuple):
    """Whose data an entry holds, within one cluster of shards.

    Args:
        epoch: since which epoch the shard holds the tenant.
        history: that of the shard's database.
        shard: the name of the shard.
    """

    epoch: int = 0
    history: History = History()
    shard: str = ""

    def outdates(self, other: Origin) -> bool:
        """Tell whether this is newer than *other*.

        Of two that differ in nothing but the tokens of their histories, neither is newer.
        """
        if self.epoch != other.epoch:
            return self.epoch > other.epoch
        if self.shard != other.shard:  # no epoch has two shards, unless by settings that contradict each other
            return self.shard.encode() > other.shard.encode()
        return self.history.ordinal > other.history.ordinal

    def text(self) -> str:
        """Return the origin as it stands in a root."""
        return f"{self.epoch}.{self.history.text()}.{self.shard}"

    @classmethod
    def of_text(cls, text: str) -> Self:
        """Return the origin that :meth:`text` wrote."""
        epoch, ordinal, token, shard = text.split(".", 3)
        return cls(int(epoch), History(int(ordinal), token), shard)
