"""What the page indexes cost the writes of a run: the same statements with and without them, by turns."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import cycle, islice
from random import Random
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.sql import SQL, Identifier

from tidegate.benchmarks.data.data_set import RUN_COLUMNS, SPAN, START
from tidegate.benchmarks.data.databases import conninfo
from tidegate.benchmarks.data.population import random_uuid
from tidegate.benchmarks.timing import Timing, timing
from tidegate.repositories.enums import WorkflowExecutionStatus as Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tidegate.benchmarks.data.data_set import DataSet
    from tidegate.benchmarks.data.databases import Databases

_ROUND_RUNS: Final = 25
_UPDATE: Final = SQL(
    "UPDATE workflow_runs SET status = %(status)s, finished_at = %(finished_at)s, elapsed_time = %(elapsed_time)s"
    " WHERE id = %(id)s"
)
_INSERT: Final = SQL("INSERT INTO workflow_runs ({}) VALUES ({})").format(
    SQL(", ").join(map(Identifier, RUN_COLUMNS)), SQL(", ").join(SQL("%({})s").format(SQL(c)) for c in RUN_COLUMNS)
)


@dataclass(frozen=True, slots=True)
class WriteCost:
    """The time of one statement with its commit, on Dify's indexes only and with Tidegate's beside them."""

    statement: str
    without_indexes: Timing
    with_indexes: Timing

    @property
    def ratio(self) -> float:
        """Return how many times as long the statement takes with the indexes, at the median."""
        return self.with_indexes.p50_ms / self.without_indexes.p50_ms


def measure_writes(
    places: Databases, data_set: DataSet, *, rounds: int, advance: Callable[[float], None]
) -> list[WriteCost]:
    """Insert runs and then set their status, in both databases by turns; the rows stay there.

    Args:
        places: the two databases.
        data_set: the rows that the databases hold.
        rounds: how many rounds of 25 runs count; one more before them warms up.
        advance: is called with 1 after each round.
    """
    rng = Random(f"{data_set.seed}:writes")  # noqa: S311  # data, not secrets
    runs = _new_runs(rng, data_set)
    with (
        psycopg.connect(conninfo(places.baseline), autocommit=True) as without_indexes,
        psycopg.connect(conninfo(places.plain), autocommit=True) as with_indexes,
    ):
        lanes = [_Lane(without_indexes), _Lane(with_indexes)]
        for _ in range(rounds + 1):
            for run in islice(runs, _ROUND_RUNS):
                # Take turns for each single run: what the indexes add is small beside the noise of the machine.
                for lane in rng.sample(lanes, len(lanes)):
                    lane.insert(run)
                for lane in rng.sample(lanes, len(lanes)):
                    lane.end(run)
            advance(1)
    # The first round was for warming up, and does not count.
    inserts = [timing(lane.insert_ns[_ROUND_RUNS:]) for lane in lanes]
    updates = [timing(lane.update_ns[_ROUND_RUNS:]) for lane in lanes]
    return [WriteCost("INSERT of a run", *inserts), WriteCost("UPDATE of a run's status", *updates)]


def _new_runs(rng: Random, data_set: DataSet) -> Iterator[dict[str, Any]]:
    """Yield runs like the newest ones, but which have just begun."""
    begun = {"status": Status.RUNNING.value, "finished_at": None, "elapsed_time": 0.0}
    for number, row in enumerate(cycle(data_set.chunk(data_set.chunks[-1]).runs)):
        at = START + SPAN + timedelta(seconds=number)
        yield dict(zip(RUN_COLUMNS, row, strict=True)) | begun | {"id": random_uuid(rng), "created_at": at}


class _Lane:
    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self.insert_ns: list[int] = []
        self.update_ns: list[int] = []

    def insert(self, run: Mapping[str, Any]) -> None:
        self.insert_ns.append(self._timed(_INSERT, run))

    def end(self, run: Mapping[str, Any]) -> None:
        ended = {"status": Status.SUCCEEDED.value, "finished_at": run["created_at"], "elapsed_time": 1.5}
        self.update_ns.append(self._timed(_UPDATE, ended | {"id": run["id"]}))

    def _timed(self, statement: Any, values: Mapping[str, Any]) -> int:
        began = perf_counter_ns()
        self._connection.execute(statement, values, prepare=True)
        return perf_counter_ns() - began
