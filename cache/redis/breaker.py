"""A circuit breaker: after some failures in a row no call waits for the server, except a probe now and then."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Pauses:
    """When a circuit breaker opens, and how long it stays open.

    Args:
        failures: how many failures in a row open it.
        first_s: the first pause, in seconds; each probe that fails doubles it.
        longest_s: the longest pause, in seconds.
    """

    failures: int = 5
    first_s: float = 0.5
    longest_s: float = 5.0


class Breaker:
    """Decide for each call whether it may go out, from what the calls before have reported.

    Args:
        now_s: a clock, in seconds.
        jitter: gives a factor for each pause, so that many processes do not probe at once.
        pauses: when to open, and for how long.
    """

    def __init__(self, now_s: Callable[[], float], jitter: Callable[[], float], pauses: Pauses) -> None:
        self._now_s = now_s
        self._jitter = jitter
        self._pauses = pauses
        self._lock = threading.Lock()
        self.failures = 0
        """How many calls in a row have failed."""
        self.closed = True
        """Whether every call may go out."""
        self._pause_s = pauses.first_s
        self._probing = False
        self._probe_at_s = 0.0

    def admits(self) -> bool:
        """Tell whether this call may go out. One that may while the breaker is open is its probe."""
        if self.closed:
            return True
        with self._lock:
            now_s = self._now_s()
            if not self.closed and now_s < self._probe_at_s:
                return False
            # Set the time of the next probe now: a probe whose thread dies never reports, and must not be the last.
            self._probe_at_s = now_s + self._pause_s * self._jitter()
            self._probing = True
            return True

    def succeeded(self) -> None:
        """Take note that the server has answered, and close the breaker."""
        if self.failures:
            with self._lock:
                self.failures, self.closed, self._probing = 0, True, False
                self._pause_s = self._pauses.first_s

    def failed(self) -> None:
        """Take note that the server has not answered, or that its answer made no sense."""
        with self._lock:
            self.failures += 1
            if self.closed and self.failures >= self._pauses.failures:
                self.closed = False
            elif self._probing:
                self._pause_s = min(self._pause_s * 2, self._pauses.longest_s)
            else:
                # Either there are too few failures yet, or this call is one of many that were under way when the
                # breaker opened: they must not lengthen the pause.
                return
            self._probing = False
            self._probe_at_s = self._now_s() + self._pause_s * self._jitter()
