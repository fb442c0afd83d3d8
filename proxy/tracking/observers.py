"""Telling a program's observers what was committed: after the commit, in a thread of the gate, never in a writer's way.

A commit takes its place in the queue before COMMIT is sent, while it holds the locks of its rows. Who changes one of
these rows next comes behind it. So the order of the queue is that of the changes of each row. What is committed is
told; what is rolled back leaves its place empty.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

from tidegate.cache.events import ObserverFailed, ObserversMissed, ignore
from tidegate.error_text import traceback_text
from tidegate.fork_hooks import reset_after_fork
from tidegate.proxy.observe import ObserverFailures
from tidegate.proxy.tracking.model_tables import shown
from tidegate.proxy.tracking.row_events import RowEvent, events_of, sources_of, summaries_of
from tidegate.proxy.tracking.tracked_tables import keys_of
from tidegate.public import public
from tidegate.routing.threads.background import Background

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tidegate.cache.events import Observer as Telemetry
    from tidegate.proxy.tracking.notes import Note
    from tidegate.proxy.tracking.tracked_tables import Tables
    from tidegate.repositories.policies import Model

RowObserver: TypeAlias = "Callable[[RowEvent], object]"
"""Is told of each row that was changed."""
MOST_BYTES: Final = 16 * 1024 * 1024
"""How many characters of notes wait at most; with more, what comes is dropped."""
PATIENCE_S: Final = 60.0
CLOSE_S: Final = 5.0
_log: Final = logging.getLogger(__name__)


class Begun:
    """A transaction's place in the queue. Only the first of its three ends counts.

    Args:
        notes: what it has changed.
        ended: is called when it has ended.
    """

    __slots__ = ("_ended", "known", "notes", "since_s")

    def __init__(self, notes: Sequence[Note], ended: Callable[[], None]) -> None:
        self.notes: Sequence[Note] | None = notes
        self.known: bool | None = None
        """True: it was committed; False: nobody knows; None: it has not ended."""
        self._ended = ended
        self.since_s: Final = time.monotonic()

    def committed(self) -> None:
        """Have it told."""
        self._end(self.notes, known=True)

    def rolled_back(self) -> None:
        """Have it forgotten."""
        self._end((), known=True)

    def lost(self) -> None:
        """Have it told as what may have changed: nobody knows whether it was committed."""
        self._end(self.notes, known=False)

    def _end(self, notes: Sequence[Note] | None, *, known: bool) -> None:
        if self.known is None:
            self.notes, self.known = notes, known
            self._ended()


class Observers:
    """Keep the observers of a gate, and tell them what was committed, in a thread that the first commit starts.

    Args:
        tables: what is tracked.
        telemetry: is told of observers that fail, and of what they miss.
        most_bytes: how many characters of notes wait at most.
        patience_s: how long a commit may take before what comes behind it is told all the same, in seconds; it is then
            told as one of which nobody knows.
    """

    def __init__(
        self,
        tables: Tables,
        telemetry: Telemetry = ignore,
        *,
        most_bytes: int = MOST_BYTES,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._tables: Final = tables
        self._telemetry: Final = telemetry
        self._most_bytes: Final = most_bytes
        self._patience_s: Final = patience_s
        self._sources: tuple[int, frozenset[str]] = (0, frozenset())
        self._until_s = 0.0
        self._lock = threading.Lock()
        self._observers: tuple[tuple[frozenset[str] | None, RowObserver], ...] = ()
        self._failures: Final = ObserverFailures(_log)
        self._thread = Background("tidegate-observers", self._run)
        self._forget()
        reset_after_fork(self._forget)

    @property
    def active(self) -> bool:
        """Tell whether anybody observes."""
        return bool(self._observers)

    def add(self, names: frozenset[str] | None, callback: RowObserver) -> Callable[[], None]:
        """Tell *callback* of the rows of the tables with these names, or of all; return what ends that."""
        one = (names, callback)
        self._observers = (*self._observers, one)

        def stop() -> None:
            self._observers = tuple(each for each in self._observers if each is not one)

        return stop

    def begin(self, notes: Sequence[Note]) -> Begun:
        """Take a place in the queue for a transaction that is about to be committed."""
        begun = Begun(tuple(notes), self._news.set)
        self._put(begun)
        return begun

    def applied(self, notes: Sequence[Note]) -> None:
        """Tell of transactions that others have committed, each by a note that a gate has found in the outbox."""
        if self._observers:
            for note in notes:
                self.begin((note,)).committed()

    def _put(self, begun: Begun) -> None:
        size = sum(len(note.rows) for note in begun.notes or ())
        with self._lock:
            fits = self._bytes + size <= self._most_bytes
            if fits:
                self._bytes += size
                self._queue.append((begun, size))
            else:
                self._has_missed = True
        if not fits:
            self._telemetry(ObserversMissed())
        self._thread.ensure_started()

    def close(self) -> None:
        """Tell what waits, for five seconds at most, and end the thread."""
        self._until_s = time.monotonic() + CLOSE_S
        self._thread.close(self._news.set, wait_s=CLOSE_S)
        self._observers = ()

    def _forget(self) -> None:
        # What waits in a process is told there, and not once more in a process that it has forked.
        self._queue: deque[tuple[Begun, int]] = deque()
        self._bytes, self._has_missed = 0, False
        self._lock, self._news = threading.Lock(), threading.Event()

    def _run(self, stop: threading.Event) -> None:
        while True:
            self._news.clear()
            while self._queue and not (stop.is_set() and time.monotonic() > self._until_s):
                begun, size = self._queue[0]
                if begun.known is None and time.monotonic() - begun.since_s > self._patience_s:
                    begun.lost()
                if begun.known is None:
                    break
                self._tell(begun)
                with self._lock:
                    self._queue.popleft()
                    self._bytes -= size
                self._tell_missed()
            self._tell_missed()
            if stop.is_set():
                return
            self._news.wait(self._patience_s if self._queue else None)

    def _tell_missed(self) -> None:
        if self._has_missed:
            self._has_missed = False
            self._call(RowEvent("changed"))

    def _listened_to(self) -> frozenset[str]:
        tables = tuple(self._tables)
        if len(tables) != self._sources[0]:
            self._sources = (len(tables), sources_of(tables))
        return self._sources[1]

    def _tell(self, begun: Begun) -> None:
        try:
            told = events_of if begun.known else summaries_of
            for event in told(begun.notes or (), self._listened_to()):
                self._call(event)
        except Exception as error:  # noqa: BLE001  # the thread must live on
            _log.error("a note could not be told to observers\n%s", traceback_text(error))

    def _call(self, event: RowEvent) -> None:
        for names, callback in self._observers:
            if names is None or event.entity is None or event.entity in names:
                try:
                    callback(event)
                except Exception as error:  # noqa: BLE001  # the next observer, and the next event, are told all the same
                    self._say(callback, error)

    def _say(self, callback: RowObserver, error: Exception) -> None:
        self._telemetry(ObserverFailed(type(error).__name__))
        self._failures.say(callback, error)


@public
class AuditLog:
    """Log a line for each row that was changed: an observer for :meth:`Gate.observe`.

    Args:
        logger: lines go there, at INFO; None: to ``tidegate.audit``.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger: Final = logger or logging.getLogger("tidegate.audit")

    def __call__(self, event: RowEvent) -> None:
        """Log *event*, without the values of its columns."""
        entity, tenant = event.entity or "anything", event.tenant or "any tenant"
        what = f"{entity} {event.id}" if event.id is not None else entity
        self._logger.info("%s: %s of %s", event.did, what, tenant)


def entities(tables: Tables) -> dict[Model, frozenset[str]]:
    """Return the names of the tables in which the rows of each tracked model lie."""
    return {model: frozenset(map(shown, keys_of(model))) for table in tables for model in table.models}
