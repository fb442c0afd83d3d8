"""Kill switches: they turn the cache off for all calls, for a method or for a tenant.

The settings can set them, and so can an operator on the cache server. What is off is read from the database. Writes go
on marking what they change, so that the cache can be switched on again at any moment.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from tidegate.cache.store import StoreUnavailable
from tidegate.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tidegate.cache.store import Store

ALL: Final = "all"
_KINDS: Final = ("method:", "tenant:")
_NONE: Final[frozenset[str]] = frozenset()


def checked_switch(name: str) -> str:
    """Return *name* if it is the name of a switch.

    Raises:
        SettingsError: *name* is not "all", "method:" and a name, or "tenant:" and an id.
    """
    if name == ALL or any(name.startswith(kind) and len(name) > len(kind) for kind in _KINDS):
        return name
    raise SettingsError(f"{name!r} is no switch: expected 'all', 'method:get_workflow_run_by_id' or 'tenant:<id>'")


class Switches:
    """Tell what is switched off.

    Args:
        fixed: the names that the settings switch off.
        store: where the other names are. Whoever comes by asks it, at most once in *every_s*. None: there are no
            others.
        every_s: how often the store is asked, in seconds.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        fixed: Iterable[str] = (),
        store: Store | None = None,
        *,
        every_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fixed = frozenset(map(checked_switch, fixed))
        self._store = store
        self._every_s = every_s
        self._clock = clock
        self._next = clock()
        self._off = self._fixed

    def are_off(self, method: str, tenant: str) -> bool:
        """Tell whether the cache is off for this call."""
        if ALL in self._fixed:
            return True
        now = self._clock()
        if self._store is not None and now >= self._next:
            self._next = now + self._every_s
            if not self._ask(self._store):
                return True  # this call has waited for the cache once: it must not wait again
        off = self._off
        return bool(off) and (ALL in off or f"method:{method}" in off or f"tenant:{tenant}" in off)

    def off_by(self, method: str, tenant: str) -> str | None:
        """Return the switch that turns the cache off for this call, as far as this object knows; ask nobody."""
        names = (ALL, f"method:{method}", f"tenant:{tenant}")
        return next((name for name in names if name in self._off), None)

    def _ask(self, store: Store) -> bool:
        try:
            self._off = self._fixed | store.switched_off()
        except StoreUnavailable:  # then there is no cache either, and what was known stays
            return False
        return True
