"""Single flight inside one process: of threads that miss the same entry, one goes on, the others wait for its fill.

A follower may take the leader's answer only if that was *stored after the follower had come*: the store then vouched,
at a moment after the follower's read began, that nothing had been bumped. So a flight is closed to newcomers before
its answer is offered to the store, and followers get nothing from an answer that was refused.
"""

from __future__ import annotations

import os
import threading
import weakref
from functools import partial
from typing import Final, Protocol


class Signal(Protocol):
    """A one-way switch that can be waited for."""

    def set(self) -> None:
        """Let all who wait go on."""
        ...

    def wait(self, timeout: float) -> bool:
        """Wait until it is set, at most *timeout* seconds; whether it is."""
        ...


class Flight:
    """One miss that is being filled."""

    def __init__(self, signal: Signal) -> None:
        self.body: bytes | None = None
        self._signal: Final = signal

    def wait(self, timeout_s: float) -> bytes | None:
        """The body that was stored; None if none was, or not in time."""
        self._signal.wait(timeout_s)
        return self.body

    def land(self, body: bytes | None) -> None:
        """Hand *body* to all who wait."""
        self.body = body
        self._signal.set()


class Flights:
    """The flights of one process, by entry.

    Args:
        signal: makes the switches that followers wait for.
    """

    def __init__(self, signal: type[Signal] = threading.Event) -> None:
        self._signal = signal
        self._start_anew()
        os.register_at_fork(after_in_child=partial(_forked, weakref.ref(self)))

    def _start_anew(self) -> None:
        # Also in a process forked off: nobody there leads the flights of its parent, or would give the lock back.
        self._lock = threading.Lock()
        self._flights: dict[tuple[str, str], Flight] = {}

    def join(self, tenant: str, entry: str) -> tuple[Flight, bool]:
        """The flight of this entry, and whether the caller leads it; a leader must :meth:`close` it."""
        with self._lock:
            flight = self._flights.get((tenant, entry))
            if flight is not None:
                return flight, False
            flight = self._flights[tenant, entry] = Flight(self._signal())
            return flight, True

    def close(self, tenant: str, entry: str, flight: Flight) -> None:
        """Let nobody join *flight* any more; harmless when repeated."""
        with self._lock:
            if self._flights.get((tenant, entry)) is flight:
                del self._flights[tenant, entry]


def _forked(reference: weakref.ref[Flights]) -> None:
    flights = reference()
    if flights is not None:
        flights._start_anew()  # noqa: SLF001  # of this module
