"""One call as the read path sees it, and how long a read may take over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from tidegate.position import NOWHERE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tidegate.cache.store import Hit
    from tidegate.position import Origin, Position


@dataclass(frozen=True, slots=True)
class ReadRequirement:
    """Which node will do: one that has reached *position*, or only the primary.

    Args:
        position: in the log of the root's shard.
        primary: whether only the primary will do.
        root: the origin of the root that says so; None: none was seen, or it was not clean, and nothing vouches for a
            shard. One of a later epoch than the shard map, clean or not, tells that the map is old.
    """

    position: Position
    primary: bool
    root: Origin | None = None


ONLY_PRIMARY: Final = ReadRequirement(NOWHERE, primary=True)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node answered; *origin* None means that it must not be stored."""

    value: object
    origin: Origin | None


class Request(Protocol):
    """One call, as the read-through sees it."""

    @property
    def tenant(self) -> str:
        """The tenant, in canonical form."""
        ...

    @property
    def entry(self) -> str:
        """The digest of the call."""
        ...

    @property
    def guard(self) -> str:
        """The tag that is bumped whenever a tag of the answer is."""
        ...

    def query(self, need: ReadRequirement, /) -> Answer:
        """Ask a node, in a session begun for this."""
        ...

    def tags(self, value: object, /) -> tuple[str, ...]:
        """The tags of an answer."""
        ...

    def ttl_ms(self, value: object, /) -> int:
        """How long an answer may be kept."""
        ...

    def freeze(self, value: object, /) -> tuple[bytes, Mapping[str, bytes]]:
        """An answer as (body, blobs); raises :class:`~tidegate.cache.codec.values.Uncacheable`."""
        ...

    def thaw(self, body: bytes, hit: Hit | None, /) -> object:
        """A new answer of a body; *hit* None: this process has just stored it.

        Raises:
            Unreadable: the body is not the answer to this call.
        """
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in milliseconds.

    Who waits does so for longer than a lease lasts: if its holder died, one of the crowd takes it over then, and the
    others wait on. Were it shorter, the death of one would send all of them to the database.

    Args:
        lease_ms: how long a filler has before another may fill.
        wait_ms: how long others wait for it before they read for themselves.
        poll_ms: how often they look, at first; less and less often.
        beta: how early an entry is refreshed before it ends (XFetch, Vattani et al. 2015); 0: never.
        steps: how many steps a read takes to bring a root on before it reads the primary.
    """

    lease_ms: int = 3_000
    wait_ms: int = 4_000
    poll_ms: int = 4
    beta: float = 1.0
    steps: int = 4
