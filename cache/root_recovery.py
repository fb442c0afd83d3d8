"""Advance a tenant's root to where entries may be fresh, by asking the primary.

Marks that were lost come back *pending*, with a fresh nonce, before the primary is asked for anything: a transaction
that begins after that finds the pending root and opens its intent on it. The primary's answer then tells whose end the
quarantine must wait for: every transaction that was running may have opened its intent on the marks that were lost.
An intent whose writer is gone is closed once ``pg_xact_status`` says how its transaction ended.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Protocol

from tidegate.cache.events import RootAdvanced, ignore
from tidegate.cache.marks import RootState
from tidegate.cache.store import NoRoot

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from tidegate.cache.events import Observer
    from tidegate.cache.store import Miss, Store
    from tidegate.position import Origin, Position

GRACE_MS: Final = 100
"""An intent younger than this belongs to a commit on its way; asking about it would be a query for nothing."""


class Primary(Protocol):
    """What is asked of a tenant's primary; each question in a transaction of its own."""

    def epoch(self, tenant: str, /) -> int:
        """Return the epoch of the origin, as far as it is known here; ask nobody."""
        ...

    def origin(self, tenant: str, /) -> Origin:
        """Return whose data the tenant's primary holds."""
        ...

    def transaction(self, tenant: str, /) -> tuple[str, Position]:
        """Return a transaction id that no transaction had yet, and the position."""
        ...

    def oldest_running(self, tenant: str, /) -> tuple[int, Position]:
        """Return a transaction id below which all have ended and are visible, and the position read after that."""
        ...

    def ended(self, tenant: str, xids: Collection[str], /) -> tuple[Collection[str], Position]:
        """Return those of *xids* that are neither in progress nor prepared, and the position read after that."""
        ...


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
    """

    def __init__(
        self,
        store: Store,
        primary: Primary,
        *,
        observe: Observer = ignore,
        nonce: Callable[[], str] = fresh_nonce,
        grace_ms: int = GRACE_MS,
    ) -> None:
        self._store = store
        self._primary = primary
        self._observe = observe
        self._nonce = nonce
        self._grace_ms = grace_ms

    def create_root(self, tenant: str) -> None:
        """Store a pending root, if there is none."""
        self._store.make_root(tenant, self._nonce(), self._primary.origin(tenant))
        self._observe(RootAdvanced(tenant, "made"))

    def advance(self, tenant: str, found: Miss | NoRoot) -> bool:
        """Take the next step that *found* calls for.

        Returns:
            Whether anything may have changed by it; if not, another look finds the same.
        """
        if isinstance(found, NoRoot):
            self.create_root(tenant)
            return True
        epoch = self._primary.epoch(tenant)
        if found.origin.epoch < epoch:  # the tenant has moved since: its transactions are another shard's now
            self.create_root(tenant)
            return True
        if found.origin.epoch > epoch:  # this process does not know yet: it would ask a shard about another one's
            return False
        if found.state is RootState.PENDING:
            return self._complete(tenant, found)
        if found.state is RootState.QUARANTINE:
            return self._release(tenant, found)
        return self._resolve(tenant, found)

    def _complete(self, tenant: str, miss: Miss) -> bool:
        origin = self._primary.origin(tenant)
        if origin > miss.origin:
            self.create_root(tenant)
            return True
        xid, position = self._primary.transaction(tenant)
        self._store.complete_root(tenant, miss.noted.nonce, xid, position)
        self._observe(RootAdvanced(tenant, "completed"))
        return True

    def _release(self, tenant: str, miss: Miss) -> bool:
        oldest, position = self._primary.oldest_running(tenant)
        if oldest <= int(miss.awaits):
            return False
        self._store.end_quarantine(tenant, miss.noted.nonce, position)
        self._observe(RootAdvanced(tenant, "released"))
        return True

    def _resolve(self, tenant: str, miss: Miss) -> bool:
        old = [xid for xid, age_ms in miss.intents.items() if age_ms >= self._grace_ms]
        if not old:
            return False
        ended, position = self._primary.ended(tenant, old)
        if not ended:
            return False
        self._store.resolve(tenant, ended, position)
        self._observe(RootAdvanced(tenant, "resolved"))
        return True
