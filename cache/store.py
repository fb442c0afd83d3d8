"""What the cache asks of the server that keeps it. Each call is atomic for its tenant, and one round trip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from tidegate.cache.marks import Noted, Refusal, RootState

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from tidegate.cache.near.push_versions import PushVersions
    from tidegate.position import Origin, Position


class StoreUnavailable(Exception):  # noqa: N818  # a state of the server, not a mistake
    """The store did not answer, answered garbage, or is no master: nothing is known of what it did."""


class StoreFull(StoreUnavailable):
    """The store has no memory for what was to be written; it can still forget."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A fresh entry, and what was noted when it was filled; *age_ms* and *left_ms* are the store's."""

    body: bytes
    noted: Noted
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Miss:
    """No fresh entry.

    Args:
        noted: what to hand to ``fill``.
        reason: why, for telemetry.
        state: the root's.
        origin: the root's.
        position: the greater of root's and guard's: what a node must have reached.
        intents: open on root or guard: transaction id to how many ms ago.
        awaits: in quarantine, the transaction id whose elders must have ended.
        guard_generation: the guard's, for leases.
    """

    noted: Noted
    reason: Refusal
    state: RootState
    origin: Origin
    position: Position
    intents: Mapping[str, int]
    awaits: str = ""
    guard_generation: int = 0

    @property
    def dirty(self) -> bool:
        """Whether only the primary will do, and the answer must not be stored."""
        return self.state is not RootState.CLEAN or bool(self.intents)

    @property
    def moved(self) -> bool:
        """Whether the tenant has moved since the caller's shard map: to be read again before anything else."""
        return self.reason is Refusal.EPOCH


@dataclass(frozen=True, slots=True)
class NoRoot:
    """The tenant's marks are not there, or are from another life of the store."""


Lookup: TypeAlias = Hit | Miss | NoRoot


@dataclass(frozen=True, slots=True)
class Change:
    """What a transaction changes of one tenant: some tags, or all of it."""

    tenant: str
    tags: frozenset[str] = frozenset()
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Filling:
    """An answer to be stored.

    Args:
        entry: the entry's digest.
        noted: what the miss noted.
        token: proves that the lease is held.
        origin: of the node that answered.
        tags: of the answer.
        body: the entry's body.
        ttl_ms: how long it may be kept.
        blobs: large values by the hash of their content.
    """

    entry: str
    noted: Noted
    token: str
    origin: Origin
    tags: tuple[str, ...]
    body: bytes
    ttl_ms: int
    blobs: Mapping[str, bytes]

    @property
    def size(self) -> int:
        """Bytes of body and large values."""
        return len(self.body) + sum(map(len, self.blobs.values()))


class Store(Protocol):
    """Entries, marks and leases. Every method may raise :class:`StoreUnavailable`."""

    def lookup(self, tenant: str, entry: str, guard: str, *, refresh: bool = False, epoch: int | None = None) -> Lookup:
        """The entry if it is fresh (and *refresh* is not asked for), else what a miss must note.

        A root of a later epoch than *epoch*, by which the caller knows the tenant's shard, gives a miss for that reason
        alone: such a caller neither hits nor fills. None: there is one shard.
        """
        ...

    def lease(
        self, tenant: str, entry: str, miss: Miss, token: str, lease_ms: int, *, unless_filled: bool = False
    ) -> bool:
        """Take the right to fill; also from a holder that noted other marks and whose guard was bumped since.

        With *unless_filled*, not if an entry is there that noted what *miss* did, or later: who has just missed may
        come to the lease when its holder has filled and gone.
        """
        ...

    def release(self, tenant: str, entry: str, token: str) -> None:
        """Give the lease back, if it is held by *token*."""
        ...

    def fill(self, tenant: str, filling: Filling) -> Refusal | None:
        """Store an answer, unless something says no (first of all its size); gives the lease back either way."""
        ...

    def check(self, tenant: str, noted: Noted, tags: Sequence[str], *, epoch: int | None = None) -> bool:
        """Whether an entry with these marks is fresh now, and the root not of a later epoch than the caller knows."""
        ...

    def blobs(self, tenant: str, hashes: Sequence[str]) -> list[bytes | None]:
        """Large values by the hash of their content; None for each that is gone."""
        ...

    def make_root(self, tenant: str, nonce: str, origin: Origin) -> None:
        """Store a pending root, unless there is one of this life of the store and of *origin* or a newer one."""
        ...

    def complete_root(self, tenant: str, nonce: str, xid: str, position: Position) -> None:
        """Put the pending root of that nonce into quarantine."""
        ...

    def end_quarantine(self, tenant: str, nonce: str, position: Position) -> None:
        """Make the root of that nonce clean, and void what was noted before."""
        ...

    def open(self, changes: Sequence[Change], xid: str, origin: Origin, nonces: Sequence[str]) -> None:
        """Open the intents of a transaction; one nonce a change, for a root that has to be made.

        A writer of an older origin than the root's changes nothing that readers of the root can see: it is ignored.
        """
        ...

    def stamp(self, changes: Sequence[Change], xid: str, origin: Origin, position: Position) -> None:
        """Close them after a COMMIT that returned. Where there is no root, there is nothing to close."""
        ...

    def resolve(self, tenant: str, xids: Collection[str], position: Position) -> None:
        """Close the intents of transactions that have ended, wherever they are."""
        ...

    def bump(self, changes: Sequence[Change], position: Position) -> None:
        """Void what depends on these, now: explicit invalidation, and the outbox."""
        ...

    def switched_off(self) -> frozenset[str]:
        """What is switched off for every gate on this database."""
        ...

    def switch(self, name: str, *, off: bool) -> None:
        """Switch the cache off or on: "all", "method:" and a name, or "tenant:" and an id."""
        ...

    @property
    def name(self) -> str:
        """Return the name of the server that keeps it, without a password: for messages, and as databases know it."""
        ...

    def pushes(self) -> PushVersions | None:
        """Open a stream of what happens to marks, for near caches in ``bounded`` mode; None: there are no pushes."""
        ...

    def close(self) -> None:
        """Close idle connections; the store opens new ones if it is used again."""
        ...
