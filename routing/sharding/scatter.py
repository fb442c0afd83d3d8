"""How every shard is asked at once, and how their answers are merged as if one database had given them.

Each shard has a few threads of its own: a slow shard keeps its own threads busy, and never those of another. A caller
that waits for it waits until the time is up, and no longer.
"""

from __future__ import annotations

import contextvars
import heapq
import threading
import time
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, wait
from contextvars import ContextVar
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError

from tidegate.errors import PartialResult, StaleShardMap
from tidegate.fork_hooks import reset_after_fork
from tidegate.routing.threads.daemon_pool import DaemonPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from concurrent.futures import Future

T = TypeVar("T")
Key: TypeAlias = "Callable[[T], Any]"

OF_THE_SHARD: Final = (OperationalError, InterfaceError, OSError)
"""Errors that are about the shard, and not about what it was asked."""
_LAST_S: Final = 1.0


_until_s: Final[ContextVar[float | None]] = ContextVar("tidegate_scatter_until", default=None)


def time_left_s() -> float | None:
    """Return how long the scatter still waits for the calling function, in seconds; None outside a scatter."""
    until_s = _until_s.get()
    return None if until_s is None else max(0.0, until_s - time.monotonic())


class Answers(NamedTuple):
    """What some shards have answered: answers and errors by shard, in the order in which the shards were asked."""

    succeeded: Mapping[str, Any]
    failed: Mapping[str, BaseException]

    def every(self, what: str) -> Mapping[str, Any]:
        """Return all answers, if none is missing.

        Args:
            what: what the shards were asked for; shown in errors.

        Raises:
            StaleShardMap: any shard raised it: with a newer map, all must be asked again.
            PartialResult: a shard failed or was not in time. The error names it, and holds what the others answered.
            Exception: every shard raised an error of this type, which is about the call and not about the shards.
        """
        if not self.failed:
            return self.succeeded
        for error in self.failed.values():
            if isinstance(error, StaleShardMap):
                raise error
        first = next(iter(self.failed.values()))
        alike = {type(error) for error in self.failed.values()} == {type(first)}
        if not self.succeeded and alike and not isinstance(first, OF_THE_SHARD):
            raise first
        raise PartialResult(what, self.succeeded, self.failed) from first


class Scatter:
    """Run functions on shards in parallel.

    Args:
        threads_each: how many calls run at once on one shard. Others wait for their turn, until their time is up.
        timeout_s: how long one scatter may take, in seconds, unless the call says otherwise.
    """

    def __init__(self, *, threads_each: int = 4, timeout_s: float = 10.0) -> None:
        self._threads_each = threads_each
        self._timeout_s = timeout_s
        self._threads: dict[str, DaemonPool] = {}
        self._abandoned: set[Future[Any]] = set()
        self._lock = threading.Lock()
        reset_after_fork(self._forget)

    def __call__(
        self,
        what: str,
        asked: Mapping[str, Callable[[], T]],
        *,
        timeout_s: float | None = None,
    ) -> Mapping[str, T]:
        """Run one function for each shard, and return their answers by shard.

        Args:
            what: what the shards are asked for; shown in errors.
            asked: functions by shard. Each runs with the caller's context variables.
            timeout_s: how long all together may take, in seconds; None: as the scatter was made. A function that goes
                on after that is not interrupted, and keeps a thread of its shard: it should ask :func:`time_left_s`.

        Raises:
            StaleShardMap: any shard raised it: with a newer map, all must be asked again.
            PartialResult: a shard failed or was not in time. The error names it, and holds what the others answered.
            Exception: every shard raised an error of this type, which is about the call and not about the shards.
        """
        return self.all_of(asked, timeout_s=timeout_s).every(what)

    def all_of(
        self,
        asked: Mapping[str, Callable[[], T]],
        *,
        timeout_s: float | None = None,
        enough: Callable[[Mapping[str, T]], bool] | None = None,
    ) -> Answers:
        """Run one function for each shard, and return answers and errors. No error of a shard is raised.

        Args:
            asked: functions by shard.
            timeout_s: how long all together may take, in seconds; None: as the scatter was made.
            enough: tells whether the answers so far make it needless to wait for the others, which then count as
                failed.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        until_s = time.monotonic() + timeout_s
        running = {shard: self._submit(shard, function, until_s) for shard, function in asked.items()}
        _wait(running, until_s, enough)
        succeeded: dict[str, Any] = {}
        failed: dict[str, BaseException] = {}
        for shard, future in running.items():
            # Cancel it if it has not begun: nobody waits for it any more, so it must not take a turn.
            if future.cancel() or not future.done():
                self._abandoned.add(future)
                future.add_done_callback(self._abandoned.discard)
                failed[shard] = TimeoutError(f"the shard {shard} did not answer in time")
            elif (error := future.exception()) is not None:
                failed[shard] = error
            else:
                succeeded[shard] = future.result()
        return Answers(succeeded, failed)

    def close(self) -> None:
        """End the threads once they have nothing to do. The next scatter makes new ones.

        A function that nobody waited for holds a connection, and gets one second to give it back.
        """
        with self._lock:
            self._threads = {}
        wait(self._abandoned.copy(), _LAST_S)

    def _submit(self, shard: str, function: Callable[[], T], until_s: float) -> Future[T]:
        context = contextvars.copy_context()
        context.run(_until_s.set, until_s)
        with self._lock:
            threads = self._threads.get(shard)
            if threads is None:
                threads = self._threads[shard] = DaemonPool(self._threads_each, f"tidegate-{shard}")
            return threads.submit(partial(context.run, function))

    def _forget(self) -> None:
        # A forked child needs new ones: it has none of the parent's threads, and the lock may have been held.
        self._lock = threading.Lock()
        self._threads, self._abandoned = {}, set()


def _wait(running: Mapping[str, Future[T]], until_s: float, enough: Callable[[Mapping[str, T]], bool] | None) -> None:
    waiting = set(running.values())
    while waiting:
        done, waiting = wait(
            waiting, max(0.0, until_s - time.monotonic()), ALL_COMPLETED if enough is None else FIRST_COMPLETED
        )
        if not done:  # the time is up
            return
        answered = [(shard, each) for shard, each in running.items() if each.done() and each.exception() is None]
        if enough is not None and enough({shard: each.result() for shard, each in answered}):
            return


def merged(parts: Iterable[Sequence[T]], key: Key[T], *, limit: int | None) -> list[T]:
    """Return the first *limit* rows of what one database with all rows would give.

    Args:
        parts: the rows of each shard, in the order of *key*; each part has at least *limit* rows, or all that there
            are.
        key: tells any two rows apart, like (created_at, id). Ids compare as text in the order in which PostgreSQL
            compares them as uuid.
        limit: at most so many rows; None: all.
    """
    return list(islice(heapq.merge(*parts, key=key), limit))


def summed(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add up the counts of several shards, name by name."""
    total: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return total
