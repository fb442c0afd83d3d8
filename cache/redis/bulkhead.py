"""How many calls wait for a server that has fallen silent: ten as long as its time-out says, all others a moment.

A breaker opens after failures, and a failure takes a whole time-out: without this, whoever is under way when a server
stops would wait for it. Who comes when ten wait already gives up after a moment (a fifth of the time-out), unless
somebody of this process was answered meanwhile: then the server is busy, and not silent. Once it is known to be silent,
who comes as one too many does not wait at all, until somebody is answered or the breaker has opened.

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
"""In one time-out."""


class Bulkhead:
    """The places of those who may wait; costs a call two operations on a deque, which are atomic, and a number.

    Args:
        timeout_s: how long one with a place waits, in seconds; None for ever, and the others too.
        most: how many places there are.
    """

    def __init__(self, timeout_s: float | None, most: int = MOST) -> None:
        self.timeout_s: Final = timeout_s
        self.moment_s: Final = None if timeout_s is None else timeout_s / MOMENTS
        self._numbers = count(1)
        self.answers = 0
        """Another number after each answer that has come."""
        self._silent_since = -1
        self._free = deque([None] * most)
        self._spent: deque[None] = deque(maxlen=most - 1)
        self._news = threading.Condition()
        self._listening = 0

    @property
    def silent(self) -> bool:
        """Whether somebody has waited a moment in vain, and nobody was answered since."""
        return self._silent_since == self.answers

    def enter(self) -> bool:
        """Take a place, if there is one."""
        try:
            self._free.pop()
        except IndexError:
            return False
        return True

    def leave(self) -> None:
        """Give a place back."""
        self._free.append(None)

    def spend(self) -> None:
        """A place's holder has waited in vain: it is not free again before somebody is answered.

        Otherwise the calls that follow the first failures would wait too, before there are enough of them to open the
        breaker. The last place comes back at once, so that there is always somebody who asks.
        """
        if len(self._spent) == self._spent.maxlen:
            self.leave()
        else:
            self._spent.append(None)

    def answered(self) -> None:
        """An answer has come."""
        self.answers = next(self._numbers)
        if self._listening:
            with self._news:
                self._news.notify_all()
        while self._spent:
            try:
                self._free.append(self._spent.pop())
            except IndexError:  # another one was faster
                return

    def is_answering(self) -> bool:
        """Wait a moment for that; whether it came. If not, the server has fallen silent."""
        answers = self.answers
        with self._news:
            self._listening += 1  # before the next look at answers, or who is answered in between would not tell
            heard = self._news.wait_for(lambda: self.answers != answers, self.moment_s)
            self._listening -= 1
        if not heard:
            self.fell_silent(answers)
        return heard

    def fell_silent(self, answers: int) -> None:
        """Nobody was answered for a moment, since *answers* was read."""
        self._silent_since = answers
