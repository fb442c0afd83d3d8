"""A position as text, which a program carries to another process: in an HTTP header, or with the arguments of a job."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from tidegate.position import Position

if TYPE_CHECKING:
    from re import Pattern

MOST_BYTES: Final = 64
_TEXT: Final[Pattern[str]] = re.compile(r"tg1\.([0-9a-f]{1,8})\.([0-9a-f]{1,16})\.([A-Za-z0-9_-]{0,32})")


class Token(NamedTuple):
    """Where a write stands, and on which shard."""

    position: Position
    shard: str = ""

    def text(self) -> str:
        """Return the token as text: at most 64 bytes of ASCII."""
        return f"tg1.{self.position.timeline:x}.{self.position.lsn:x}.{self.shard}"

    @classmethod
    def of_text(cls, text: str) -> Self:
        """Return the token that :meth:`text` wrote. A token that somebody invents can only send reads to the primary.

        Raises:
            ValueError: *text* is no token.
        """
        match = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f"not a token: {text!r:.80}; expected what gate.token() gave, like 'tg1.1.16b3748.'")
        timeline, lsn, shard = match.groups()
        return cls(Position(int(timeline, 16), int(lsn, 16)), shard)
