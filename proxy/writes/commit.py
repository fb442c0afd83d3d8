"""Open an intent before COMMIT and stamp after it; use the outbox where the cache does not answer.

    before COMMIT   open the intent: readers of these tags go to the primary, and nothing read meanwhile is stored
    COMMIT
    after COMMIT    stamp: new generations, the position of the commit, the intent closed

An open intent is closed in two ways only: by the writer, after a COMMIT that returned, or by a reader that meets the
intent and asks ``pg_xact_status`` how the transaction ended. So a writer may die at any moment, and the answer to a
COMMIT may be lost. Nothing raises after COMMIT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from tidegate.cache.events import Bumped, StoreFailed, ignore
from tidegate.cache.root_recovery import fresh_nonce
from tidegate.cache.store import OtherHistory, StoreUnavailable
from tidegate.error_text import first_line
from tidegate.errors import CacheUnavailable
from tidegate.interruptions import pass_interruption
from tidegate.position import Origin
from tidegate.proxy.database.primary import clock_xid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tidegate.cache.events import Observer
    from tidegate.cache.store import Change, Store
    from tidegate.position import History, Position
    from tidegate.proxy.writes.commit_protocol import Committing
    from tidegate.routing.replicas.own_writes import OwnWrites
    from tidegate.routing.sharding.shard_map import Ownership


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a transaction opened before its COMMIT, and must close after it."""

    changes: Sequence[Change]
    xid: str
    by_origin: Mapping[Origin, Sequence[Change]]
    """The changes whose intents are open in the cache, by origin. Empty where only the process keeps the position."""
    begun: tuple[tuple[OwnWrites, int], ...] = ()
    """Where this process keeps the commit's position: each place, with the ticket that it gave for this commit."""


class Outbox(Protocol):
    """Take the changes that the cache cannot be told of, and write them inside their own transaction."""

    def put(self, connection: Committing, changes: Sequence[Change]) -> None:
        """Write *changes* in the connection's transaction."""
        ...

    def put_everything(self, connection: Committing, why: str) -> None:
        """Write in the connection's transaction that anything may have changed."""
        ...


class IntentAndStamp:
    """Run the commit protocol for the engines of one shard, over one store.

    Args:
        store: holds the marks. None: this gate must not or cannot speak to the cache, and uses the outbox.
        outbox: takes the changes that the cache cannot be told of. None: such a write is refused.
        shard: the shard's name.
        owned_units: returns the units of some tenants by the newest shard map, and raises if one of them is not on this
            shard. None: there is one shard, and it owns everything.
        consistency: refuse a write with ``CacheUnavailable`` rather than use the outbox.
        observe: is told what happened.
        nonce: returns a text that was never used before.
        all_writes: keeps the positions of all writes, for tokens and for gates without a cache. None: nobody reads from
            replicas.
        unmarked_writes: keeps the positions of the writes that the marks do not have. None: nobody reads from replicas.
        knows: tells whether a history is one of the database that this gate has joined.
        committed: is told what each commit has changed, once that commit has returned.
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
        knows: Callable[[History], bool] = lambda _history: True,
        committed: Callable[[Sequence[Change]], None] | None = None,
    ) -> None:
        self._store: Final = store
        self._all_writes: Final = all_writes
        self._unmarked_writes: Final = unmarked_writes
        self._committed: Final = committed
        self._knows: Final = knows
        self._outbox: Final = outbox
        self._shard: Final = shard
        self._owned_units: Final = owned_units
        self._consistency: Final = consistency
        self._observe: Final = observe
        self._nonce: Final = nonce

    def before_commit(self, connection: Committing, changes: Sequence[Change], everything: str = "") -> Ticket | None:
        """Open the intents of a transaction, or write its changes to the outbox.

        That anything may have changed is left in the outbox in any case: no intent says it.

        Args:
            connection: the one that commits.
            changes: what the transaction changes.
            everything: why it may have changed anything; "": only that.

        Returns:
            The ticket that :meth:`after_commit` must close. None: nothing is to be done after the commit. An intent may
            be open all the same, if the cache's answer was lost; its readers resolve it.

        Raises:
            CacheUnavailable: the cache does not answer, and the outbox must not be used. Nothing is committed.
            StaleShardMap: this shard does not own one of the tenants. Nothing is committed.
            UnknownTenant: the shard map was never read. Nothing is committed.
        """
        # Check ownership first: a write that is refused must leave no intent.
        ownerships = self._owned(connection, [change.tenant for change in changes]) if changes else ()
        if everything and self._outbox is not None:
            self._outbox.put_everything(connection, everything)
        if not changes:
            return None
        reason = "this gate uses no cache"
        if self._store is not None:
            xid, _, history = connection.transaction_id()
            xid = xid or clock_xid(self._nonce())
            try:
                if history is None or not self._knows(history):
                    raise StoreUnavailable("nobody knows yet which history this database has")  # noqa: TRY301
                by_origin = self._by_origin(changes, history, ownerships)
                for origin, some in by_origin.items():
                    self._store.open(some, xid, origin, [self._nonce() for _ in some])
            except StoreUnavailable as error:
                # The cache may have opened the intent all the same. Then a reader asks how the transaction ended.
                reason = str(error)
                self._observe(StoreFailed("open", reason))
            else:
                return self._begun(changes, xid, by_origin)
        if self._consistency or self._outbox is None:
            raise CacheUnavailable(
                f"the cache cannot be told of this write ({reason}), and cache.when_away = 'refuse' forbids writes "
                "without it: nothing was committed; cache.when_away = 'outbox' lets such writes use the outbox"
            )
        self._outbox.put(connection, changes)
        if self._unmarked_writes is None and self._committed is None:
            return None
        return self._begun(changes, "", {})

    def verify_ownership(self, connection: Committing, tenant: str) -> None:
        """Check that this shard owns *tenant*, and keep it so until the transaction has ended.

        Raises:
            StaleShardMap: this shard does not own the tenant. Nothing is committed.
            UnknownTenant: the shard map was never read. Nothing is committed.
        """
        self._owned(connection, [tenant])

    def _owned(self, connection: Committing, tenants: Sequence[str]) -> Sequence[Ownership] | None:
        if self._owned_units is None:
            return None
        ownerships = self._owned_units(tenants)
        connection.verify_ownership(list({ownership.unit: ownership for ownership in ownerships}.values()))
        return ownerships

    def _by_origin(
        self, changes: Sequence[Change], history: History, ownerships: Sequence[Ownership] | None
    ) -> Mapping[Origin, Sequence[Change]]:
        if ownerships is None:
            return {Origin(0, history, self._shard): changes}
        parts: dict[Origin, list[Change]] = {}
        for change, ownership in zip(changes, ownerships, strict=True):
            parts.setdefault(Origin(ownership.since_epoch, history, self._shard), []).append(change)
        return parts

    def after_commit(self, connection: Committing, ticket: Ticket) -> None:
        """Stamp what a transaction has changed, after its COMMIT has returned.

        Nothing is raised but what interrupts the program (Ctrl-C, a time limit). If the stamp fails, the intent stays
        open, and a reader resolves it. If it is refused, the intent is gone with the root that it was in, and the new
        root's quarantine has waited for this transaction, or its database has nothing of it.
        """
        try:
            if self._committed is not None:
                self._committed(ticket.changes)
            if not ticket.by_origin and self._unmarked_writes is None:
                return
            position, history = connection.position()
            self._note(ticket, position)
            if self._store is not None:
                for origin, changes in ticket.by_origin.items():
                    self._stamp(self._store, changes, ticket.xid, origin, position, history)
        except Exception as error:  # noqa: BLE001  # the commit has happened: nothing may raise
            pass_interruption(error)
            self._observe(StoreFailed("stamp", first_line(error)))
        else:
            self._observe(Bumped(len(ticket.changes), sum(len(change.tags) for change in ticket.changes)))

    def _stamp(
        self,
        store: Store,
        changes: Sequence[Change],
        xid: str,
        origin: Origin,
        position: Position,
        history: History | None,
    ) -> None:
        if history != origin.history:  # behind a pooler, another server may have answered
            raise OtherHistory("the position after the commit is of another history than the commit")
        store.stamp_soon(
            changes, xid, origin, position, lambda error: self._observe(StoreFailed("stamp", first_line(error)))
        )

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
