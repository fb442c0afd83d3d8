"""What has happened in the cache, for those who listen: frozen facts that are handed to one callable."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from tidegate.cache.marks import Refusal


@dataclass(frozen=True, slots=True)
class Served:
    """An answer came from the cache.

    Args:
        tenant: whose answer it is.
        where: "store", "near", or "flight": another thread of this process had just filled it.
    """

    tenant: str
    where: str


@lru_cache(maxsize=4096)
def served(tenant: str, where: str) -> Served:
    """Return the event of these values, the same object each time.

    Hits are many, and to make an event takes longer than to tell it.
    """
    return Served(tenant, where)


@dataclass(frozen=True, slots=True)
class Missed:
    """No fresh entry was there."""

    tenant: str
    reason: Refusal


@dataclass(frozen=True, slots=True)
class NearChecked:
    """A near answer in ``bounded`` mode was compared with the marks, as in ``strict`` mode.

    That happens if a push has named its tenant, or if there is no stream of pushes (on a cluster), or if the stream is
    not alive.
    """

    tenant: str


@dataclass(frozen=True, slots=True)
class Filled:
    """An answer was stored; *size* is in bytes, large values included."""

    tenant: str
    size: int


@dataclass(frozen=True, slots=True)
class NotFilled:
    """An answer was not stored; *reason* says why."""

    tenant: str
    reason: str


@dataclass(frozen=True, slots=True)
class Undecodable:
    """An entry was there, but it was not the answer to this call: somebody else wrote it, or it was damaged."""

    tenant: str
    detail: str


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """The store did not answer; *where* names what it was asked for."""

    where: str
    detail: str


@dataclass(frozen=True, slots=True)
class Bumped:
    """The stamps of a transaction's tags were sent after its commit; *tenants* and *tags* are counts.

    Nobody has waited for them: where they are lost or refused, ``StoreFailed`` may follow.
    """

    tenants: int
    tags: int


@dataclass(frozen=True, slots=True)
class RootAdvanced:
    """A root took a step.

    Args:
        tenant: whose root it is.
        step: "made", "completed", "released", or "resolved" if the intents of a dead writer were closed.
    """

    tenant: str
    step: str


@dataclass(frozen=True, slots=True)
class Voided:
    """All that was cached of a database is void, since anything may have changed; *why* says what is known of it."""

    why: str

    def __str__(self) -> str:
        return f"all that is cached of a database is void, since anything may have changed: {self.why}"


@dataclass(frozen=True, slots=True)
class TriggerFailed:
    """A trigger could not tell what a statement had changed in *table*; *error* is the database's."""

    table: str
    error: str

    def __str__(self) -> str:
        return f"a trigger could not tell what was changed in {self.table}: {self.error}"


@dataclass(frozen=True, slots=True)
class ObserverFailed:
    """An observer of rows raised; *error* is the name of the exception's class."""

    error: str


@dataclass(frozen=True, slots=True)
class ObserversMissed:
    """A transaction is not told to the observers of rows, since too much waits for them."""

    def __str__(self) -> str:
        return "observers are too slow, and miss what transactions have changed: they are told once that there was more"


Event: TypeAlias = (
    Served
    | Missed
    | NearChecked
    | Filled
    | NotFilled
    | Undecodable
    | StoreFailed
    | Bumped
    | RootAdvanced
    | Voided
    | TriggerFailed
    | ObserverFailed
    | ObserversMissed
)


class Observer(Protocol):
    """Receive every event. An observer must be quick, and must not raise."""

    def __call__(self, event: Event, /) -> None:
        """Take note of *event*."""
        ...


def ignore(_event: object, /) -> None:
    """Ignore every event: the observer of a program that does not listen."""
