"""A thread beside the program, which every forked process starts anew."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from tidegate.fork_hooks import reset_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable

_WAIT_S: Final = 5.0


class Background:
    """Run a thread that the first who needs it starts, in each process: threads do not survive a fork.

    Args:
        name: the name of the thread.
        run: what the thread does, until the event that it is given is set.
    """

    def __init__(self, name: str, run: Callable[[threading.Event], None]) -> None:
        self._name = name
        self._run = run
        self._closed = False
        self._thread: threading.Thread | None = None
        self._forget()
        reset_after_fork(self._forget)

    @property
    def started(self) -> bool:
        """Tell whether this process has started the thread, and has not closed it since."""
        return self._thread is not None and not self._closed

    def ensure_started(self) -> None:
        """Start the thread, if it does not run in this process."""
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None and not self._closed:
                thread = threading.Thread(target=self._run, args=(self._stop,), name=self._name, daemon=True)
                thread.start()
                self._thread = thread

    def close(self, wake: Callable[[], None] | None = None, *, wait_s: float = _WAIT_S) -> None:
        """End the thread. It is not started again.

        Args:
            wake: makes the thread look at its event.
            wait_s: how long to wait until it has ended, in seconds.
        """
        self._closed = True
        self._stop.set()
        if wake is not None:
            wake()
        if self._thread is not None:
            self._thread.join(timeout=wait_s)

    def _forget(self) -> None:
        self._lock = threading.Lock()  # a new one: the parent's lock may have been held at the fork
        self._stop = threading.Event()
        self._thread = None
