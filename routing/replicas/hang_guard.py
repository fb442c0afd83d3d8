"""Ending what waits for a node that will not answer.

A server that is stopped, or cut off, keeps its connections open and says nothing; no time-out of the server's works
then, and the drivers have none of their own. So a thread shuts the sockets down, of questions that took too long, and
of reads on a node whose monitor is stuck: they fail at once, and go elsewhere.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from tidegate.routing.threads.background import Background
from tidegate.routing.threads.fork_hooks import reset_after_fork

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable

    from tidegate.routing.replicas.attempt import Attempt
    from tidegate.routing.replicas.monitor import Monitor
    from tidegate.routing.replicas.topology import Node

_TICK_S: Final = 0.1


class HangGuard:
    """A thread of the process that uses it.

    Args:
        monitors: gives the monitor of each node.
        most_s: how long a read may take on a node that answers its monitor; 0: as long as it likes.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        monitors: Callable[[], Iterable[tuple[Node, Monitor]]],
        *,
        most_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monitors = monitors
        self._most_s = most_s
        self._clock = clock
        self._under_way: set[Attempt] = set()
        self._background = Background("tidegate-cutter", self._run)
        reset_after_fork(self._forked)

    def ensure_started(self) -> None:
        """Start the thread in this process, if it does not run."""
        self._background.ensure_started()

    def add(self, attempt: Attempt) -> None:
        """A read that may have to be cut."""
        self._under_way.add(attempt)

    def discard(self, attempt: Attempt) -> None:
        """It has ended."""
        self._under_way.discard(attempt)

    def cut(self, node: Node) -> None:
        """End all that is under way on *node*."""
        for attempt in list(self._under_way):
            if attempt.node is node:
                attempt.cut()

    def close(self) -> None:
        """End the thread."""
        self._background.close()

    def _forked(self) -> None:
        self._under_way = set()

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(_TICK_S):
            now_s = self._clock()
            stuck = {node.name for node, monitor in self._monitors() if monitor.cut_if_stuck(now_s)}
            # A copy made in one step of the interpreter: reads come and go meanwhile.
            for attempt in list(self._under_way):
                if attempt.node.name in stuck or (self._most_s and now_s - attempt.began_s > self._most_s):
                    attempt.cut()
