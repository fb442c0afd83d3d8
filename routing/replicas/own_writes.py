"""Where the writes of this process stand, per tenant: what a program without a cache reads its own writes by.

It also keeps the positions that came by token from other processes. Nothing here knows of the writes of processes that
gave no token: that takes a cache.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tidegate.position import NOWHERE, Position
from tidegate.routing.threads.fork_hooks import reset_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_LOOKS: Final = 16
"""How many tenants are looked at for one that can be forgotten."""


@dataclass(slots=True)
class _Tenant:
    position: Position
    committing: dict[int, float] = field(default_factory=dict)
    """Tickets of the commits that are under way, and until when they are waited for."""

    def is_sure(self, now_s: float) -> bool:
        """Whether no commit is under way; those that were waited for for long enough are forgotten."""
        for ticket in [ticket for ticket, until_s in self.committing.items() if until_s <= now_s]:
            del self.committing[ticket]
        return not self.committing


class OwnWrites:
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
        self._all = _Tenant(NOWHERE)
        self._tickets = itertools.count(1)
        self._lock = threading.Lock()
        reset_after_fork(self._forked)

    def position(self, tenant: str) -> Position | None:
        """What a node must have reached to show what was written for *tenant*; None: only the primary does."""
        with self._lock:
            known = self._tenants.get(tenant)
            return self._floor if known is None else self._sure(known)

    @property
    def newest(self) -> Position | None:
        """Of all tenants; None while a commit is under way."""
        with self._lock:
            return self._sure(self._all)

    def begin(self, tenants: Iterable[str]) -> int:
        """A COMMIT is about to be sent: it may be visible before it has returned.

        Returns:
            A ticket for :meth:`end`; one that is never ended runs out.
        """
        with self._lock:
            ticket, now_s = next(self._tickets), self._clock()
            for known in (self._all, *map(self._known, tenants)):
                known.is_sure(now_s)  # else what failed would be kept as long as nobody asks
                known.committing[ticket] = now_s + self._unsure_s
        return ticket

    def end(self, tenants: Iterable[str], position: Position, ticket: int) -> None:
        """The COMMIT of *ticket* has returned, and stands at *position*."""
        with self._lock:
            for known in (self._all, *map(self._known, tenants)):
                known.position = known.position.merged(position)
                known.committing.pop(ticket, None)

    def reach(self, tenant: str, position: Position) -> None:
        """Somebody has written for *tenant*, at *position*."""
        with self._lock:
            for known in (self._all, self._known(tenant)):
                known.position = known.position.merged(position)

    def _sure(self, known: _Tenant) -> Position | None:
        return known.position if not known.committing or known.is_sure(self._clock()) else None

    def _forked(self) -> None:
        self._lock = threading.Lock()

    def _known(self, tenant: str) -> _Tenant:
        known = self._tenants.get(tenant)
        if known is None:
            self._evict()
            known = self._tenants[tenant] = _Tenant(self._floor)
        self._tenants.move_to_end(tenant)
        return known

    def _evict(self) -> None:
        for _ in range(_LOOKS):
            if len(self._tenants) < self._most:
                return
            name, oldest = self._tenants.popitem(last=False)
            if oldest.is_sure(self._clock()):
                self._floor = self._floor.merged(oldest.position)
            else:
                self._tenants[name] = oldest  # as the newest: it is being written
