"""A few threads that nobody waits for: what they do may hang, and the program must be able to end all the same.

When the interpreter ends, it joins the threads of a ``ThreadPoolExecutor``. It would wait for a server that says
nothing.
"""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
_Job: TypeAlias = "tuple[Future[Any], Callable[[], Any]]"


class DaemonPool:
    """Run functions in daemon threads, which are made as they are needed, and end with this object.

    Args:
        most: how many run at once; other functions wait for their turn.
        name: the beginning of the threads' names.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most: Final = most
        self._name: Final = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._idle: Final = threading.Semaphore(0)
        self._lock: Final = threading.Lock()
        self._made = 0
        weakref.finalize(self, _end, self._jobs, most).atexit = False

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Run *function* when a thread is free. Until then its future can be cancelled."""
        future: Future[T] = Future()
        self._jobs.put((future, function))
        if self._idle.acquire(blocking=False):
            return future
        with self._lock:
            if self._made < self._most:
                arguments = (self._jobs, self._idle)
                threading.Thread(target=_run, args=arguments, name=f"{self._name}-{self._made}", daemon=True).start()
                self._made += 1
        return future


def _run(jobs: SimpleQueue[_Job | None], idle: threading.Semaphore) -> None:
    while (job := jobs.get()) is not None:
        _do(*job)
        del job  # otherwise the function and its answer would be held until the next job
        idle.release()


def _do(future: Future[Any], function: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        answer = function()
    except BaseException as error:  # noqa: BLE001  # raised where the future is asked
        future.set_exception(error)
    else:
        future.set_result(answer)


def _end(jobs: SimpleQueue[_Job | None], most: int) -> None:
    for _ in range(most):
        jobs.put(None)
