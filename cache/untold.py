"""Tenants of whom something has changed that the cache was not told of: their answers come from the primary meanwhile.

A cache server may answer reads and refuse writes: it has too few replicas, a full disk, no right for this user. What a
commit has changed is in the outbox then, and the server would go on serving what was before it, for as long as it
refuses. So who follows an outbox says here which tenants still wait in it, and who writes to one says so at once.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

_WROTE_S: Final = 2.0
"""How long a tenant counts as waiting after this process has written to an outbox: the transaction may take that."""
_EVERYBODY: Final = ""
"""What stands for all tenants; none has this name."""


class UntoldChanges:
    """Tell whether the cache was not told of changes of a tenant, as far as this process knows.

    Args:
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: dict[str, frozenset[str] | None] = {}
        self._wrote: dict[str, float] = {}

    def of(self, tenant: str) -> bool:
        """Tell whether *tenant* must be answered by the primary, and nothing of it stored."""
        if not self._waiting and not self._wrote:  # nearly always
            return False
        if tenant in self._wrote or _EVERYBODY in self._wrote:
            return True
        return any(some is None or tenant in some for some in tuple(self._waiting.values()))

    def wrote(self, tenants: Iterable[str]) -> None:
        """Note that a transaction of this process writes changes of *tenants* to an outbox."""
        self._wrote.update(dict.fromkeys(tenants, self._clock()))

    def wrote_everything(self) -> None:
        """Note that a transaction of this process writes to an outbox that anything may have changed."""
        self._wrote[_EVERYBODY] = self._clock()

    def found(self, outbox: str, tenants: Collection[str] | None) -> None:
        """Note who waits in an outbox.

        Args:
            outbox: the name of its shard.
            tenants: all that wait there; None: too many to tell.
        """
        if tenants is None or tenants:
            self._waiting[outbox] = None if tenants is None else frozenset(tenants)
        else:
            self._waiting.pop(outbox, None)
        before = self._clock() - _WROTE_S
        for tenant in [tenant for tenant, at in tuple(self._wrote.items()) if at < before]:
            self._wrote.pop(tenant, None)
