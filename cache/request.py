"""One call as the read path sees it, what comes back of one, and how long a read may take over the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol, TypeAlias

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


AnsweredBy: TypeAlias = Literal["near", "store", "flight", "node", "plain"]
"""Who answered a call: the near cache, the store, another thread's fill, a node after a miss, or no cache at all."""


class Answer(NamedTuple):
    """What comes back of a call.

    Args:
        value: what the caller gets.
        origin: whose data it is; None: that is not known, and so it must not be stored.
        node: the name of the server that answered; "" where nobody chose one.
        answered_by: who answered.
    """

    value: object
    origin: Origin | None = None
    node: str = ""
    answered_by: AnsweredBy = "plain"


class Request(Protocol):
    """One call, as the read path sees it."""

    @property
    def tenant(self) -> str:
        """Return the tenant, in canonical form."""
        ...

    @property
    def entry(self) -> str:
        """Return the digest of the call."""
        ...

    @property
    def guard(self) -> str:
        """Return the tag that is bumped whenever a tag of the answer is."""
        ...

    def query(self, requirement: ReadRequirement, /) -> Answer:
        """Ask a node, in a session that is begun for this."""
        ...

    def tags(self, value: object, /) -> tuple[str, ...]:
        """Return the tags of an answer."""
        ...

    def ttl_ms(self, value: object, /) -> int:
        """Return how long an answer may be kept, in milliseconds."""
        ...

    def freeze(self, value: object, /) -> tuple[bytes, Mapping[str, bytes]]:
        """Encode an answer as (body, blobs).

        Raises:
            Uncacheable: it holds what cannot be stored.
        """
        ...

    def thaw(self, body: bytes, hit: Hit | None, /) -> object:
        """Build a new answer from a body.

        Args:
            body: what :meth:`freeze` has made.
            hit: the entry it came with; None: this process has just stored it.

        Raises:
            Unreadable: the body is not the answer to this call.
        """
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a read may take over the cache.

    Those who wait do so for longer than a lease lasts: if its holder died, one of the crowd takes it over then, and the
    others wait on. Were the wait shorter, the death of one holder would send all of them to the database.

    A holder that lives renews its lease, and those who wait for it when *wait_ms* is over wait until it has ended: a
    query of their own would end later than the one that is under way. Then they wait for nobody else.

    Args:
        lease_ms: how long after the last renewal another may fill, in milliseconds.
        wait_ms: how long others wait before they read for themselves if whom they wait for has ended in vain, in
            milliseconds.
        longest_ms: how long a lease is renewed, and a living filler waited for, in milliseconds.
        poll_ms: how often they look, at first, in milliseconds; less and less often.
        beta: how early an entry is refreshed before it ends (XFetch, Vattani et al. 2015); 0: never.
        steps: how many steps a read takes to advance a root before it reads the primary.
    """

    lease_ms: int = 3_000
    wait_ms: int = 4_000
    longest_ms: int = 60_000
    poll_ms: int = 4
    beta: float = 1.0
    steps: int = 4
