"""Writing: an intent before COMMIT, a stamp after it, and the outbox where the cache does not answer.

    before COMMIT   open the intent: readers of these tags go to the primary, and nothing read meanwhile is stored
    COMMIT
    after COMMIT    stamp: new generations, the position of the commit, the intent closed

Once the intent is open only a COMMIT that returned closes it, or whoever meets it and asks ``pg_xact_status``; so a
writer may die anywhere, and an answer to COMMIT may be lost. Nothing raises after COMMIT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from tidegate.cache.events import Bumped, StoreFailed, ignore
from tidegate.cache.root_recovery import fresh_nonce
from tidegate.cache.store import StoreUnavailable
from tidegate.errors import CacheUnavailable
from tidegate.position import Origin
from tidegate.proxy.database.primary import clock_xid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tidegate.cache.events import Observer
    from tidegate.cache.store import Change, Store
    from tidegate.position import Position
    from tidegate.proxy.writes.commit_protocol import Committing
    from tidegate.routing.replicas.own_writes import OwnWrites
    from tidegate.routing.sharding.shard_map import Ownership


@dataclass(frozen=True, slots=True)
class Ticket:
    """What was opened before a COMMIT, to be closed after it."""

    changes: Sequence[Change]
    xid: str
    by_origin: Mapping[Origin, Sequence[Change]]
    """What the cache was told, by origin; nothing, where only the process keeps the position."""
    begun: tuple[tuple[OwnWrites, int], ...] = ()
    """Where the process keeps the position, and its tickets there."""


class Outbox(Protocol):
    """Where changes go, inside their transaction, when the cache cannot be told."""

    def put(self, connection: Committing, changes: Sequence[Change]) -> None:
        """Write *changes* in the connection's transaction."""
        ...


class IntentAndStamp:
    """The write path over one store, for the engines of one shard.

    Args:
        store: marks; None for a gate that must not or cannot speak to the cache, and writes the outbox.
        outbox: where changes go then; None: they are refused.
        shard: the shard's name.
        owned_units: the units of some tenants by the newest map; raises if one is not on this shard. None: there is
            one shard, which owns everything.
        consistency: refuse a write with ``CacheUnavailable`` rather than use the outbox.
        observe: told what happened.
        nonce: gives a text never used before.
        all_writes: positions of all writes, for tokens and for gates without a cache; None: nobody reads from replicas.
        unmarked_writes: positions of writes that the marks do not have.
        committed: told what commits have changed, once they have returned.
    """

    def __init__(
        self,
        store: Store | None,
        outbox: Outbox | None,
        *,
        shard: str = "",
        owned_units: Callable[[Sequence[str]], Sequence[Ownership]] | None = None,
        consistency: bool = False,
        observe: Observer = ignore,
        nonce: Callable[[], str] = fresh_nonce,
        all_writes: OwnWrites | None = None,
        unmarked_writes: OwnWrites | None = None,
        committed: Callable[[Sequence[Change]], None] | None = None,
    ) -> None:
        self._store: Final = store
        self._all_writes: Final = all_writes
        self._unmarked_writes: Final = unmarked_writes
        self._committed: Final = committed
        self._outbox: Final = outbox
        self._shard: Final = shard
        self._owned_units: Final = owned_units
        self._consistency: Final = consistency
        self._observe: Final = observe
        self._nonce: Final = nonce

    def before_commit(self, connection: Committing, changes: Sequence[Change]) -> Ticket | None:
        """Open the intents of a transaction, or write its outbox.

        Returns:
            What :meth:`after_commit` must close; None if nothing was opened for sure.

        Raises:
            CacheUnavailable: the cache does not answer, and the outbox must not be used; nothing is committed.
            StaleShardMap: this shard does not own a tenant; nothing is committed.
        """
        # First: a write that is refused must leave no intent.
        ownerships = self._owned(connection, [change.tenant for change in changes])
        reason = "this gate has none"
        if self._store is not None:
            xid, position = connection.transaction_id()
            xid = xid or clock_xid(self._nonce())
            by_origin = self._by_origin(changes, position.timeline, ownerships)
            try:
                for origin, some in by_origin.items():
                    self._store.open(some, xid, origin, [self._nonce() for _ in some])
            except StoreUnavailable as error:
                # The intent may have been opened all the same; then a reader will ask how the transaction ended.
                reason = str(error)
                self._observe(StoreFailed("open", reason))
            else:
                return self._begun(changes, xid, by_origin)
        if self._consistency or self._outbox is None:
            raise CacheUnavailable(
                f"the cache cannot be told of this write ({reason}), and writes must not go on without it: "
                "nothing was committed; availability = true lets them use the outbox"
            )
        self._outbox.put(connection, changes)
        if self._unmarked_writes is None and self._committed is None:
            return None
        return self._begun(changes, "", {})

    def verify_ownership(self, connection: Committing, tenant: str) -> None:
        """See that this shard owns *tenant*, and hold it until the transaction has ended.

        Raises:
            StaleShardMap: it does not; nothing is committed.
        """
        self._owned(connection, [tenant])

    def _owned(self, connection: Committing, tenants: Sequence[str]) -> Sequence[Ownership] | None:
        if self._owned_units is None:
            return None
        ownerships = self._owned_units(tenants)
        connection.verify_ownership(list({ownership.unit: ownership for ownership in ownerships}.values()))
        return ownerships

    def _by_origin(
        self, changes: Sequence[Change], timeline: int, ownerships: Sequence[Ownership] | None
    ) -> Mapping[Origin, Sequence[Change]]:
        if ownerships is None:
            return {Origin(0, timeline, self._shard): changes}
        parts: dict[Origin, list[Change]] = {}
        for change, ownership in zip(changes, ownerships, strict=True):
            parts.setdefault(Origin(ownership.since_epoch, timeline, self._shard), []).append(change)
        return parts

    def after_commit(self, connection: Committing, ticket: Ticket) -> None:
        """Stamp what a COMMIT that returned has changed. What fails here is left to be resolved by a reader."""
        try:
            if self._committed is not None:
                self._committed(ticket.changes)
            if not ticket.by_origin and self._unmarked_writes is None:
                return
            position = connection.position()
            self._note(ticket, position)
            if self._store is not None:
                for origin, changes in ticket.by_origin.items():
                    self._store.stamp(changes, ticket.xid, origin, position)
        except Exception as error:  # noqa: BLE001  # the commit has happened: nothing may raise
            self._observe(StoreFailed("stamp", str(error)))
        else:
            self._observe(Bumped(len(ticket.changes), sum(len(change.tags) for change in ticket.changes)))

    def _note(self, ticket: Ticket, position: Position) -> None:
        tenants = [change.tenant for change in ticket.changes]
        for written, begun in ticket.begun:
            written.end(tenants, position, begun)

    def _begun(self, changes: Sequence[Change], xid: str, by_origin: Mapping[Origin, Sequence[Change]]) -> Ticket:
        """The ticket, with the commit noted wherever its position is to be kept."""
        kept = {self._all_writes} if by_origin else {self._all_writes, self._unmarked_writes}
        tenants = [change.tenant for change in changes]
        begun = tuple((written, written.begin(tenants)) for written in kept if written is not None)
        return Ticket(changes, xid, by_origin, begun)
