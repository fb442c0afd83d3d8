"""The contract of a store: what the cache asks of the server that keeps its entries, marks and leases.

Each call is atomic for its tenant, or gives what one that is would have given at a moment while it ran. It takes one
round trip, and a look-up two at most; calls named ``..._soon`` do not wait for its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from tidegate.cache.marks import Noted, Refusal, RootState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from tidegate.cache.near.push_versions import PushVersions
    from tidegate.position import AskedFor, History, Origin, Position


class StoreUnavailable(Exception):  # noqa: N818  # a state of the server, not a mistake
    """The store did not answer, or its answer made no sense, or it is no master. Nobody knows what it has done."""


class StoreRefused(StoreUnavailable):
    """The store has answered, and has not written what it was to write: no memory, no right, a full disk.

    It may still be able to forget.
    """


class OtherHistory(StoreUnavailable):
    """The marks are of another history of the database, or of another shard: the caller's change was told to nobody."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A fresh entry.

    Args:
        body: the bytes that were stored.
        noted: what the miss had noted that led to this entry.
        tags: the tags of the answer.
    """

    body: bytes
    noted: Noted
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Miss:
    """The finding that there is no fresh entry, with all that a fill needs to know.

    Args:
        noted: what the filler must hand back in :class:`Filling`.
        reason: why there is no fresh entry; for telemetry.
        state: the state of the root.
        origin: the origin of the root.
        position: the greater of the root's and the guard's position; a node must have reached it to answer.
        intents: the open intents on the root or the guard: transaction id to its age in milliseconds.
        awaits: in quarantine, a transaction id: every transaction before it must have ended. Empty otherwise.
        guard_generation: the generation of the guard; for leases.
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
        """Tell whether only the primary may answer, and the answer must not be stored."""
        return self.state is not RootState.CLEAN or bool(self.intents)

    @property
    def moved(self) -> bool:
        """Tell whether the tenant has moved since the caller's shard map. Then the map must be read again first."""
        return self.reason is Refusal.EPOCH

    @property
    def foreign(self) -> bool:
        """Tell whether the root is of another history than the caller's. The primary must say first which is newer."""
        return self.reason is Refusal.ORIGIN


@dataclass(frozen=True, slots=True)
class NoRoot:
    """The finding that the tenant's marks are not there, or that another life of the store has made them."""


Lookup: TypeAlias = Hit | Miss | NoRoot


@dataclass(frozen=True, slots=True)
class Change:
    """What a transaction changes of one tenant: some tags, or the whole tenant."""

    tenant: str
    tags: frozenset[str] = frozenset()
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Filling:
    """An answer that is to be stored.

    Args:
        entry: the digest that names the entry.
        noted: what the miss has noted.
        token: the proof that the caller holds the lease.
        origin: the origin of the node that answered.
        tags: the tags of the answer.
        body: the body of the entry.
        ttl_ms: how long the entry may be kept, in milliseconds.
        blobs: the large values, by the hash of their content.
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
        """Return the size of the body and the large values together, in bytes."""
        return len(self.body) + sum(map(len, self.blobs.values()))


class CacheServer(NamedTuple):
    """Which server a cache is: what it is called where it answers says nothing.

    Args:
        id: random; in a key of its own; None: the server has none, as one that is new or has lost its keys.
        life: the replication id, which changes when a server starts, and when another one takes over; "" on a cluster,
            whose servers have one each.
    """

    id: str | None
    life: str


class Store(Protocol):
    """Keep entries, marks and leases. Every method may raise :class:`StoreUnavailable`."""

    def lookup(self, tenant: str, entry: str, guard: str, asked: AskedFor, *, refresh: bool = False) -> Lookup:
        """Return the entry if it is fresh, else what a miss must note.

        Args:
            tenant: whose entry it is.
            entry: the digest that names the entry.
            guard: the guard of the call.
            asked: whose marks the caller asks for. If the root is of a later epoch or of another history, the answer is
                a miss for that reason alone: such a caller gets no hit and fills nothing.
            refresh: leave out the entry even if it is fresh, and return a miss.
        """
        ...

    def lease(
        self, tenant: str, entry: str, miss: Miss, token: str, lease_ms: int, *, unless_filled: bool = False
    ) -> bool:
        """Take the right to fill, and tell whether the caller has it now.

        The lease is also taken away from another holder if that one noted another nonce, or if the guard was bumped
        after it noted its counter: it can fill nothing any more. Its holder renews it by asking for it once more, with
        the same *miss* and *token*.

        Args:
            tenant: whose entry it is.
            entry: the digest that names the entry.
            miss: what the lookup has returned.
            token: the caller's own, by which it proves later that it holds the lease.
            lease_ms: when the lease expires, in milliseconds from now.
            unless_filled: give no lease if there is an entry that noted what *miss* did, or later. A caller that has
                just missed may come to the lease when its holder has already filled and gone.
        """
        ...

    def holder(self, tenant: str, entry: str) -> str | None:
        """Return the token of whoever has the right to fill; None: nobody has it."""
        ...

    def release(self, tenant: str, entry: str, token: str) -> None:
        """Give the lease back, if *token* holds it."""
        ...

    def fill(self, tenant: str, filling: Filling) -> Refusal | None:
        """Store an answer, or return the reason why it was refused. The first reason is its size.

        It is refused while somebody else holds the lease. A caller whose own has ended may fill otherwise: what was
        noted shows whether the answer is fresh, and the lease only says who queries. The caller's lease is given back
        in every case.
        """
        ...

    def fill_soon(
        self, tenant: str, filling: Filling, told: Callable[[Refusal | StoreUnavailable | None], None]
    ) -> None:
        """Store an answer as :meth:`fill` does, without waiting to hear of it.

        Args:
            tenant: whose answer it is.
            filling: the answer. If it is lost on its way, the lease ends by itself.
            told: is given what :meth:`fill` would return or raise, perhaps later and in another thread, perhaps never.
        """
        ...

    def check(self, tenant: str, noted: Noted, tags: Sequence[str], asked: AskedFor) -> bool:
        """Tell whether an entry with these marks is fresh now, for a caller that asks for *asked*."""
        ...

    def blobs(self, tenant: str, hashes: Sequence[str]) -> list[bytes | None]:
        """Return large values by the hash of their content, in the order of *hashes*; None for each that is gone."""
        ...

    def make_root(self, tenant: str, nonce: str, origin: Origin) -> None:
        """Store a pending root.

        Nothing is done if there is a root that this life of the store has made and that is of *origin* or a newer one.
        """
        ...

    def complete_root(self, tenant: str, nonce: str, xid: str, position: Position) -> None:
        """Put the pending root of *nonce* into quarantine.

        Args:
            tenant: whose root it is.
            nonce: the root's; nothing is done if it has another one.
            xid: the quarantine lasts until every transaction before this one has ended.
            position: the primary's position after it was asked for *xid*.
        """
        ...

    def end_quarantine(self, tenant: str, nonce: str, position: Position) -> None:
        """Make the root of *nonce* clean, and void everything that was noted before."""
        ...

    def open(self, changes: Sequence[Change], xid: str, origin: Origin, nonces: Sequence[str]) -> None:
        """Open the intents of a transaction. A root of an older origin is made anew.

        Args:
            changes: what the transaction changes, one element for each tenant.
            xid: the id of the transaction.
            origin: the origin of the writer.
            nonces: one for each of *changes*, used if a root has to be made.

        Raises:
            OtherHistory: a root is of another origin that is not older. Its readers were not told of the change.
        """
        ...

    def stamp(self, changes: Sequence[Change], xid: str, origin: Origin, position: Position) -> None:
        """Stamp the tags of a transaction whose COMMIT has returned, and close its intents.

        Where there is no root, there is nothing to close.

        Raises:
            OtherHistory: a root is of another origin than *origin*. Its readers were not told of the change.
        """
        ...

    def stamp_soon(
        self,
        changes: Sequence[Change],
        xid: str,
        origin: Origin,
        position: Position,
        failed: Callable[[StoreUnavailable], None],
    ) -> None:
        """Stamp as :meth:`stamp` does, without waiting to hear of it. If the stamp is lost, readers close the intents.

        Args:
            changes: what was changed.
            xid: the transaction's id.
            origin: whose data were changed.
            position: the position of the commit.
            failed: is given what :meth:`stamp` would raise, perhaps later and in another thread, perhaps never.
        """
        ...

    def resolve(self, tenant: str, xids: Collection[str], origin: Origin, position: Position) -> None:
        """Close the intents of transactions that have ended in *origin*, wherever these intents are.

        Nothing is done if the root is of another origin: its transactions are others, whatever their ids.
        """
        ...

    def bump(self, changes: Sequence[Change], origin: Origin | None, position: Position) -> None:
        """Void now what depends on *changes*: for an explicit invalidation, and for the outbox.

        Args:
            changes: what has changed.
            origin: whose data have changed. A root of an older origin is forgotten, which voids all it has. None: the
                tenant is on another shard now, and *position* says nothing there.
            position: a node must have reached it to have seen the changes.

        Raises:
            OtherHistory: a root is of another origin that is not older. Its readers were not told of the change.
        """
        ...

    def forget(self, tenants: Sequence[str]) -> None:
        """Forget the marks of *tenants*, which voids all they have; the primary must vouch for what comes after."""
        ...

    def newest_history(self, shard: str, history: History | None = None) -> History | None:
        """Return the newest history of a shard's database that a gate has named here; None if none has.

        Args:
            shard: the shard's name.
            history: is named first. Of two with the same ordinal the one that was named first stays.
        """
        ...

    def switched_off(self) -> frozenset[str]:
        """Return the names of what is switched off for every gate on this database."""
        ...

    def switch(self, name: str, *, off: bool) -> None:
        """Switch the cache off or on; *name* is "all", "method:" and a name, or "tenant:" and an id."""
        ...

    def server(self) -> CacheServer:
        """Return which server this is, whether or not it is the one that this store expects."""
        ...

    def name_server(self, name: str) -> str:
        """Give the server the id *name*, if it has none, and return the one that it has."""
        ...

    def expect(self, server: CacheServer | None, why: str = "") -> None:
        """Use no other server than *server* from now on; None: use none, because of *why*."""
        ...

    @property
    def expected(self) -> CacheServer | None:
        """Return the server that is used; None: none is, or it has turned out to be another one."""
        ...

    @property
    def name(self) -> str:
        """Return the name of the server, without a password: for messages, and as the database knows it."""
        ...

    def pushes(self) -> PushVersions | None:
        """Open a stream of what happens to marks, for near caches in ``bounded`` mode; None if there are no pushes."""
        ...

    def close(self) -> None:
        """Close the idle connections. The store opens new ones if it is used again."""
        ...
