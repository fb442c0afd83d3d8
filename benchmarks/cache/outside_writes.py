"""How long an outside write is unseen: the outbox window, by each way in which somebody else writes.

A run is read through a gate until the cache has it. Somebody else changes it. From the moment at which he has his
answer it is read again and again, until the change is there.
"""

from __future__ import annotations

import shutil
import subprocess
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from random import Random
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import sql
from sqlalchemy import create_engine

from tidegate.benchmarks.cache.writes import run_values
from tidegate.benchmarks.contenders.behind_gate import HIT, gated
from tidegate.benchmarks.data.data_set import START
from tidegate.benchmarks.data.population import random_uuid
from tidegate.benchmarks.timing import Timing, timing
from tidegate.errors import BenchmarkError
from tidegate.repositories.enums import WorkflowExecutionStatus as Status
from tidegate.repositories.models import WorkflowRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sqlalchemy import URL

    from tidegate.benchmarks.progress import Advance
    from tidegate.proxy.gate import Gate

WAYS: Final = 5
_NAME: Final = "tidegate_bench_outside"
_GIVE_UP_NS: Final = 30_000_000_000
_UPDATE: Final = "UPDATE workflow_runs SET error = '{error}' WHERE id = '{run}'"


@dataclass(frozen=True, slots=True)
class OutsideWrite:
    """How long a gate answered with what was before, after somebody had changed it in this way."""

    way: str
    timing: Timing


def measure_outside_writes(url: URL, cache_url: str, *, seed: int, rounds: int, advance: Advance) -> list[OutsideWrite]:
    """Measure when changes of a run are seen, *rounds* of each way to write.

    psql is left out where there is no such program, and a subscription where the server's log is not logical.

    Args:
        url: of the database.
        cache_url: of the cache.
        seed: decides the ids.
        rounds: how many changes of each way.
        advance: is called with 1 after each.

    Raises:
        BenchmarkError: a change is not seen.
    """
    rng = Random(f"{seed}:outside")  # noqa: S311  # data, not secrets
    values = run_values(*(random_uuid(rng) for _ in range(5)))
    values |= {"status": Status.SUCCEEDED.value, "created_at": START}
    found = []
    with ExitStack() as undo:
        own = undo.enter_context(_connected(url))
        gate = undo.enter_context(gated(url, cache_url, HIT)).gate
        own.execute(_insert(values), values)
        undo.callback(own.execute, "DELETE FROM workflow_runs WHERE id = %s", (values["id"],))
        read = _Read(gate, values["tenant_id"], values["app_id"], values["id"])
        for way, write in _ways(url, own, values, undo).items():
            times = []
            for number in range(rounds):
                read.until(read.is_cached)
                write(f"{way} {number}")
                times.append(read.until(lambda: read.error() == f"{way} {number}"))  # noqa: B023  # called at once
                advance(1)
            found.append(OutsideWrite(way, timing(times)))
    return found


class _Read:
    """Read one run through a gate, again and again."""

    def __init__(self, gate: Gate, *run: str) -> None:
        self._gate = gate
        self._run = run

    def error(self) -> str | None:
        run = self._gate.workflow_runs.get_workflow_run_by_id(*self._run)
        return None if run is None else run.error

    def is_cached(self) -> bool:
        self.error()
        answered = self._gate.explain(self._gate.workflow_runs.get_workflow_run_by_id, *self._run).answered
        return answered in ("near", "store")

    def until(self, is_so: Callable[[], bool]) -> int:
        """Return how long it took, in nanoseconds."""
        began = perf_counter_ns()
        while not is_so():
            if perf_counter_ns() - began > _GIVE_UP_NS:
                raise BenchmarkError("a change that somebody else has made is not seen, or nothing is cached")
        return perf_counter_ns() - began


def _connected(url: URL) -> closing[psycopg.Connection[Any]]:
    return closing(psycopg.connect(_libpq(url), autocommit=True))


def _libpq(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def _insert(values: Mapping[str, Any]) -> sql.Composed:
    names = sql.SQL(", ").join(map(sql.Identifier, values))
    places = sql.SQL(", ").join(map(sql.Placeholder, values))
    return sql.SQL("INSERT INTO workflow_runs ({}) VALUES ({})").format(names, places)


def _ways(
    url: URL, own: psycopg.Connection[Any], values: Mapping[str, Any], undo: ExitStack
) -> dict[str, Callable[[str], Any]]:
    """Return the ways to write; each is given the new value of the run's column ``error``."""
    run = values["id"]
    own.execute(
        "CREATE FUNCTION pg_temp.set_error(which uuid, what text) RETURNS void LANGUAGE sql AS"
        " 'UPDATE workflow_runs SET error = what WHERE id = which'"
    )
    ways: dict[str, Callable[[str], Any]] = {
        "psycopg": lambda error: own.execute("UPDATE workflow_runs SET error = %s WHERE id = %s", (error, run)),
        "function": lambda error: own.execute("SELECT pg_temp.set_error(%s, %s)", (run, error)),
        "COPY": lambda error: _copy(own, {**values, "error": error}),
    }
    if psql := shutil.which("psql"):
        ways["psql"] = lambda error: _psql(psql, url, _UPDATE.format(error=error, run=run))
    if (own.execute("SELECT current_setting('wal_level')").fetchone() or ("",))[0] == "logical":
        publisher = undo.enter_context(_publisher(url, own, values))
        ways["subscription"] = lambda error: publisher.execute(
            "UPDATE workflow_runs SET error = %s WHERE id = %s", (error, run)
        )
    return ways


def _copy(own: psycopg.Connection[Any], values: Mapping[str, Any]) -> None:
    names = sql.SQL(", ").join(map(sql.Identifier, values))
    with own.transaction(), own.cursor() as cursor:
        cursor.execute("DELETE FROM workflow_runs WHERE id = %s", (values["id"],))
        with cursor.copy(sql.SQL("COPY workflow_runs ({}) FROM STDIN").format(names)) as copy:
            copy.write_row(tuple(values.values()))


def _psql(program: str, url: URL, statement: str) -> None:
    command = [program, "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--command", statement, _libpq(url)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)  # noqa: S603  # a fixed program, and our own statement


@contextmanager
def _publisher(url: URL, own: psycopg.Connection[Any], values: Mapping[str, Any]) -> Iterator[psycopg.Connection[Any]]:
    """Subscribe to the table in a database beside this one, which has the run too; give a connection to that."""
    beside = url.set(database=_NAME)
    with ExitStack() as undo:
        own.execute(f"CREATE DATABASE {_NAME}")
        undo.callback(own.execute, f"DROP DATABASE {_NAME} WITH (FORCE)")
        engine = create_engine(beside.set(drivername="postgresql+psycopg"))
        WorkflowRun.metadata.create_all(engine)
        engine.dispose()
        publisher = undo.enter_context(_connected(beside))
        publisher.execute(_insert(values), values)
        publisher.execute(f"CREATE PUBLICATION {_NAME} FOR TABLE workflow_runs")
        # On one server CREATE SUBSCRIPTION would wait for itself, if it were to make the slot.
        publisher.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (_NAME,))
        subscribe = (
            "CREATE SUBSCRIPTION {0} CONNECTION {1} PUBLICATION {0} WITH (create_slot = false, copy_data = false)"
        )
        own.execute(sql.SQL(subscribe).format(sql.Identifier(_NAME), sql.Literal(_libpq(beside))))
        undo.callback(own.execute, f"DROP SUBSCRIPTION {_NAME}")
        yield publisher
