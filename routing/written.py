"""Where the writes of this process stand, per tenant: what a program without a cache reads its own writes by.

It also keeps the positions that came by token from other processes. Nothing here knows of the writes of processes that
gave no token: that takes a cache.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tidegate.repositories.position import NOWHERE, Position
from tidegate.routing.forks import in_children

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(slots=True)
class _Tenant:
    position: Position = NOWHERE
    committing: int = 0
    unsure_until_s: float = 0.0


class Written:
    """Positions by tenant, and which tenants have a commit under way.

    Args:
        most: tenants that are told apart; those written longest ago go into a position that all others share.
        unsure_s: how long a commit that never came back keeps its tenants on the primary, in seconds.
        clock: monotonic, in seconds.
    """

    def __init__(
        self, *, most: int = 100_000, unsure_s: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most
        self._unsure_s = unsure_s
        self._clock = clock
        self._tenants: OrderedDict[str, _Tenant] = OrderedDict()
        self._floor = NOWHERE
        self._newest = NOWHERE
        self._lock = threading.Lock()
        in_children(self._forked)

    def position(self, tenant: str) -> Position | None:
        """What a node must have reached to show what was written for *tenant*; None: only the primary does."""
        known = self._tenants.get(tenant)
        if known is None:
            return self._floor
        if known.committing:
            if self._clock() < known.unsure_until_s:
                return None
            with self._lock:
                known.committing = 0
        return known.position

    @property
    def newest(self) -> Position:
        """Of all tenants."""
        return self._newest

    def begin(self, tenants: Iterable[str]) -> None:
        """A COMMIT is about to be sent: it may be visible before it has returned."""
        with self._lock:
            until_s = self._clock() + self._unsure_s
            for tenant in tenants:
                known = self._known(tenant)
                known.committing += 1
                known.unsure_until_s = until_s

    def end(self, tenants: Iterable[str], position: Position) -> None:
        """A COMMIT has returned, and stands at *position*."""
        with self._lock:
            for tenant in tenants:
                known = self._known(tenant)
                known.committing = max(0, known.committing - 1)
                known.position = known.position.merged(position)
            self._newest = self._newest.merged(position)

    def reach(self, tenant: str, position: Position) -> None:
        """Somebody has written for *tenant*, at *position*."""
        with self._lock:
            known = self._known(tenant)
            known.position = known.position.merged(position)
            self._newest = self._newest.merged(position)

    def _forked(self) -> None:
        self._lock = threading.Lock()

    def _known(self, tenant: str) -> _Tenant:
        known = self._tenants.get(tenant)
        if known is None:
            known = self._tenants[tenant] = _Tenant(self._floor)
            self._evict()
        self._tenants.move_to_end(tenant)
        return known

    def _evict(self) -> None:
        while len(self._tenants) > self._most:
            name, oldest = self._tenants.popitem(last=False)
            if oldest.committing and self._clock() < oldest.unsure_until_s:
                self._tenants[name] = oldest  # as the newest: it is being written
                return
            self._floor = self._floor.merged(oldest.position)
