"""What happened on the way to a server, for whoever listens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class Passed:
    """A replica was to answer a read and did not; the read goes on elsewhere."""

    node: str
    why: str


@dataclass(frozen=True, slots=True)
class Banned:
    """A replica failed a read, and is left alone for *seconds*."""

    node: str
    seconds: float
    why: str


@dataclass(frozen=True, slots=True)
class Promoted:
    """Another node is the primary now."""

    node: str
    before: str
    timeline: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The primary had too much to do, and a read was not let in."""

    tenant: str


@dataclass(frozen=True, slots=True)
class NotDiscovered:
    """Nobody could be asked which servers there are; those that are known stay."""

    why: str


Event: TypeAlias = Passed | Banned | Promoted | Refused | NotDiscovered


class Observer(Protocol):
    """Told of every event; must be quick, and must not raise."""

    def __call__(self, event: Event, /) -> None:
        """Take note."""
        ...
