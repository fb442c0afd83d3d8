"""What a read does next, decided purely: no store, no clock and no waiting, only what was found and what may be done.

fresh entry                        Serve
marks lost, foreign, dirty, new    Advance the root a step, while there are steps left; else Query the primary
the tenant has moved               Query, and nothing is stored: the layers below read the shard map again
no fresh entry, clean marks        Fill; where somebody else fills, Wait for that; where time is up, Query
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from tidegate.cache.request import ONLY_PRIMARY, ReadRequirement
from tidegate.cache.store import Hit, NoRoot

if TYPE_CHECKING:
    from tidegate.cache.request import Limits
    from tidegate.cache.store import Lookup, Miss

Filler: TypeAlias = Literal["nobody", "thread", "process"]
"""Who fills the entry now, as far as this read has tried: nobody, a thread of this process, or another process."""


class Patience(NamedTuple):
    """What one read may still do.

    Args:
        steps: how many steps it may still take for the root.
        left_ms: how long it may still wait, in milliseconds.
        filler: who fills the entry, if that is not this read.
        anew: whether the entry that is there cannot be read, and must be filled all the same.
    """

    steps: int
    left_ms: int
    filler: Filler = "nobody"
    anew: bool = False

    @classmethod
    def of(cls, limits: Limits) -> Patience:
        """Return the patience of a read that has done nothing yet."""
        return cls(limits.steps, limits.wait_ms)


class Serve(NamedTuple):
    """Answer from this entry."""

    hit: Hit


class Fill(NamedTuple):
    """Take the right to fill; with it, query a node and store the answer.

    Args:
        miss: what was noted.
        anew: whether to fill although an entry is there.
    """

    miss: Miss
    anew: bool


class Wait(NamedTuple):
    """Wait for what somebody else fills; hold no database connection meanwhile."""

    filler: Filler


class Advance(NamedTuple):
    """Take a step for the root, then look again."""

    found: Miss | NoRoot


class Query(NamedTuple):
    """Ask a node that fulfils this, and store nothing."""

    requirement: ReadRequirement


Step: TypeAlias = Serve | Fill | Wait | Advance | Query

PRIMARY_ONLY: Final = Query(ONLY_PRIMARY)


def next_step(found: Lookup, patience: Patience) -> Step:
    """Decide what a read does next.

    Args:
        found: what the store has answered.
        patience: what the read may still do.
    """
    if isinstance(found, Hit):
        return Serve(found)
    if isinstance(found, NoRoot):
        return Advance(found) if patience.steps else PRIMARY_ONLY
    if found.moved:
        return Query(ReadRequirement(found.position, primary=found.dirty, root=found.origin))
    if found.foreign or found.dirty:
        return Advance(found) if patience.steps else PRIMARY_ONLY
    if patience.filler == "nobody":
        return Fill(found, patience.anew)
    return Wait(patience.filler) if patience.left_ms > 0 else Query(clean_requirement(found))


def clean_requirement(miss: Miss) -> ReadRequirement:
    """Return which node will do after a miss with clean marks: one that has reached the position of root and guard."""
    return ReadRequirement(miss.position, primary=False, root=miss.origin)
