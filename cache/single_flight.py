"""Single flight in one process: of several threads that miss the same entry one fills it, and the others wait.

A follower may take the leader's answer only if that was *stored after the follower had come*. Then the store has
vouched, at a moment after the follower's read began, that nothing had been bumped. So a flight is closed to newcomers
before its answer is offered to the store, and followers get nothing from an answer that the store refused.
"""

from __future__ import annotations

import os
import threading
import weakref
from functools import partial
from typing import Final, Protocol


class Signal(Protocol):
    """Wake the followers of a flight: a switch that is set once, like a ``threading.Event``."""

    def set(self) -> None:
        """Let all go on who wait."""
        ...

    def wait(self, timeout: float) -> bool:
        """Wait until the signal is set, for at most *timeout* seconds, and tell whether it is."""
        ...


class Flight:
    """Hold one miss that is being filled, and hand its answer to those who wait.

    Args:
        signal: what followers wait for.
    """

    def __init__(self, signal: Signal) -> None:
        self.body: bytes | None = None
        self._signal: Final = signal

    def wait(self, timeout_s: float) -> bytes | None:
        """Return the body that was stored; None if none was, or if none was within *timeout_s* seconds."""
        self._signal.wait(timeout_s)
        return self.body

    def land(self, body: bytes | None) -> None:
        """Hand *body* to all who wait; None if nothing was stored."""
        self.body = body
        self._signal.set()


class Flights:
    """Keep the flights of one process, by entry.

    Args:
        signal: makes the signals that followers wait for.
    """

    def __init__(self, signal: type[Signal] = threading.Event) -> None:
        self._signal = signal
        self._start_anew()
        os.register_at_fork(after_in_child=partial(_forked, weakref.ref(self)))

    def _start_anew(self) -> None:
        # This also runs in a forked child: nobody there leads its parent's flights, or would release the lock.
        self._lock = threading.Lock()
        self._flights: dict[tuple[str, str], Flight] = {}

    def join(self, tenant: str, entry: str) -> tuple[Flight, bool]:
        """Return the flight of this entry, and whether the caller leads it. A leader must :meth:`close` it."""
        with self._lock:
            flight = self._flights.get((tenant, entry))
            if flight is not None:
                return flight, False
            flight = self._flights[tenant, entry] = Flight(self._signal())
            return flight, True

    def close(self, tenant: str, entry: str, flight: Flight) -> None:
        """Let nobody join *flight* any more. It does no harm to repeat this."""
        with self._lock:
            if self._flights.get((tenant, entry)) is flight:
                del self._flights[tenant, entry]


def _forked(reference: weakref.ref[Flights]) -> None:
    flights = reference()
    if flights is not None:
        flights._start_anew()  # noqa: SLF001  # of this module
