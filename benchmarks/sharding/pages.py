"""Pages whose rows are on all shards, compared with the same pages of one database that has all the rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final

from tidegate.benchmarks.intervals import median_of
from tidegate.benchmarks.sharding.stock import SHARDS
from tidegate.benchmarks.timing import timing
from tidegate.errors import BenchmarkError

if TYPE_CHECKING:
    from tidegate.benchmarks.intervals import Interval
    from tidegate.benchmarks.progress import Advance
    from tidegate.benchmarks.sharding.stock import Stock
    from tidegate.benchmarks.timing import Timing
    from tidegate.proxy.gate import Gate

PAGES: Final = (20, 200)
WARM_PAGES: Final = 6
"""How many pages are read first and not timed: statements are prepared after some executions."""
_FIRST: Final = datetime(2026, 1, 1)  # noqa: DTZ001  # columns are naive UTC
_ALL: Final = datetime(2100, 1, 1)  # noqa: DTZ001


@dataclass(frozen=True, slots=True)
class ScatterPage:
    """A page of all shards, and the same page of one database that has all rows; *times* is the quotient of pairs."""

    rows: int
    shards: int
    scattered: Timing
    one: Timing
    times: Interval


class Pages:
    """Measure such pages, by turns.

    Args:
        stock: the databases.
        count: how many pages of each length.
        seed: decides where the pages begin.
    """

    def __init__(self, stock: Stock, count: int, seed: int) -> None:
        self._stock = stock
        self._count = count
        self._rng = Random(f"{seed}:pages")  # noqa: S311  # an order, no secret

    def measure(self, advance: Advance) -> list[ScatterPage]:
        """Measure pages that every shard has rows of.

        Raises:
            BenchmarkError: a page differs from that of the database with all rows.
        """
        with self._stock.several() as several, self._stock.one() as one:
            return [self._of(several, one, rows, advance) for rows in PAGES]

    def _of(self, several: Gate, one: Gate, rows: int, advance: Advance) -> ScatterPage:
        pairs: list[tuple[int, int]] = []
        for number in range(WARM_PAGES + self._count):
            second, tenant = self._rng.randint(0, self._stock.each), self._rng.choice(self._stock.tenants)
            after = (_FIRST + timedelta(seconds=second), self._stock.run(tenant, 1))
            asked = [_Page(gate, after, rows) for gate in (several, one)]
            for page in self._rng.sample(asked, 2):
                page.ask()
            if asked[0].ids != asked[1].ids:
                raise BenchmarkError(f"a page of {rows} rows of all shards, after {after}, differs from one database's")
            if number >= WARM_PAGES:
                pairs.append((asked[0].ns, asked[1].ns))
            advance(1)
        scattered, alone = (timing([pair[side] for pair in pairs]) for side in (0, 1))
        return ScatterPage(rows, len(SHARDS), scattered, alone, median_of([ours / theirs for ours, theirs in pairs]))


class _Page:
    """Read one page through one gate."""

    def __init__(self, gate: Gate, after: tuple[datetime, str], rows: int) -> None:
        self._gate = gate
        self._after = after
        self._rows = rows
        self.ids: list[str] = []
        self.ns = 0

    def ask(self) -> None:
        began = perf_counter_ns()
        found = self._gate.workflow_runs.get_runs_batch_by_time_range(None, _ALL, self._after, self._rows)
        self.ns = perf_counter_ns() - began
        self.ids = [run.id for run in found]
