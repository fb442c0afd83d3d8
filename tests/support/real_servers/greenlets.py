"""A program under gevent: everything is patched before anything else is imported, and 50 greenlets share one gate."""

# ruff: noqa: E402  # the order is the point
from __future__ import annotations

from gevent import monkey

monkey.patch_all()

from collections import Counter
from typing import Any, Final

import gevent
import psycopg
from gevent.pool import Group
from sqlalchemy import event, text

import tidegate
from real_servers.deadlines import patient
from real_servers.subprocesses import argument, tell
from real_servers.versioned_tenant import READS, SOURCE, Book
from tidegate.cache.events import Served

GREENLETS: Final = 50
TURNS: Final = 4
WAITERS, LOCK = 20, 7


class Program:
    """What the greenlets do, and what was seen of it.

    Args:
        settings: of the gate.
        books: one for five greenlets.
    """

    def __init__(self, settings: dict[str, Any], books: list[Book]) -> None:
        self.gate = tidegate.connect(tidegate.Settings.model_validate(settings), observe=self._note)
        self.books = books
        self.floors: Counter[Book] = Counter()
        self.served: Counter[str] = Counter()
        self.reads = 0
        self.stale: list[str] = []

    def _note(self, happened: object) -> None:
        if isinstance(happened, Served):
            self.served[happened.where] += 1

    def all_at_once(self, does: Any) -> None:
        """Have each greenlet do this, and wait for all; what one raises is raised."""
        group = Group()
        greenlets = [group.spawn(does, number) for number in range(GREENLETS)]
        gevent.joinall(greenlets, raise_error=True)

    def read_and_write(self, number: int) -> None:
        """Read everything, and write now and then; whatever is older than the last commit before its read is stale."""
        book = self.books[number % len(self.books)]
        for turn in range(TURNS):
            if (number + turn) % 5 == 0:
                self.write(book)
            for name, read in READS.items():
                floor = self.floors[book]
                found = read(self.gate, book, floor)
                self.reads += 1
                if found < floor:
                    self.stale.append(f"{name}: {found}, and {floor} was committed")

    def write(self, book: Book) -> None:
        with self.gate.session(book.tenant) as session:
            version = book.write(session)
            session.commit()
        self.floors[book] = max(self.floors[book], version)

    def crowd(self) -> int:
        """How many queries it takes when all ask for one page that is not there."""
        book, statements = self.books[0], []
        self.gate.workflow_runs.get_workflow_run_by_id(book.tenant, book.app, book.run)
        event.listen(self.gate.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
        self.all_at_once(
            lambda _: self.gate.workflow_runs.get_paginated_workflow_runs(book.tenant, book.app, SOURCE, limit=7)
        )
        return sum("workflow_runs" in statement for statement in statements)

    def blocked(self) -> int:
        """How many statements that wait on the server are under way at the same time."""

        def one() -> None:
            with self.gate.session(self.books[0].tenant) as session:
                session.execute(text(f"SELECT pg_advisory_xact_lock_shared({LOCK})"))

        with psycopg.connect(self._conninfo(), autocommit=True) as holder:
            holder.execute("SELECT pg_advisory_lock(%s)", [LOCK])
            waiting = [gevent.spawn(one) for _ in range(WAITERS)]
            found = 0
            while found < WAITERS // 2:  # the pool's connections are fewer than they
                gevent.sleep(0.01)
                found = holder.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchall()[0][0]
        gevent.joinall(waiting, raise_error=True)
        return found

    def _conninfo(self) -> str:
        return self.gate.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")

    def near(self) -> list[int]:
        """The counted run by near answers that are not asked about: before a write of another gate, and after it."""
        book, pushes = self.books[0], self.gate._parts.pushes
        assert pushes is not None
        found = []
        for _ in range(2):
            self.write(book)
            assert pushes.caught_up(patient(10))
            self.served.clear()
            checked = self.gate.stats().events.get("NearChecked", 0)
            tokens = -1
            while self.served["near"] < 20:
                tokens = READS["by_id"](self.gate, book, 0)
            assert self.gate.stats().events.get("NearChecked", 0) - checked < self.served["near"]
            found.append(tokens - self.floors[book])
        return found

    def invalidated(self) -> list[int]:
        """How many writes an answer lacks that no gate saw: before the invalidation, and after it."""
        book, by_id, lacks = self.books[1], READS["by_id"], []
        known = 0
        self.served.clear()
        while not self.served.total():
            known = by_id(self.gate, book, 0)
        with psycopg.connect(self._conninfo(), autocommit=True) as connection:
            connection.execute("UPDATE workflow_runs SET total_tokens = total_tokens + 1 WHERE id = %s", [book.run])
        lacks.append(known + 1 - by_id(self.gate, book, 0))
        self.gate.invalidate(book.tenant, run_id=book.run)
        lacks.append(known + 1 - by_id(self.gate, book, 0))
        return lacks


def main() -> None:
    """Argument: settings, the same with bounded near answers, books. Says what came of it."""
    given = argument()
    books = [Book(**book) for book in given["books"]]
    with gevent.Timeout(patient(100)):
        program = Program(given["settings"], books)
        program.all_at_once(program.read_and_write)
        told: dict[str, Any] = {"reads": program.reads, "stale": program.stale, "served": dict(program.served)}
        told |= {"queries": program.crowd(), "blocked": program.blocked(), "invalidated": program.invalidated()}
        program.gate.close()
        bounded = Program(given["bounded"], books)
        bounded.floors.update({book: READS["by_id"](bounded.gate, book, 0) for book in books})
        told["near"] = bounded.near()
        bounded.gate.close()
    tell(told)


if __name__ == "__main__":
    main()
