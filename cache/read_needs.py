"""Which node will do for a read that is not cached: the same marks tell it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from tidegate.cache.request import ONLY_PRIMARY, Limits, ReadRequirement
from tidegate.cache.store import Hit, NoRoot, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.cache.root_recovery import RootRecovery
    from tidegate.cache.store import Store
    from tidegate.position import AskedFor

_NO_ENTRY: Final = "-"
_STEPS: Final = Limits().steps


class ReadNeeds:
    """Ask the marks what a read needs; one round trip where they are clean.

    Args:
        store: where the marks are.
        recovery: advances their root, so that a tenant without cached calls reaches its replicas; None: nobody does.
        asked: tells whose marks a tenant's must be, as far as this process knows.
    """

    def __init__(self, store: Store, recovery: RootRecovery | None, asked: Callable[[str], AskedFor]) -> None:
        self._store = store
        self._recovery = recovery
        self._asked = asked

    def __call__(self, tenant: str, guard: str) -> ReadRequirement:
        """Return what a read needs that depends on *guard* at most.

        Marks that were lost are made anew at once, and not a step with each read: all of these reads would go to the
        primary, and a step costs a small part of one.
        """
        with suppress(StoreUnavailable):
            for _ in range(_STEPS):
                found = self._store.lookup(tenant, _NO_ENTRY, guard, self._asked(tenant))
                if isinstance(found, Hit):  # nobody fills this entry
                    break
                if not isinstance(found, NoRoot) and not found.foreign and not found.dirty:
                    return ReadRequirement(found.position, primary=False, root=found.origin)
                if self._recovery is None or not self._recovery.advance(tenant, found):
                    break
        return ONLY_PRIMARY
