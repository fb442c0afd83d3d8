"""What happened, for whoever listens: frozen facts, handed to one callable."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from tidegate.cache.marks import Refusal


@dataclass(frozen=True, slots=True)
class Served:
    """An answer came from the cache; *where* is "store", "near" or "flight" (another thread had just filled it)."""

    tenant: str
    where: str


@lru_cache(maxsize=4096)
def served(tenant: str, where: str) -> Served:
    """The event, which is the same each time: hits are many, and making one takes longer than telling it."""
    return Served(tenant, where)


@dataclass(frozen=True, slots=True)
class Missed:
    """No fresh entry was there."""

    tenant: str
    reason: Refusal


@dataclass(frozen=True, slots=True)
class NearChecked:
    """A near answer in ``bounded`` mode was compared with the marks, as in ``strict`` mode.

    Its tenant was named by a push; or there is no stream of pushes (a cluster), or it is not alive.
    """

    tenant: str


@dataclass(frozen=True, slots=True)
class Filled:
    """An answer was stored; *size* in bytes, blobs included."""

    tenant: str
    size: int


@dataclass(frozen=True, slots=True)
class NotFilled:
    """An answer was not stored; *reason* says why."""

    tenant: str
    reason: str


@dataclass(frozen=True, slots=True)
class Undecodable:
    """An entry was there and was not the answer to this call: somebody else wrote it, or it was damaged."""

    tenant: str
    detail: str


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """The store did not answer; *where* names what was asked of it."""

    where: str
    detail: str


@dataclass(frozen=True, slots=True)
class Bumped:
    """A transaction's tags were stamped after its commit."""

    tenants: int
    tags: int


@dataclass(frozen=True, slots=True)
class RootAdvanced:
    """A root was brought on: made, completed, released, or rid of a dead writer's intents."""

    tenant: str
    step: str


Event: TypeAlias = (
    Served | Missed | NearChecked | Filled | NotFilled | Undecodable | StoreFailed | Bumped | RootAdvanced
)


class Observer(Protocol):
    """Told of every event; must be quick, and must not raise."""

    def __call__(self, event: Event, /) -> None:
        """Take note."""
        ...


def ignore(_event: object, /) -> None:
    """An observer that does not care."""
