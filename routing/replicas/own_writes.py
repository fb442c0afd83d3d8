"""Where the writes of this process stand, per tenant: by this a program without a cache reads its own writes.

The positions that came from other processes by a token are kept here too. Nothing here knows of the writes of a process
that gave no token: that takes a cache.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tidegate.fork_hooks import reset_after_fork
from tidegate.position import NOWHERE, Position

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_LOOKS: Final = 16
"""How many tenants are examined, at most, to find one that can be forgotten."""


@dataclass(slots=True)
class _Tenant:
    position: Position
    committing: dict[int, float] = field(default_factory=dict)
    """The tickets of the commits that are under way: ticket to the time until which it counts, in seconds."""

    def is_sure(self, now_s: float) -> bool:
        """Tell whether no commit is under way. Commits that never came back are forgotten when their time is over."""
        for ticket in [ticket for ticket, until_s in self.committing.items() if until_s <= now_s]:
            del self.committing[ticket]
        return not self.committing


class OwnWrites:
    """Keep positions by tenant, and know which tenants have a commit under way.

    Args:
        most: how many tenants have a position of their own. Those that were written longest ago go into one position
            that all others share.
        unsure_s: how long a commit that never came back keeps its tenants on the primary, in seconds.
        clock: a monotonic clock, in seconds.
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
        """Return what a node must have reached to show the writes for *tenant*; None if only the primary shows them."""
        with self._lock:
            known = self._tenants.get(tenant)
            return self._floor if known is None else self._sure(known)

    @property
    def newest(self) -> Position | None:
        """Return the position of all tenants together; None while a commit is under way."""
        with self._lock:
            return self._sure(self._all)

    def begin(self, tenants: Iterable[str]) -> int:
        """Take note that a COMMIT is about to be sent: what it writes may be visible before it has returned.

        Returns:
            A ticket for :meth:`end`. A ticket that is never ended runs out.
        """
        with self._lock:
            ticket, now_s = next(self._tickets), self._clock()
            for known in (self._all, *map(self._known, tenants)):
                known.is_sure(now_s)  # forget old commits: otherwise they would be kept until somebody asks
                known.committing[ticket] = now_s + self._unsure_s
        return ticket

    def end(self, tenants: Iterable[str], position: Position, ticket: int) -> None:
        """Take note that the COMMIT of *ticket* has returned, and that it stands at *position*."""
        with self._lock:
            for known in (self._all, *map(self._known, tenants)):
                known.position = known.position.merged(position)
                known.committing.pop(ticket, None)

    def reach(self, tenant: str, position: Position) -> None:
        """Take note that some process has written for *tenant*, at *position*."""
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
                self._tenants[name] = oldest  # goes to the end, as the newest: it is being written now
