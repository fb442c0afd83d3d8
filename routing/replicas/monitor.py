"""Watching one node: a thread that asks it now and then, more often while somebody waits for it to catch up."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from random import uniform
from typing import TYPE_CHECKING, Final, Protocol

from tidegate.routing.replicas.failures import first_line
from tidegate.routing.threads.background import Background
from tidegate.routing.threads.fork_hooks import reset_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.routing.replicas.topology import View

_JITTER: Final = 0.2


class MonitorConnection(Protocol):
    """A connection of the monitor's own to one node."""

    def ask(self) -> View:
        """One question; raises what the driver raises, and connects anew the next time."""
        ...

    def cut(self) -> None:
        """Have a question that is under way in another thread fail at once."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a node is asked, in seconds.

    Args:
        idle_s: as long as nobody waits for it.
        wanted_s: while reads go to the primary because this node has not replayed far enough.
        most_s: how long one question may take before its connection is cut.
        least_s: what is known of it is not older than this to be as good as new to a read that waits for it.
    """

    idle_s: float = 0.25
    wanted_s: float = 0.02
    most_s: float = 1.0
    least_s: float = 0.005


class Monitor:
    """Asks one node, jittered, in a thread of the process that uses it.

    Args:
        name: of the node.
        line: how it is asked.
        seen: told of each answer.
        lost: told of each question that failed, in words.
        pace: how often.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        name: str,
        line: MonitorConnection,
        seen: Callable[[View], None],
        lost: Callable[[str], None],
        pace: Pace,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._line = line
        self._seen = seen
        self._lost = lost
        self._pace = pace
        self._clock = clock
        self._wanted_until_s = 0.0
        self._asked_s: float | None = None
        self._wake = threading.Event()
        self._closed = False
        self._background = Background(f"tidegate-monitor {name}", self._run)
        reset_after_fork(self._forked)

    def ensure_started(self) -> None:
        """Start the thread in this process, if it does not run."""
        self._background.ensure_started()

    def want(self) -> None:
        """Somebody would have read from this node, had it been seen to be further."""
        first = self._clock() >= self._wanted_until_s
        self._wanted_until_s = self._clock() + self._pace.idle_s
        if first:
            self._wake.set()

    def ask_soon(self) -> None:
        """Somebody waits for the answer to the next question, or the one after if one is under way."""
        self._wake.set()

    def cut_if_stuck(self, now_s: float) -> bool:
        """Whether the question under way took too long; it fails then."""
        asked_s = self._asked_s
        if asked_s is None or now_s - asked_s < self._pace.most_s:
            return False
        self._line.cut()
        return True

    def ask_now(self) -> None:
        """Ask once, in the caller's thread: before the monitor has been started."""
        self._ask()

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        if self._background.started:
            self._background.close(self._interrupt)
            return
        self._background.close()
        if self._asked_s is None:  # it was only asked in passing, and nobody does any more
            self._line.close()

    def _interrupt(self) -> None:
        self._wake.set()
        self._line.cut()

    def _forked(self) -> None:
        self._wake = threading.Event()  # a new one: the parent's thread may have been about to wait
        self._asked_s = None

    def _run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._ask()
            wanted = self._clock() < self._wanted_until_s
            pause_s = self._pace.wanted_s if wanted else self._pace.idle_s
            self._wake.wait(pause_s * uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311  # no secret
            self._wake.clear()
        self._line.close()

    def _ask(self) -> None:
        self._asked_s = self._clock()
        try:
            view = self._line.ask()
        except Exception as error:  # noqa: BLE001  # whatever the driver raises: the node did not answer
            if not self._closed:
                self._lost(first_line(error))
        else:
            self._seen(view)
        finally:
            self._asked_s = None
