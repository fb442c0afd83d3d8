"""A question that may hang, asked by a thread for all who want its answer at once, each of whom waits for so long."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from tidegate.routing.threads.fork_hooks import reset_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable

_CLOSE_S: Final = 1.0


class CoalescedCall:
    """Whether something has answered, which no time-out of its own makes it do.

    Those who come while one question is under way share the next, so that none is given what was asked before it came.

    Args:
        ask: the question; raises nothing.
        answer_s: how long who comes waits, in seconds; while one question takes longer than that, nobody waits.
    """

    def __init__(self, ask: Callable[[], bool], answer_s: float) -> None:
        self._ask: Final = ask
        self._answer_s: Final = answer_s
        self._lock = threading.Lock()
        self._next: _Asked | None = None
        self._thread: threading.Thread | None = None
        self._under_way = False
        self._asked_at_s = 0.0
        reset_after_fork(self._forget)

    def __call__(self) -> bool:
        """Ask, or share a question that begins after this call did; whether there was an answer, and it was True."""
        with self._lock:
            if self._under_way and time.monotonic() - self._asked_at_s > self._answer_s:
                return False
            self._next = mine = self._next or _Asked()
            if not self._under_way:
                self._thread = threading.Thread(target=self._run, name="tidegate-asks", daemon=True)
                self._thread.start()
                self._under_way, self._asked_at_s = True, time.monotonic()
        return mine.done.wait(self._answer_s) and mine.answer

    def close(self) -> None:
        """Wait a second at most for a question that is under way: its connection goes back to a pool that is closed."""
        if (thread := self._thread) is not None:
            thread.join(timeout=_CLOSE_S)

    def _run(self) -> None:
        while True:
            with self._lock:
                asked, self._next = self._next, None
                if asked is None:
                    self._under_way = False
                    return
                self._asked_at_s = time.monotonic()
            asked.answer = self._ask()
            asked.done.set()

    def _forget(self) -> None:
        # New ones in a process forked off: it has none of the parent's threads, and the lock may have been held.
        self._lock = threading.Lock()
        self._next = None
        self._thread = None
        self._under_way = False


class _Asked:
    """One question, for all who came before it began."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.answer = False
