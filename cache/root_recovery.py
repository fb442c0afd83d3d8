"""Advance a tenant's root to where entries may be fresh, by asking the primary.

Marks that were lost come back *pending*, with a fresh nonce, before the primary is asked for anything: a transaction
that begins after that finds the pending root and opens its intent on it. The primary's answer then tells whose end the
quarantine must wait for: every transaction that was running may have opened its intent on the marks that were lost.
An intent whose writer is gone is closed once ``pg_xact_status`` says how its transaction ended.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from tidegate.cache.events import RootAdvanced, ignore
from tidegate.cache.marks import RootState
from tidegate.cache.store import NoRoot
from tidegate.position import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from tidegate.cache.events import Observer
    from tidegate.cache.store import Miss, Store
    from tidegate.position import AskedFor, History, Origin, Position

GRACE_MS: Final = 100
"""An intent younger than this belongs to a commit on its way; asking about it would be a query for nothing."""


BEHIND_S: Final = 1.0
"""How long a process that was left behind believes that without asking its primary again, in seconds."""


class Primary(Protocol):
    """What is asked of a tenant's primary; each question in a transaction of its own.

    Each answer brings the history of the database that gave it, over the connection that gave it. One of another
    history than the root's says nothing about the root.
    """

    def asked(self, tenant: str, /) -> AskedFor:
        """Return whose marks the tenant's must be, as far as it is known here; ask nobody."""
        ...

    def origin(self, tenant: str, /) -> Origin | None:
        """Return whose data the tenant's primary holds; None: nobody can tell now, and nothing may be stored."""
        ...

    def transaction(self, tenant: str, /) -> Transaction:
        """Return a transaction id that no transaction had yet, and the position."""
        ...

    def oldest_running(self, tenant: str, /) -> OldestRunning:
        """Return a transaction id below which all have ended and are visible, and the position read after that."""
        ...

    def ended(self, tenant: str, xids: Collection[str], /) -> Ended:
        """Return those of *xids* that are neither in progress nor prepared, and the position read after that."""
        ...

    def renew(self, tenant: str, than: History, /) -> None:
        """Make a history of the primary's database that is newer than *than*."""
        ...


class Transaction(NamedTuple):
    """A transaction's id, where the log was then, and of which history that is; None: nobody can tell."""

    xid: str
    position: Position
    history: History | None


class OldestRunning(NamedTuple):
    """An id below which all transactions have ended, and the position and history after that."""

    xid: int
    position: Position
    history: History | None


class Ended(NamedTuple):
    """The transactions that have ended, and the position and history after that."""

    xids: Collection[str]
    position: Position
    history: History | None


def fresh_nonce() -> str:
    """Make 32 hexadecimal digits that nobody has used: the caller does, never a script or a clock."""
    return os.urandom(16).hex()


class RootRecovery:
    """Advance roots, one step at a time.

    Args:
        store: where the marks are.
        primary: whom to ask.
        observe: told of each step.
        nonce: gives a text never used before.
        grace_ms: how old an intent must be before its transaction is asked about.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        store: Store,
        primary: Primary,
        *,
        observe: Observer = ignore,
        nonce: Callable[[], str] = fresh_nonce,
        grace_ms: int = GRACE_MS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._primary = primary
        self._observe = observe
        self._nonce = nonce
        self._grace_ms = grace_ms
        self._clock = clock
        self._behind: dict[History, float] = {}

    def create_root(self, tenant: str) -> Origin | None:
        """Store a pending root, if there is none; return of which origin, None if nobody can tell now."""
        origin = self._primary.origin(tenant)
        if origin is not None:
            self._make(tenant, origin)
        return origin

    def _make(self, tenant: str, origin: Origin) -> None:
        self._store.make_root(tenant, self._nonce(), origin)
        self._observe(RootAdvanced(tenant, "made"))

    def advance(self, tenant: str, found: Miss | NoRoot) -> bool:
        """Take the next step that *found* calls for.

        Returns:
            Whether anything may have changed by it; if not, another look finds the same.
        """
        if isinstance(found, NoRoot):
            return self.create_root(tenant) is not None
        asked = self._primary.asked(tenant)
        epoch = asked.epoch or 0
        if found.origin.epoch < epoch:  # the tenant has moved since: its transactions are another shard's now
            return self.create_root(tenant) is not None
        if found.origin.epoch > epoch:  # this process does not know yet: it would ask a shard about another one's
            return False
        if found.origin.history != asked.history:
            return self._settle(tenant, found, asked.history)
        steps = {RootState.PENDING: self._complete, RootState.QUARANTINE: self._release}
        return steps.get(found.state, self._resolve)(tenant, found)

    def _settle(self, tenant: str, found: Miss, known: History) -> bool:
        """Ask the primary of which history it is, and have the newer one stay: the root's or the primary's."""
        if self._clock() < self._behind.get(known, 0.0):
            return False
        origin = self._primary.origin(tenant)
        if origin is None:
            return False
        if origin == found.origin:  # only this process did not know
            return True
        if origin.outdates(found.origin):
            self._make(tenant, origin)
            return True
        if found.origin.outdates(origin):
            # This process was left behind on a primary that another one has replaced. It reads, and stores nothing.
            self._behind = {origin.history: self._clock() + BEHIND_S}
            return False
        self._primary.renew(tenant, found.origin.history)
        return True

    def _is_of(self, tenant: str, miss: Miss, history: History | None, position: Position) -> bool:
        """Tell whether an answer is about the root's transactions."""
        if history != miss.origin.history:
            return False
        if position.reached(miss.position):
            return True
        # The log has gone back behind what marks of this history have: it is not the same history any more.
        self._primary.renew(tenant, miss.origin.history)
        return False

    def _complete(self, tenant: str, miss: Miss) -> bool:
        xid, position, history = self._primary.transaction(tenant)
        if not self._is_of(tenant, miss, history, position):
            return self._settle(tenant, miss, history or UNKNOWN)
        self._store.complete_root(tenant, miss.noted.nonce, xid, position)
        self._observe(RootAdvanced(tenant, "completed"))
        return True

    def _release(self, tenant: str, miss: Miss) -> bool:
        oldest, position, history = self._primary.oldest_running(tenant)
        if not self._is_of(tenant, miss, history, position):
            return self._settle(tenant, miss, history or UNKNOWN)
        if oldest <= int(miss.awaits):
            return False
        self._store.end_quarantine(tenant, miss.noted.nonce, position)
        self._observe(RootAdvanced(tenant, "released"))
        return True

    def _resolve(self, tenant: str, miss: Miss) -> bool:
        old = [xid for xid, age_ms in miss.intents.items() if age_ms >= self._grace_ms]
        if not old:
            return False
        ended, position, history = self._primary.ended(tenant, old)
        if not self._is_of(tenant, miss, history, position):
            return self._settle(tenant, miss, history or UNKNOWN)
        if not ended:
            return False
        self._store.resolve(tenant, ended, miss.origin, position)
        self._observe(RootAdvanced(tenant, "resolved"))
        return True
