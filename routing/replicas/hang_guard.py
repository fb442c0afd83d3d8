"""How a read ends that waits for a node which will not answer.

A server that is stopped, or cut off, keeps its connections open and says nothing. Its own time-outs do not work then,
and the drivers have none. So a thread shuts down sockets: those of questions that took too long, and those of reads on
a node whose monitor is stuck. These fail at once, and the reads go to another node.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from tidegate.fork_hooks import reset_after_fork
from tidegate.routing.threads.background import Background

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable

    from tidegate.routing.replicas.attempt import Attempt
    from tidegate.routing.replicas.monitor import Monitor
    from tidegate.routing.replicas.topology import Node

_TICK_S: Final = 0.1


class HangGuard:
    """Cut reads that hang, in a thread of the process that uses this object.

    Args:
        monitors: gives each node with its monitor.
        most_s: how long a read may take on a node that answers its monitor, in seconds; 0: without a limit.
        clock: a monotonic clock, in seconds.
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
        """Add a read that may have to be cut."""
        self._under_way.add(attempt)

    def discard(self, attempt: Attempt) -> None:
        """Forget a read that has ended."""
        self._under_way.discard(attempt)

    def cut(self, node: Node) -> None:
        """Cut all reads that are under way on *node*."""
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
            # list() copies in one step of the interpreter: other threads add and discard reads meanwhile.
            for attempt in list(self._under_way):
                if attempt.node.name in stuck or (self._most_s and now_s - attempt.began_s > self._most_s):
                    attempt.cut()
