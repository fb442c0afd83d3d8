"""Where a write stands in its database's log, and whose log that is. Compared within one shard only."""

from __future__ import annotations

from typing import NamedTuple, Self


class Position(NamedTuple):
    """A place in a log; timelines count promotions, the LSN is a number of bytes.

    Positions have no total order: a node on timeline 2 that still replays below the branch has not seen what timeline 1
    wrote after it. So a node has reached a position if *neither* number is lower, and of two the greater is taken in
    both numbers apart.
    """

    timeline: int = 0
    lsn: int = 0

    def reached(self, other: Position) -> bool:
        """Whether a node at this position has seen everything up to *other*."""
        return self.timeline >= other.timeline and self.lsn >= other.lsn

    def merged(self, other: Position) -> Position:
        """What a node must have reached to have seen both."""
        return Position(max(self.timeline, other.timeline), max(self.lsn, other.lsn))

    @classmethod
    def parse(cls, lsn: str, wal_file: str) -> Self:
        """Of an LSN like "0/16B3748" and the name of a WAL file, whose first eight digits are the timeline."""
        high, low = lsn.split("/")
        return cls(int(wal_file[:8], 16), (int(high, 16) << 32) + int(low, 16))

    def text(self) -> str:
        """25 characters, which compare number by number as texts of the same length do."""
        return f"{self.timeline:08x}.{self.lsn:016x}"

    @classmethod
    def of_text(cls, text: str) -> Self:
        """The position that :meth:`text` wrote."""
        return cls(int(text[:8], 16), int(text[9:], 16))


NOWHERE = Position()


class Origin(NamedTuple):
    """Whose data an entry holds, within one database: of two, the greater is the newer."""

    epoch: int = 0
    timeline: int = 0
    shard: str = ""

    def text(self) -> str:
        """For a mark."""
        return f"{self.epoch}.{self.timeline}.{self.shard}"

    @classmethod
    def of_text(cls, text: str) -> Self:
        """The origin that :meth:`text` wrote."""
        epoch, timeline, shard = text.split(".", 2)
        return cls(int(epoch), int(timeline), shard)
