"""Which node will do for a read that is not cached: the same marks tell it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from tidegate.cache.request import ONLY_PRIMARY, Need
from tidegate.cache.store import Hit, NoRoot, StoreUnavailable

if TYPE_CHECKING:
    from tidegate.cache.keeper import Keeper
    from tidegate.cache.store import Store

_NO_ENTRY: Final = "-"


class Needs:
    """Asks the marks; one round trip.

    Args:
        store: where the marks are.
        keeper: brings them on, so that a tenant whose calls are not cached gets to its replicas too.
    """

    def __init__(self, store: Store, keeper: Keeper) -> None:
        self._store = store
        self._keeper = keeper

    def __call__(self, tenant: str, guard: str) -> Need:
        """What a read that depends on *guard* at most needs."""
        with suppress(StoreUnavailable):
            found = self._store.lookup(tenant, _NO_ENTRY, guard)
            if isinstance(found, NoRoot):
                self._keeper.make(tenant)
            elif not isinstance(found, Hit):
                if not found.dirty:
                    return Need(found.position, primary=False, root=found.origin)
                self._keeper.tend(tenant, found)
        return ONLY_PRIMARY
