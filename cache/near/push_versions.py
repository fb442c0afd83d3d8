"""What the server has pushed, as far as a near cache must know it: whose marks changed, and whether pushes arrive.

Each tenant has a *version*, a number that changes whenever its marks may have changed. A kept answer remembers the
version that was read *before* its lookup:

    reader: version 7 | lookup: fresh                          | keeps (answer, 7)
    pushes:                          marks changed: version 8

so a push that comes between lookup and keeping is not lost: 7 is not 8, and the answer is checked. Had the version been
read after the lookup, the answer would be kept with 8 and served for as long as nothing else changes.

A version says something only while the pushes arrive. They do as long as the server has answered, on their own
connection, a question put within the last 250 ms: replies and pushes come in the order they were written. The moment
that counts is the one when the question was *sent*: what was changed until then has been pushed before the answer.

The thread that reads the stream may have to wait 5 ms for its turn (the interpreter's switch interval) while others are
served. So these look for themselves whether something has come that is not read yet, and take that for silence:

    reader: anything unread? no |                           | is it being read? no | version
    thread:                       being read := yes | reads | version 8 | being read := no

Asked the other way round, what was read between the two questions would be seen by neither.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

ALIVE_S: Final = 0.25
"""How old the last question that was answered may be, in seconds: the bound of staleness in a partition."""
MOST_TENANTS: Final = 100_000


uptime_s: Final[Callable[[], float]] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Seconds, of a clock that nobody sets, and that goes on while the machine sleeps where there is such a one."""


class PushVersions(Protocol):
    """A stream of pushes. Ask it in this order: first whether it is alive, then for the version."""

    def alive(self) -> bool:
        """Tell whether all that was changed until 250 ms ago has been pushed to here, and nothing waits to be read."""
        ...

    def version(self, tenant: str) -> int:
        """Return a number that is another one each time the marks of *tenant* may have changed."""
        ...

    def caught_up(self, timeout_s: float) -> bool:
        """Wait until all that was changed before this call has been pushed to here; tell whether it was in time."""
        ...

    def close(self) -> None:
        """End the stream: from now on it is not alive."""
        ...


class VersionsByTenant:
    """Keep versions by key, written by the one thread that reads the stream, and read by all.

    Args:
        clock: seconds; see :func:`uptime_s`.
        most: keys that have a version of their own, before all get a new one together.
    """

    def __init__(self, clock: Callable[[], float] = uptime_s, most: int = MOST_TENANTS) -> None:
        self.clock: Final = clock
        self._most = most
        self._numbers = count(1)  # never twice, so that a version of another life of the stream is none of this one
        self._view: tuple[int, dict[bytes, int]] = (0, {})
        self._vouched_s = float("-inf")
        self.unread: Callable[[], bool] = lambda: False
        self.being_read = False
        self._news = threading.Condition()

    def of(self, key: bytes) -> int:
        """Return the version of *key*."""
        base, own = self._view  # one read: the two belong together
        return own.get(key, base)

    def alive(self) -> bool:
        """Tell whether the last question that was answered is young enough, and nothing has come since."""
        if self.clock() - self._vouched_s > ALIVE_S:
            return False
        return not self.unread() and not self.being_read  # in this order; see above

    def void(self, key: bytes) -> None:
        """Give *key* a new version: a push named it."""
        own = self._view[1]
        if len(own) >= self._most and key not in own:
            self.void_all()
            return
        own[key] = next(self._numbers)

    def void_all(self) -> None:
        """Give every key a new version: the stream begins, or everything was flushed."""
        self._view = (next(self._numbers), {})

    def vouch(self, sent_s: float) -> None:
        """Take note that a question sent at *sent_s* has been answered."""
        with self._news:
            self._vouched_s = sent_s
            self._news.notify_all()

    def silence(self) -> None:
        """Take note that the stream is interrupted."""
        self._vouched_s = float("-inf")

    def wait_until_vouched(self, since_s: float, timeout_s: float) -> bool:
        """Wait for the answer to a question sent after *since_s*; tell whether it came."""
        with self._news:
            return self._news.wait_for(lambda: self._vouched_s > since_s, timeout_s)
