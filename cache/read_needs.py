"""Which node will do for a read that is not cached: the same marks tell it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from tidegate.cache.request import ONLY_PRIMARY, Limits, ReadRequirement
from tidegate.cache.store import Hit, Miss, NoRoot, StoreUnavailable

if TYPE_CHECKING:
    from tidegate.cache.root_recovery import RootRecovery
    from tidegate.cache.store import Store

_NO_ENTRY: Final = "-"
_STEPS: Final = Limits().steps


class ReadNeeds:
    """Asks the marks; one round trip where they are clean.

    Args:
        store: where the marks are.
        recovery: advances them, so that a tenant without cached calls reaches its replicas too; None: nobody does.
    """

    def __init__(self, store: Store, recovery: RootRecovery | None) -> None:
        self._store = store
        self._recovery = recovery

    def __call__(self, tenant: str, guard: str) -> ReadRequirement:
        """What a read that depends on *guard* at most needs.

        Marks that were lost are brought back at once, and not a step with each read: all of these would go to the
        primary, and a step is a small part of one.
        """
        with suppress(StoreUnavailable):
            for _ in range(_STEPS):
                found = self._store.lookup(tenant, _NO_ENTRY, guard)
                if not isinstance(found, NoRoot | Hit) and not found.dirty:
                    return ReadRequirement(found.position, primary=False, root=found.origin)
                if self._recovery is None or not self._bring_on(self._recovery, tenant, found):
                    break
        return ONLY_PRIMARY

    @staticmethod
    def _bring_on(recovery: RootRecovery, tenant: str, found: Hit | Miss | NoRoot) -> bool:
        if isinstance(found, NoRoot):
            recovery.create_root(tenant)
            return True
        return not isinstance(found, Hit) and recovery.advance(tenant, found)
