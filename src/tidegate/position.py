"""Where a write stands in the log of its database, and whose log that is.

Positions are compared within one shard only.
"""

from __future__ import annotations

from typing import NamedTuple, Self


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
        high, low = lsn.split("/")
        return cls(int(wal_file[:8], 16), (int(high, 16) << 32) + int(low, 16))

    def text(self) -> str:
        """Return 25 characters. Such texts compare number by number, as their numbers do."""
        return f"{self.timeline:08x}.{self.lsn:016x}"

    @classmethod
    def of_text(cls, text: str) -> Self:
        """Return the position that :meth:`text` wrote."""
        return cls(int(text[:8], 16), int(text[9:], 16))


NOWHERE = Position()


class Origin(NamedTuple):
    """Whose data an entry holds, within one database. The greater of two origins is the newer.

    Args:
        epoch: since which epoch the shard holds the tenant.
        timeline: the timeline of the shard's primary.
        shard: the name of the shard.
    """

    epoch: int = 0
    timeline: int = 0
    shard: str = ""

    def text(self) -> str:
        """Return the origin as it stands in a root."""
        return f"{self.epoch}.{self.timeline}.{self.shard}"

    @classmethod
    def of_text(cls, text: str) -> Self:
        """Return the origin that :meth:`text` wrote."""
        epoch, timeline, shard = text.split(".", 2)
        return cls(int(epoch), int(timeline), shard)
