"""How many calls wait for a server that has fallen silent: ten wait for the whole time-out, all others for a moment.

A circuit breaker opens after failures, and a failure takes a whole time-out. Without this module, every call that is
under way when a server stops would wait that long. A call that comes while ten wait already gives up after a moment (a
fifth of the time-out), unless another call of this process was answered meanwhile: then the server is busy, and not
silent. Once the server is known to be silent, a call that finds ten waiting does not wait at all, until some call is
answered or the breaker has opened.

    ten          sent ------------------------------------- time-out: failed, which the breaker counts
    all others   sent ------- a moment: anybody answered? yes: another moment; no: go to the database
    later ones                         go to the database
"""

from __future__ import annotations

import threading
from collections import deque
from itertools import count
from typing import Final

MOST: Final = 10
MOMENTS: Final = 5
"""How many moments there are in one time-out."""


class Bulkhead:
    """Give out the places of those who may wait for the whole time-out.

    It costs a call a number and two operations on a deque, which are atomic.

    Args:
        timeout_s: how long a call with a place waits, in seconds; None: for ever, and so does a call without a place.
        most: how many places there are.
    """

    def __init__(self, timeout_s: float | None, most: int = MOST) -> None:
        self.timeout_s: Final = timeout_s
        self.moment_s: Final = None if timeout_s is None else timeout_s / MOMENTS
        self._numbers = count(1)
        self.answers = 0
        """A number that is another one after each answer."""
        self._silent_since = -1
        self._free = deque([None] * most)
        self._spent: deque[None] = deque(maxlen=most - 1)
        # Taken by itself: a Condition takes its lock in a function of Python, and an interruption may come out of that.
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)
        self._listening = 0

    @property
    def silent(self) -> bool:
        """Tell whether some call has waited a moment in vain, and none was answered since."""
        return self._silent_since == self.answers

    def enter(self) -> bool:
        """Take a place, and tell whether there was one."""
        try:
            self._free.pop()
        except IndexError:
            return False
        return True

    def leave(self) -> None:
        """Give a place back."""
        self._free.append(None)

    def spend(self) -> None:
        """Mark a place as spent, because its holder has waited in vain.

        The place is not free again before some call is answered. Otherwise the calls that follow the first failures
        would wait too, before there are enough failures to open the breaker. The last place comes back at once, so that
        there is always one call that asks.
        """
        if len(self._spent) == self._spent.maxlen:
            self.leave()
        else:
            self._spent.append(None)

    def answered(self, *, placed: bool = False) -> None:
        """Take note that an answer has come, tell those who listen, and free the places that were spent.

        Args:
            placed: whether who got the answer gives its own place back.
        """
        if placed:
            self._free.append(None)
        self.answers = next(self._numbers)
        if self._listening:
            with self._lock:
                self._news.notify_all()
        while self._spent:
            try:
                self._free.append(self._spent.pop())
            except IndexError:  # another thread was faster
                return

    def is_answering(self) -> bool:
        """Wait a moment for an answer to some call, and tell whether one came.

        If none did, the server has fallen silent.
        """
        answers = self.answers
        with self._lock:
            # First count as a listener, then look at the answers: in the other order, a call that is answered in
            # between would see no listener, and notify nobody.
            self._listening += 1
            heard = self._news.wait_for(lambda: self.answers != answers, self.moment_s)
            self._listening -= 1
        if not heard:
            self.fell_silent(answers)
        return heard

    def fell_silent(self, answers: int) -> None:
        """Take note that no call was answered for a moment, since *answers* was read."""
        self._silent_since = answers
