"""What has happened on the way to a server, for those who listen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class Passed:
    """A replica was chosen for a read and could not answer it. The read goes on elsewhere."""

    node: str
    why: str


@dataclass(frozen=True, slots=True)
class Banned:
    """A replica failed a read, and gets no more reads for *seconds*."""

    node: str
    seconds: float
    why: str


@dataclass(frozen=True, slots=True)
class Promoted:
    """Another node is the primary now.

    Args:
        node: the name of the new primary.
        before: the name of the old one.
        timeline: the timeline of the new primary.
    """

    node: str
    before: str
    timeline: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The primary had too much to do, and a read was not let in."""

    tenant: str


@dataclass(frozen=True, slots=True)
class NotDiscovered:
    """Nobody could be asked which servers there are. Those that are known stay."""

    why: str


Event: TypeAlias = Passed | Banned | Promoted | Refused | NotDiscovered


class Observer(Protocol):
    """Receive every event. An observer must be quick, and must not raise."""

    def __call__(self, event: Event, /) -> None:
        """Take note of *event*."""
        ...
