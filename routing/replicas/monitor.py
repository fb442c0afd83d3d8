"""How one node is watched: a thread asks it now and then, and more often while a read waits for it to catch up."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from random import uniform
from typing import TYPE_CHECKING, Final, Protocol

from tidegate.error_text import first_line
from tidegate.fork_hooks import reset_after_fork
from tidegate.routing.threads.background import Background

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.routing.replicas.topology import View

_JITTER: Final = 0.2


class MonitorConnection(Protocol):
    """Ask one node, on a connection that belongs to its monitor."""

    def ask(self) -> View:
        """Ask one question. What the driver raises is raised; the next question connects anew."""
        ...

    def cut(self) -> None:
        """Make a question fail at once that is under way in another thread."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a node is asked, in seconds.

    Args:
        idle_s: the pause as long as no read waits for the node.
        wanted_s: the pause while reads go to the primary because this node has not replayed far enough.
        most_s: how long one question may take before its connection is cut.
        least_s: up to this age a view is as good as new to a read that waits for the node.
    """

    idle_s: float = 0.25
    wanted_s: float = 0.02
    most_s: float = 1.0
    least_s: float = 0.005


class Monitor:
    """Ask one node again and again, with jitter, in a thread of the process that uses this object.

    Args:
        name: the name of the node.
        line: the connection by which it is asked.
        seen: is told each answer.
        lost: is told, in words, of each question that failed.
        pace: how often to ask.
        clock: a monotonic clock, in seconds.
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
        """Ask more often for a while: a read would have gone to this node if it had been seen to be further."""
        first = self._clock() >= self._wanted_until_s
        self._wanted_until_s = self._clock() + self._pace.idle_s
        if first:
            self._wake.set()

    def ask_soon(self) -> None:
        """Ask at once, because a read waits for the answer.

        If a question is under way, the next one follows without a pause.
        """
        self._wake.set()

    def cut_if_stuck(self, now_s: float) -> bool:
        """Cut the question that is under way if it takes too long, and tell whether it was cut."""
        asked_s = self._asked_s
        if asked_s is None or now_s - asked_s < self._pace.most_s:
            return False
        self._line.cut()
        return True

    def ask_now(self) -> None:
        """Ask once, in the caller's thread, before the monitor has been started."""
        self._ask()

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        if self._background.started:
            self._background.close(self._interrupt)
            return
        self._background.close()
        if self._asked_s is None:  # only ask_now was used, and it is not under way
            self._line.close()

    def _interrupt(self) -> None:
        self._wake.set()
        self._line.cut()

    def _forked(self) -> None:
        self._wake = threading.Event()  # a new one: the parent's thread may have held its lock at the fork
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
        except Exception as error:  # noqa: BLE001  # whatever the driver raises, the node did not answer
            if not self._closed:
                self._lost(first_line(error))
        else:
            self._seen(view)
        finally:
            self._asked_s = None
