"""Renew the leases of this process while their holders live: a query may take longer than a lease lasts.

A lease must be short, because others wait for a holder that has died until it ends. So a thread beside renews those
that are still held. The first who needs it starts it, a forked process starts its own, and it ends once there has been
nothing to renew for a while. A frozen or dead process renews nothing.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from tidegate.cache.store import StoreUnavailable
from tidegate.fork_hooks import reset_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidegate.cache.request import Limits

_IDLE_ROUNDS: Final = 30


class _Held:
    """A lease that is held: how to renew it, and how many rounds have seen it."""

    __slots__ = ("_lock", "_renew", "_rounds")

    def __init__(self, renew: Callable[[], bool]) -> None:
        self._renew: Callable[[], bool] | None = renew
        self._rounds = 0
        self._lock = threading.Lock()

    def renew(self, most_rounds: int) -> None:
        """Renew it, if it was taken more than a round ago."""
        with self._lock:
            self._rounds += 1
            if self._renew is None or self._rounds == 1:
                return
            with suppress(StoreUnavailable):  # it may come back before the lease ends
                if self._rounds > most_rounds or not self._renew():
                    self._renew = None

    def end(self) -> None:
        """Renew it no more, once this has returned: a renewal after the release would take the lease anew."""
        with self._lock:
            self._renew = None


class Renewals:
    """Renew leases three times as often as they would end.

    Most are given back before the first renewal: to hold one costs no round trip then.

    Args:
        limits: how long a lease lasts, and for how long it is renewed at most.
    """

    def __init__(self, limits: Limits) -> None:
        self._every_s: Final = limits.lease_ms / 3000
        self._most_rounds: Final = 3 * limits.longest_ms // limits.lease_ms
        self._closed = False
        self._start_anew()
        reset_after_fork(self._start_anew)

    def _start_anew(self) -> None:
        # This also runs in a forked child: neither the thread nor the holders of its parent are there.
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._held: dict[str, _Held] = {}
        self._runs = False

    @contextmanager
    def renewed(self, token: str, renew: Callable[[], bool]) -> Iterator[None]:
        """Renew a lease as long as this context lasts.

        Args:
            token: names the lease.
            renew: renews it, and tells whether it is still held.
        """
        held, all_held = _Held(renew), self._held
        all_held[token] = held
        try:
            if not self._runs:
                self._launch()
            yield
        finally:
            all_held.pop(token, None)
            held.end()

    def close(self) -> None:
        """End the thread, and renew nothing any more."""
        self._closed = True
        self._wake.set()

    def _launch(self) -> None:
        with self._lock:
            if not self._runs and not self._closed:
                threading.Thread(target=self._run, name="tidegate-leases", daemon=True).start()
                self._runs = True

    def _run(self) -> None:
        idle = 0
        while not self._wake.wait(self._every_s):
            idle = 0 if self._held else idle + 1
            if idle >= _IDLE_ROUNDS and self._may_end():
                return
            for held in list(self._held.values()):
                held.renew(self._most_rounds)

    def _may_end(self) -> bool:
        with self._lock:
            # In this order: whoever has put a lease in and still finds the thread running is seen here.
            self._runs = False
            self._runs = bool(self._held)
            return not self._runs
