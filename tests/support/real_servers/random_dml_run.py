"""Run random transactions, watched or by whoever knows nothing of a gate, and compare what the gate answers then."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import psycopg
from sqlalchemy.exc import DBAPIError

from real_servers.deadlines import patient
from real_servers.tracked_shapes import ALL_CALLS, STATE, Answers, answers_of

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from sqlalchemy import Engine

    from real_servers.random_dml import Transaction

_OTHERS: Final = 2
"""How many answers that should not have changed are read too."""
WINDOW_S: Final = 10.0


def play(transaction: Transaction, run: Callable[[str], Any], failed: Callable[[BaseException], bool]) -> bool:
    """Run the statements; tell whether the transaction can be committed.

    Args:
        transaction: what to run.
        run: sends one statement.
        failed: tells of an error whether it was the database's; what is not is raised.
    """
    for is_savepoint, is_undone, statements in transaction.parts:
        if is_savepoint:
            run("SAVEPOINT s")
        is_refused = False
        try:
            for statement in statements:
                run(statement)
        except Exception as error:
            if not failed(error):
                raise
            if not is_savepoint:
                return False
            is_refused = True
        if is_savepoint:
            run("ROLLBACK TO s" if is_undone or is_refused else "RELEASE s")
    return True


@dataclass
class Comparison:
    """Compares what a gate answers with what the primary has.

    Args:
        shapes: the repository behind the gate.
        primary: a connection of its own, in AUTOCOMMIT.
        waits: tells whether the gate knows of notes that wait.
        wake: has it look for notes now.
    """

    shapes: Any
    primary: psycopg.Connection[Any]
    waits: Callable[[], bool] = lambda: False
    wake: Callable[[], None] = lambda: None
    before: Answers = field(default_factory=dict)
    changes: int = 0
    stale: list[tuple[Any, ...]] = field(default_factory=list)

    def warm(self) -> None:
        """Have all answers cached."""
        for method, tenant, argument in ALL_CALLS:
            getattr(self.shapes, method)(tenant, argument)
        self.before = self.now()

    def now(self) -> Answers:
        """What each call has to answer."""
        return answers_of(self.primary.execute(STATE.encode()).fetchall())

    def check(self, chance: random.Random, what: Callable[[], str]) -> None:
        """Read all that has changed, and a little that has not."""
        now = self.now()
        changed = [key for key in ALL_CALLS if now[key] != self.before[key]]
        self.changes += len(changed)
        self.before = now
        for key in (*changed, *chance.choices(ALL_CALLS, k=_OTHERS)):
            method, tenant, argument = key
            found = getattr(self.shapes, method)(tenant, argument)
            if found != now[key]:
                self.stale.append((key, found, now[key], what()))

    def settle(self) -> None:
        """Wait until no note waits in the outbox, and the gate knows: till then the primary answers, which is right."""
        until = time.monotonic() + patient(WINDOW_S)
        self.wake()
        while self.primary.execute("SELECT count(*) FROM tidegate_outbox").fetchall() != [(0,)]:
            assert time.monotonic() < until, "notes stay in the outbox"
        while self.waits():
            assert time.monotonic() < until, "the gate still asks the primary"


def watched(engine: Engine, transaction: Transaction, *, two_phase: bool = False) -> bool:
    """Run a transaction through a watched engine; tell whether it was committed."""
    with engine.connect() as connection:
        begun: Any = connection.begin_twophase() if two_phase else connection.begin()
        if not play(transaction, connection.exec_driver_sql, lambda error: isinstance(error, DBAPIError)):
            begun.rollback()
            return False
        if two_phase:
            begun.prepare()
        begun.commit()
    return True


def alone(connection: psycopg.Connection[Any], transaction: Transaction, how: str) -> bool:
    """Run a transaction on a connection in AUTOCOMMIT that nobody watches; tell whether it was committed.

    Args:
        connection: of psycopg.
        transaction: what to run.
        how: it ends: "text", "prepared", or "autocommit", which commits each statement by itself.
    """
    if how == "autocommit":
        for _, _, statements in transaction.parts:
            for statement in statements:
                try:
                    connection.execute(statement.encode())
                except psycopg.Error:
                    break
        return True
    connection.execute("BEGIN")
    run = lambda sql: connection.execute(sql.encode())  # noqa: E731
    if not play(transaction, run, lambda error: isinstance(error, psycopg.Error)):
        connection.execute("ROLLBACK")
        return False
    if how == "prepared":
        name = f"random_{transaction.seed}"
        connection.execute(f"PREPARE TRANSACTION '{name}'".encode())
        with psycopg.connect(connection.info.dsn, autocommit=True) as another:
            another.execute(f"COMMIT PREPARED '{name}'".encode())
    else:
        connection.execute("COMMIT")
    return True


def run_watched(
    engine: Engine, comparison: Comparison, transactions: Sequence[Transaction], chance: random.Random
) -> int:
    """Run each through the watched engine and compare at once. Returns how many were committed."""
    done = 0
    for each in transactions:
        done += watched(engine, each, two_phase=chance.randrange(20) == 0)
        comparison.check(chance, each.shown)
    return done


_LOCKS: Final = (
    "SELECT DISTINCT regexp_replace(relation::regclass::text, 'toast_[0-9]+', 'toast') AS name, mode FROM pg_locks"
    " WHERE pid = pg_backend_pid()"
    " AND locktype = 'relation' AND relation >= 16384 AND strpos(relation::regclass::text, 'tidegate') = 0"
    " AND mode <> 'AccessShareLock' AND (SELECT relkind FROM pg_class WHERE oid = relation) NOT IN ('i', 'I')"
    " ORDER BY 1, 2"
)
"""The locks on a program's tables that others could meet. That of reading keeps out nothing but ACCESS EXCLUSIVE;
triggers take it on the tables of parents. Which indexes a statement opens hangs on its plan, and on where its rows lie.
"""


class Side(Protocol):
    """A connection on which a transaction is run beside another."""

    def begin(self) -> None:
        """Begin a transaction."""
        ...

    def run(self, sql: str) -> tuple[int, list[Any]]:
        """Run a statement; return how many rows it has touched, and those that it answers."""
        ...

    def end(self, *, commit: bool) -> None:
        """End the transaction."""
        ...


def committed_with(side: Side, transaction: Transaction) -> list[Any]:
    """Run a transaction, and return all that its program could tell: counts, rows, errors, locks, and what it left."""
    found: list[Any] = []

    def run(sql: str) -> None:
        count, rows = side.run(sql)
        found.append(("ran", count, sorted(rows, key=repr)))  # their order is the plan's

    def failed(error: BaseException) -> bool:
        original = getattr(error, "orig", error)
        found.append(("failed", getattr(original, "sqlstate", None), str(original).split("\n", maxsplit=1)[0]))
        return isinstance(original, psycopg.Error)

    side.begin()
    may_commit = play(transaction, run, failed)
    if may_commit:
        found.append(("locks", side.run(_LOCKS)[1]))
    side.end(commit=may_commit)
    side.begin()
    found.append(("left", sorted(side.run(STATE)[1])))
    side.end(commit=False)
    return found
