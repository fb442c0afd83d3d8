"""Whom the primary takes on when more is asked of it than it can do: the guard against the storm.

When replicas drop out, their reads come to the primary, all at once, and every caller that is kept waiting comes again.
So as many are let in as there are connections for them, a few wait for a bounded time, and the rest is told so at once.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from tidegate.errors import Overloaded
from tidegate.routing.threads.fork_hooks import reset_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_GUESS_S: Final = 0.01
"""How long a call takes, before one has ended."""
_LEARNS: Final = 0.1
"""How much the newest call counts in the average of how long one takes."""


class Admission:
    """Lets in so many at a time.

    Args:
        limit: at the same time.
        most_wait_s: nobody waits for longer; who would have to, by how long the others took, is not let in at all.
        clock: monotonic, in seconds.
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
        """Come in, for *tenant*, and leave at the end.

        Raises:
            Overloaded: at once, or after waiting for as long as anybody may.
        """
        self._enter(tenant)
        began_s = self._clock()
        try:
            yield
        finally:
            self._leave(self._clock() - began_s)

    def _forked(self) -> None:
        """Who is in, and who waits, is in the parent."""
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
        except BaseException:  # a time-out of gevent's or Celery's: whoever waited is gone, and its place must not be
            if self._is_in(entry):
                self._hand_on()
            raise
        if not self._is_in(entry):
            raise Overloaded(self._full(f"it was not this call's turn within {self._most_wait_s:g} s"))

    def _is_in(self, entry: tuple[str, threading.Event]) -> bool:
        """Whether who waited has been let in, at the last moment perhaps; else it does not wait any longer."""
        with self._lock:
            tenant, turn = entry
            if not turn.is_set():
                self._waiting.remove(entry)
                self._no_longer_waits(tenant)
            return turn.is_set()

    def _has_its_share(self, tenant: str) -> bool:
        """Whether one tenant would take the places of the others: half of those that can be waited on are its own."""
        places = self._limit * max(1.0, self._most_wait_s / (self._takes_s or _GUESS_S))
        return self._waiting_of[tenant] >= max(1.0, places / 2)

    def _leave(self, took_s: float) -> None:
        with self._lock:
            self._takes_s += _LEARNS * (took_s - self._takes_s) if self._takes_s else took_s
        self._hand_on()

    def _hand_on(self) -> None:
        """Give a place to who waits longest."""
        with self._lock:
            if not self._waiting:
                self._in = max(0, self._in - 1)  # a child begins at 0 in the middle of a call
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
