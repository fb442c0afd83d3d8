"""What a transaction that writes costs: on a table without triggers, on one with them, and behind a gate."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import insert, text, update
from sqlalchemy.orm import sessionmaker

from tidegate.benchmarks.data.data_set import SPAN, START
from tidegate.benchmarks.data.population import random_uuid
from tidegate.benchmarks.timing import Timing, timing
from tidegate.errors import BenchmarkError
from tidegate.proxy.writes.apply_notes import waiting
from tidegate.repositories.enums import WorkflowExecutionStatus as Status
from tidegate.repositories.models import WorkflowRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

    from tidegate.benchmarks.progress import Advance

    Sessions = sessionmaker[Session]
    Row = dict[str, Any]
    Write = Callable[[Sessions, Sequence[Row]], None]

INSERT: Final = "INSERT of a run"
UPDATE: Final = "UPDATE of a run's status"
MANY: Final = 10_000
"""How many rows the largest transaction has."""
BULK_INSERT: Final = "INSERT of {:,} runs, in statements of many rows"
BULK_UPDATE: Final = "UPDATE of {:,} runs in one statement"
ONE_BY_ONE: Final = "{:,} INSERTs of a run"
_APPLIED_S: Final = 60.0
_LOOK_S: Final = 0.02
_PLAIN, _TRIGGERED, _GATED = "plain", "triggered", "gated"
_GRAPH: Final = '{"nodes": []}'


@dataclass(frozen=True, slots=True)
class WriteTimes:
    """The time of one transaction: without triggers, with them, and with them behind a gate, which takes its notes."""

    statement: str
    plain: Timing
    triggered: Timing
    gated: Timing

    @property
    def ratio(self) -> float:
        """Return how many times as long the transaction takes behind a gate as without triggers, at the median."""
        return self.gated.p50_ms / self.plain.p50_ms


@contextmanager
def without_triggers(engine: Engine) -> Iterator[Sessions]:
    """Give sessions of an engine in which the table of runs is an empty one beside it, of the same kind; drop it then.

    It has the columns and indexes of the other one, and no triggers.
    """
    schema = "tidegate_bench_without_triggers"
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA IF EXISTS {schema} CASCADE"))
        connection.execute(text(f"CREATE SCHEMA {schema}"))
        connection.execute(text(f"CREATE TABLE {schema}.workflow_runs (LIKE workflow_runs INCLUDING ALL)"))
    try:
        yield sessionmaker(engine.execution_options(schema_translate_map={None: schema}))
    finally:
        with engine.begin() as connection:
            connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))


def measure_writes(
    plain: Sessions,
    triggered: Sessions,
    behind: Sessions,
    *,
    seed: int,
    rounds: int,
    bulks: int,
    settle: Callable[[], None],
    advance: Advance,
) -> list[WriteTimes]:
    """Insert runs of an app that nobody reads, and end them: plain and gated by turns, then with triggers alone.

    What triggers alone have noted, a gate applies, in this process. Among the others that would count as theirs.

    Args:
        plain: makes sessions on a table without triggers.
        triggered: makes sessions without a gate.
        behind: makes sessions behind a gate.
        seed: decides ids and orders.
        rounds: how many rounds of one row count; one more before them warms up.
        bulks: as many of many rows.
        settle: waits until a gate has applied what is in the outbox.
        advance: is called with 1 after each round.
    """
    rng = Random(f"{seed}:gated writes")  # noqa: S311  # data, not secrets
    ways, new = {_PLAIN: plain, _TRIGGERED: triggered, _GATED: behind}, _new_runs(rng)
    sizes: list[tuple[int, int, tuple[tuple[str, Write], ...]]] = [(rounds, 1, ((INSERT, _insert), (UPDATE, _end)))]
    for many in (100, MANY):
        bulk = ((BULK_INSERT.format(many), _insert_many), (BULK_UPDATE.format(many), _end_many))
        sizes.append((bulks, many, (*bulk, (ONE_BY_ONE.format(many), _insert_one_by_one))))
    found: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for times, many, steps in sizes:
        for number, names in [(n, names) for names in ([_PLAIN, _GATED], [_TRIGGERED]) for n in range(times + 1)]:
            for name in rng.sample(names, len(names)):
                rows, others = ([next(new) for _ in range(many)] for _ in range(2))
                for what, write in steps:
                    took = _timed(write, ways[name], others if write is _insert_one_by_one else rows)
                    if number:  # the first round is for warming up
                        found[what][name].append(took)
                if name == _TRIGGERED:
                    settle()
            advance(1)
    return [WriteTimes(what, *(timing(by[name]) for name in ways)) for what, by in found.items()]


def wait_until_applied(engine: Engine) -> None:
    """Wait until a gate has applied all notes of the outbox: before, nothing is stored of tenants that wait there.

    Raises:
        BenchmarkError: some notes still wait after a minute.
    """
    deadline = time.monotonic() + _APPLIED_S
    while waiting(engine)[0]:
        if time.monotonic() > deadline:
            raise BenchmarkError(f"the notes of the outbox were not applied within {_APPLIED_S:g} s")
        time.sleep(_LOOK_S)


def _new_runs(rng: Random) -> Iterator[Row]:
    tenant, app, workflow, creator = (random_uuid(rng) for _ in range(4))
    for number in count():
        yield run_values(tenant, app, workflow, creator, random_uuid(rng)) | {
            "created_at": START + SPAN + timedelta(seconds=number)
        }


def run_values(tenant: str, app: str, workflow: str, creator: str, run: str) -> Row:
    """Return the values of a run that has just begun."""
    return {
        "id": run,
        "tenant_id": tenant,
        "app_id": app,
        "workflow_id": workflow,
        "type": "workflow",
        "triggered_from": "app-run",
        "version": "1",
        "graph": _GRAPH,
        "inputs": "{}",
        "status": Status.RUNNING.value,
        "created_by_role": "end_user",
        "created_by": creator,
    }


def _insert(sessions: Sessions, rows: Sequence[Row]) -> None:
    with sessions.begin() as session:
        session.add(WorkflowRun(**rows[0]))


def _end(sessions: Sessions, rows: Sequence[Row]) -> None:
    with sessions.begin() as session:
        run = session.get(WorkflowRun, rows[0]["id"])
        assert run is not None  # noqa: S101  # just inserted
        run.status = Status.SUCCEEDED.value


def _insert_many(sessions: Sessions, rows: Sequence[Row]) -> None:
    with sessions.begin() as session:
        # With RETURNING, SQLAlchemy sends rows together, as many as fit.
        session.execute(insert(WorkflowRun).returning(WorkflowRun.id), rows)


def _end_many(sessions: Sessions, rows: Sequence[Row]) -> None:
    ids = [row["id"] for row in rows]
    with sessions.begin() as session:
        ended = update(WorkflowRun).where(WorkflowRun.id.in_(ids)).values(status=Status.SUCCEEDED.value)
        session.execute(ended, execution_options={"synchronize_session": False})


def _insert_one_by_one(sessions: Sessions, rows: Sequence[Row]) -> None:
    with sessions.begin() as session:
        session.execute(insert(WorkflowRun), rows)


def _timed(write: Write, sessions: Sessions, rows: Sequence[Row]) -> int:
    began = time.perf_counter_ns()
    write(sessions, rows)
    return time.perf_counter_ns() - began
