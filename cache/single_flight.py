"""Single flight in one process: of several threads that miss the same entry one fills it, and the others wait.

A follower may take the leader's answer only if that was *stored after the follower had come*. Then the store has
vouched, at a moment after the follower's read began, that nothing had been bumped. So a flight is closed to newcomers
before its answer is offered to the store, and followers get nothing from an answer that the store refused.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from tidegate.fork_hooks import reset_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.cache.store import Miss

_LONGEST_POLL_MS: Final = 32.0


class Signal(Protocol):
    """Wake the followers of a flight: a switch that is set once, like a ``threading.Event``."""

    def set(self) -> None:
        """Let all go on who wait."""
        ...

    def wait(self, timeout: float) -> bool:
        """Wait until the signal is set, for at most *timeout* seconds, and tell whether it is."""
        ...


class Latch:
    """Be a :class:`Signal` that an interruption cannot break.

    A ``threading.Event`` takes its lock in a function of Python. A signal's exception that comes out of that leaves the
    lock taken, and whoever sets the event after that waits for ever. Here each waiter has a lock of its own.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._waiters: deque[threading.Lock] = deque()

    def set(self) -> None:
        """Let all go on who wait. If this was interrupted, it can be done again."""
        self._is_set = True
        for waiter in tuple(self._waiters):
            with suppress(RuntimeError):  # released before
                waiter.release()

    def wait(self, timeout: float) -> bool:
        """Wait until the latch is set, for at most *timeout* seconds, and tell whether it is."""
        own = threading.Lock()
        own.acquire()
        self._waiters.append(own)
        # Only now: whoever sets it from now on finds this waiter.
        return self._is_set or own.acquire(timeout=timeout)


class Flight:
    """Hold one miss that is being filled, and hand its answer to those who wait.

    Args:
        signal: what followers wait for.
        miss: what its leader has noted.
    """

    def __init__(self, signal: Signal, miss: Miss) -> None:
        self.body: bytes | None = None
        self.unstorable = False
        """Whether its leader found that the store takes nothing: then nobody else needs to try."""
        self.followed = False
        """Whether somebody has joined it who does not lead it."""
        self.miss = miss
        self._signal: Final = signal

    def is_hopeless(self, miss: Miss) -> bool:
        """Tell whether by a later *miss* the store will refuse what this flight brings."""
        noted = self.miss.noted
        return noted.nonce != miss.noted.nonce or miss.guard_generation > noted.counter

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

    def __init__(self, signal: Callable[[], Signal] = Latch) -> None:
        self._signal = signal
        self._start_anew()
        reset_after_fork(self._start_anew)

    def _start_anew(self) -> None:
        # This also runs in a forked child: nobody there leads its parent's flights, or would release the lock.
        self._lock = threading.Lock()
        self._flights: dict[tuple[str, str], Flight] = {}

    def flight(self, miss: Miss) -> Flight:
        """Make a flight that nobody is in yet."""
        return Flight(self._signal(), miss)

    def join(self, tenant: str, entry: str, own: Flight) -> Flight:
        """Return the flight of this entry; *own* if there was none, or one without hope.

        Who gets *own* leads it, and must :meth:`close` it. A leader has made it before this call, so that it can close
        it also if this call is interrupted.
        """
        with self._lock:
            flight = self._flights.get((tenant, entry))
            if flight is None or flight.is_hopeless(own.miss):
                flight = self._flights[tenant, entry] = own
            flight.followed = flight.followed or flight is not own
            return flight

    def close(self, tenant: str, entry: str, flight: Flight) -> None:
        """Let nobody join *flight* any more. It does no harm to repeat this."""
        with self._lock:
            if self._flights.get((tenant, entry)) is flight:
                del self._flights[tenant, entry]


class Turn:
    """Guide one read among those that want the same entry: until when it waits, and which flight it is in.

    Args:
        flights: the flights of this process.
        tenant: whose entry it is.
        entry: the digest that names the entry.
        deadline_ms: after this the read begins to wait for nobody, by the clock of the read path, in milliseconds.
        poll_ms: the first pause between two looks whether another process has filled, in milliseconds.
    """

    __slots__ = ("_entry", "_flights", "_poll_ms", "_tenant", "deadline_ms", "flight", "holder", "leads", "token")

    def __init__(self, flights: Flights, tenant: str, entry: str, deadline_ms: int, poll_ms: float) -> None:
        self._flights = flights
        self._tenant = tenant
        self._entry = entry
        self._poll_ms = poll_ms
        self.deadline_ms = deadline_ms
        self.flight: Flight | None = None
        self.leads = False
        self.token: str | None = None
        """The lease that this read may hold; None: it holds none for sure."""
        self.holder: str | None = None
        """Who held the lease when the deadline had come."""

    def join(self, miss: Miss) -> Flight:
        """Return the flight of the entry, and join it first. If there was none, this read leads it."""
        if self.flight is None:
            # Led until it is known to be another's: whatever interrupts this, leave() closes what may be open.
            self.flight, self.leads = own, _ = self._flights.flight(miss), True
            self.flight = self._flights.join(self._tenant, self._entry, own)
            self.leads = self.flight is own
        elif self.leads:
            self.flight.miss = miss
        return self.flight

    def close(self) -> None:
        """Let nobody join the flight any more, if this read leads it."""
        if self.flight is not None and self.leads:
            self._flights.close(self._tenant, self._entry, self.flight)

    @property
    def is_followed(self) -> bool:
        """Tell whether others may wait for what this read brings; once it is closed, nobody else joins them."""
        return self.flight is not None and self.flight.followed

    def leave(self, body: bytes | None = None, *, unstorable: bool = False) -> None:
        """Leave the flight.

        Reads that followed this one get *body*, or look for themselves; if the store takes nothing, they query.
        """
        self.close()
        if self.flight is not None and self.leads:
            self.flight.unstorable = unstorable
            self.flight.land(body)
        self.flight, self.leads = None, False

    def next_poll_s(self, left_ms: int) -> float:
        """Return how long to wait before the next look, in seconds.

        It is longer each time, so that a crowd of waiters costs the store little, and jittered, so that they spread.
        """
        poll_ms, self._poll_ms = self._poll_ms, min(self._poll_ms * 2, _LONGEST_POLL_MS)
        return min(float(left_ms), poll_ms * (0.5 + random.random())) / 1000  # noqa: S311  # no secret
