"""A circuit breaker: after some failures in a row nobody waits for the server, but one who probes it now and then."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Pauses:
    """When to open, and how long to stay so.

    Args:
        failures: in a row, until it opens.
        first_s: the first pause, in seconds; each failed probe doubles it.
        longest_s: the longest, in seconds.
    """

    failures: int = 5
    first_s: float = 0.5
    longest_s: float = 5.0


class Breaker:
    """Says of each call whether it may go out; is told how it went.

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
        self._failures = 0
        self._pause_s = pauses.first_s
        self._closed = True
        self._probing = False
        self._probe_at_s = 0.0

    @property
    def closed(self) -> bool:
        """Whether every call may go out."""
        return self._closed

    def admits(self) -> bool:
        """Whether this call may go out; one that may while the breaker is open is its probe."""
        if self._closed:
            return True
        with self._lock:
            now_s = self._now_s()
            if not self._closed and now_s < self._probe_at_s:
                return False
            # A probe that never reports (its thread died) must not be the last one.
            self._probe_at_s = now_s + self._pause_s * self._jitter()
            self._probing = True
            return True

    def succeeded(self) -> None:
        """The server answered."""
        if self._failures:
            with self._lock:
                self._failures, self._closed, self._probing = 0, True, False
                self._pause_s = self._pauses.first_s

    def failed(self) -> None:
        """It did not, or not sensibly."""
        with self._lock:
            self._failures += 1
            if self._closed and self._failures >= self._pauses.failures:
                self._closed = False
            elif self._probing:
                self._pause_s = min(self._pause_s * 2, self._pauses.longest_s)
            else:
                # Too few yet; or one of many that were under way when it opened, which must not lengthen the pause.
                return
            self._probing = False
            self._probe_at_s = self._now_s() + self._pause_s * self._jitter()
