"""A question that may hang: a thread asks it for all who come at the same time, and each waits for a bounded time."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from tidegate.fork_hooks import reset_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable

_CLOSE_S: Final = 1.0


class CoalescedCall:
    """Ask a question that may hang and has no time-out of its own, once for all who want the answer at the same time.

    A caller who comes while the question is being asked shares the next one. So nobody gets an answer to a question
    that was asked before he came.

    Args:
        ask: asks the question; raises nothing.
        answer_s: how long a caller waits, in seconds. While one question has taken longer than that, new callers do not
            wait.
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
        """Ask, or share a question that begins after this call did. Return its answer; False if none came in time."""
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
        """Wait at most one second for a question that is under way: its connection belongs to a pool that closes."""
        if (thread := self._thread) is not None:
            thread.join(timeout=_CLOSE_S)

    def _run(self) -> None:
        while True:
            with self._lock:
                question, self._next = self._next, None
                if question is None:
                    self._under_way = False
                    return
                self._asked_at_s = time.monotonic()
            question.answer = self._ask()
            question.done.set()

    def _forget(self) -> None:
        # A forked process makes all of it new: it has none of its parent's threads, and the lock may have been held.
        self._lock = threading.Lock()
        self._next = None
        self._thread = None
        self._under_way = False


class _Asked:
    """One question, for all callers who came before it began."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.answer = False
