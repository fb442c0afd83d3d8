"""Where the writes of this process stand, per tenant: what a program without a cache reads its own writes by.

It also keeps the positions that came by token from other processes. Nothing here knows of the writes of processes that
gave no token: that takes a cache.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tidegate.repositories.position import NOWHERE, Position
from tidegate.routing.forks import in_children

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(slots=True)
class _Tenant:
    position: Position = NOWHERE
    committing: list[float] = field(default_factory=list)
    """For each commit under way, when it counts as one that never came back; in order."""

    def is_unsure(self, now_s: float) -> bool:
        while self.committing and self.committing[0] <= now_s:
            del self.committing[0]
        return bool(self.committing)


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
        self._all = _Tenant()
        self._lock = threading.Lock()
        in_children(self._forked)

    def position(self, tenant: str) -> Position | None:
        """What a node must have reached to show what was written for *tenant*; None: only the primary does."""
        known = self._tenants.get(tenant)
        return self._floor if known is None else self._sure(known)

    @property
    def newest(self) -> Position | None:
        """Of all tenants; None while a commit is under way."""
        return self._sure(self._all)

    def begin(self, tenants: Iterable[str]) -> None:
        """A COMMIT is about to be sent: it may be visible before it has returned."""
        with self._lock:
            now_s = self._clock()
            for known in (self._all, *map(self._known, tenants)):
                known.is_unsure(now_s)  # else what failed would be kept as long as nobody asks
                known.committing.append(now_s + self._unsure_s)

    def end(self, tenants: Iterable[str], position: Position) -> None:
        """A COMMIT has returned, and stands at *position*."""
        with self._lock:
            for known in (self._all, *map(self._known, tenants)):
                # The newest of them: one that was lost goes when its own time has come, however often others write.
                del known.committing[-1:]
                known.position = known.position.merged(position)

    def reach(self, tenant: str, position: Position) -> None:
        """Somebody has written for *tenant*, at *position*."""
        with self._lock:
            for known in (self._all, self._known(tenant)):
                known.position = known.position.merged(position)

    def _sure(self, known: _Tenant) -> Position | None:
        if known.committing:
            with self._lock:
                if known.is_unsure(self._clock()):
                    return None
        return known.position

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
            if oldest.is_unsure(self._clock()):
                self._tenants[name] = oldest  # as the newest: it is being written
                return
            self._floor = self._floor.merged(oldest.position)
