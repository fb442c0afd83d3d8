"""The sharding's part of the benchmark, on two primaries of its own; one of them is frozen and killed."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from tidegate.benchmarks.sharding.costs import WAYS, Costs
from tidegate.benchmarks.sharding.isolation import Isolating
from tidegate.benchmarks.sharding.pages import PAGES, WARM_PAGES, Pages
from tidegate.benchmarks.sharding.report import ShardingReport
from tidegate.benchmarks.sharding.scatters import Scatters
from tidegate.benchmarks.sharding.stock import Stock
from tidegate.proxy.embedded import Cluster

if TYPE_CHECKING:
    from tidegate.benchmarks.progress import Steps
    from tidegate.benchmarks.sharding.size import ShardingSize


class ShardingBenchmark:
    """Measure everything about the sharding.

    What needs no fault is measured on several databases of one server: all other times to wait for would be the same.

    Args:
        size: how much is measured.
        seed: decides ids, orders and who calls.
        steps: shows what is being done.
    """

    def __init__(self, size: ShardingSize, seed: int, steps: Steps) -> None:
        self._size = size
        self._seed = seed
        self._steps = steps

    def run(self) -> ShardingReport:
        """Start the servers, measure, and end them.

        Raises:
            BenchmarkError: shards answered differently from one database, or the machine is too busy to measure on.
            EmbeddedServerError: the servers could not be started.
        """
        size, seed, steps = self._size, self._seed, self._steps
        cluster = Cluster(shards=2)
        with steps.step("starting two shards"):
            cluster.start()
        with closing(cluster):
            with steps.step(f"loading {size.rows:,} runs into three shards, and into one database"):
                stock = Stock(cluster, size.rows, seed)
            with steps.step("measuring what routing by tenant costs a call", WAYS) as advance:
                overheads = Costs(stock, size, seed).overheads(advance)
            with steps.step("reading pages of all shards", len(PAGES) * (WARM_PAGES + size.pages)) as advance:
                pages = Pages(stock, size.pages, seed).measure(advance)
            with steps.step("counting shards that calls without a tenant ask", size.calls) as advance:
                scattered = Scatters(stock, size.calls, seed).count(advance)
            what = f"freezing one of two shards {size.freezes} times among calls, and killing it {size.kills} times"
            with steps.step(what, size.freezes + size.kills) as advance:
                isolations = Isolating(cluster, size, seed).run(advance)
        return ShardingReport.of(overheads, pages, scattered, isolations)
