"""Threads of one process that ask a gate for the same page at the same moment, and tell what that took."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from sqlalchemy import event

import tidegate
from real_servers.subprocesses import argument, hear, tell
from real_servers.versioned_tenant import SOURCE, Book
from tidegate.cache.events import Missed, Served

if TYPE_CHECKING:
    from tidegate.proxy.observe import Event


class Crowd:
    """The threads, their answers, and the database connections they took.

    Args:
        gate: asked by all of them.
        book: whose first page is asked for.
        threads: how many.
        missed: counts the misses.
    """

    def __init__(self, gate: tidegate.Gate, book: Book, threads: int) -> None:
        self._gate = gate
        self._book = book
        self._barrier = threading.Barrier(threads + 1)
        self.waits_s: list[float] = []
        self.rows: list[int] = []
        self.held: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._ask, name=f"asker {n}") for n in range(threads)]
        event.listen(gate.engine, "checkout", self._checked_out)
        for thread in self._threads:
            thread.start()

    def go(self) -> None:
        """Let all ask at once."""
        self._barrier.wait()

    def join(self) -> dict[str, Any]:
        """Wait for all answers; what they took."""
        for thread in self._threads:
            thread.join()
        return {"waits_s": self.waits_s, "rows": self.rows, "held": dict(self.held)}

    def _checked_out(self, *_: object) -> None:
        if (name := threading.current_thread().name).startswith("asker"):
            self.held[name] += 1

    def _ask(self) -> None:
        runs = self._gate.workflow_runs
        self._barrier.wait()
        begun = time.monotonic()
        page = runs.get_paginated_workflow_runs(self._book.tenant, self._book.app, SOURCE)
        self.waits_s.append(time.monotonic() - begun)
        self.rows.append(len(page.data))


def main() -> None:
    """Argument: settings, the number of threads. For each book it is told: one round, see :func:`_round`."""
    given = argument()
    threads = given["threads"]
    misses, asked = threading.Semaphore(0), threading.Event()

    def observe(event: Event) -> None:
        if isinstance(event, Missed | Served):
            asked.set()
        if isinstance(event, Missed):
            misses.release()

    with tidegate.connect(tidegate.Settings.model_validate(given["settings"]), observe=observe) as gate:
        while (message := hear()) is not None:
            asked.clear()
            _round(gate, Book(**message), threads, misses, asked)


def _round(gate: tidegate.Gate, book: Book, threads: int, misses: threading.Semaphore, asked: threading.Event) -> None:
    """Say "ready"; ask when told; say how many have missed; say what came of it."""
    # The tenant's marks are clean then, and the connection is open: what follows is the page alone.
    # As long as this gate believes that notes of the tenant wait, it does not ask the cache.
    while not asked.wait(0.02):
        gate.workflow_runs.get_workflow_run_by_id(book.tenant, book.app, book.run)
    while misses.acquire(blocking=False):
        pass
    crowd = Crowd(gate, book, threads)
    tell("ready")
    hear()
    crowd.go()
    for _ in range(threads):
        misses.acquire()
    tell(threads)
    tell(crowd.join())


if __name__ == "__main__":
    main()
