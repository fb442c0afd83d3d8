"""Which reads the primary accepts when more is asked of it than it can do: the guard against the storm.

When replicas drop out, all their reads come to the primary at once, and every caller that has to wait comes again. So
as many reads are let in as there are connections for them, a few wait for a bounded time, and the others are refused at
once.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from tidegate.errors import Overloaded
from tidegate.fork_hooks import reset_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_GUESS_S: Final = 0.01
"""How long a call is supposed to take until the first one has ended, in seconds."""
_LEARNS: Final = 0.1
"""The weight of the newest call in the average time of a call."""


class Admission:
    """Let in a limited number of reads at a time.

    Args:
        limit: how many at the same time.
        most_wait_s: how long a read waits at most, in seconds. One that would have to wait longer, by the time that the
            others took, is not let in at all.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, limit: int, *, most_wait_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._most_wait_s = most_wait_s
        self._clock = clock
        self._in = 0
        self._waiting: deque[tuple[str, threading.Event]] = deque()
        self._waiting_of: Counter[str] = Counter()
        self._takes_s = 0.0
        self._lock = threading.Lock()
        reset_after_fork(self._forked)

    @contextmanager
    def admitted(self, tenant: str) -> Iterator[None]:
        """Come in for *tenant*, and leave at the end of the block.

        Raises:
            Overloaded: at once, or after the longest wait.
        """
        self._enter(tenant)
        began_s = self._clock()
        try:
            yield
        finally:
            self._leave(self._clock() - began_s)

    def _forked(self) -> None:
        """Forget who is in and who waits: they are in the parent."""
        self._in = 0
        self._waiting.clear()
        self._waiting_of.clear()
        self._lock = threading.Lock()

    def _enter(self, tenant: str) -> None:
        with self._lock:
            if self._in < self._limit and not self._waiting:
                self._in += 1
                return
            ahead = len(self._waiting)
            wait_s = (self._takes_s or _GUESS_S) * (ahead + 1) / self._limit
            if wait_s > self._most_wait_s or self._has_its_share(tenant):
                raise Overloaded(self._full(f"{ahead} wait already"))
            turn = threading.Event()
            entry = (tenant, turn)
            self._waiting.append(entry)
            self._waiting_of[tenant] += 1
        try:
            turn.wait(self._most_wait_s)
        except BaseException:  # a time-out of gevent or Celery: this call is gone, but its place must not be lost
            if self._is_in(entry):
                self._hand_on()
            raise
        if not self._is_in(entry):
            raise Overloaded(self._full(f"it was not this call's turn within {self._most_wait_s:g} s"))

    def _is_in(self, entry: tuple[str, threading.Event]) -> bool:
        """Tell whether a waiting read was let in, perhaps at the last moment. If not, it waits no longer."""
        with self._lock:
            tenant, turn = entry
            if not turn.is_set():
                self._waiting.remove(entry)
                self._no_longer_waits(tenant)
            return turn.is_set()

    def _has_its_share(self, tenant: str) -> bool:
        """Tell whether *tenant* holds half of all places to wait: with more it would take those of other tenants."""
        places = self._limit * max(1.0, self._most_wait_s / (self._takes_s or _GUESS_S))
        return self._waiting_of[tenant] >= max(1.0, places / 2)

    def _leave(self, took_s: float) -> None:
        with self._lock:
            self._takes_s += _LEARNS * (took_s - self._takes_s) if self._takes_s else took_s
        self._hand_on()

    def _hand_on(self) -> None:
        """Give a place to the read that waits longest."""
        with self._lock:
            if not self._waiting:
                self._in = max(0, self._in - 1)  # a forked child starts at 0, maybe in the middle of a call
                return
            tenant, turn = self._waiting.popleft()
            self._no_longer_waits(tenant)
            turn.set()

    def _no_longer_waits(self, tenant: str) -> None:
        self._waiting_of[tenant] -= 1
        if not self._waiting_of[tenant]:
            del self._waiting_of[tenant]

    def _full(self, why: str) -> str:
        return (
            f"the primary serves {self._limit} reads of this process at a time, and {why}; it has to, since no replica "
            "can answer: see 'tidegate doctor', and routing.primary_reads"
        )
