"""The benchmark from the disk check to the report."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import make_url
from sqlalchemy.orm import Session

from tidegate.benchmarks.agreement import check_agreement
from tidegate.benchmarks.cache.benchmark import DEMO, CacheBenchmark
from tidegate.benchmarks.contenders.contender import baseline, plain
from tidegate.benchmarks.data.databases import SERVER_SETTINGS, check_disk, databases, disk_need, gigabytes
from tidegate.benchmarks.data.targets import Targets
from tidegate.benchmarks.goals import goals
from tidegate.benchmarks.index_cost import measure_writes
from tidegate.benchmarks.machine import machine, versions
from tidegate.benchmarks.report import Report
from tidegate.benchmarks.scenarios import deepest_page, scenarios
from tidegate.benchmarks.timing import measure

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import URL

    from tidegate.benchmarks.cache.benchmark import Size
    from tidegate.benchmarks.contenders.contender import Repositories
    from tidegate.benchmarks.data.data_set import DataSet
    from tidegate.benchmarks.data.databases import Databases
    from tidegate.benchmarks.progress import Steps
    from tidegate.benchmarks.routing.report import RoutingReport
    from tidegate.benchmarks.routing.size import RoutingSize
    from tidegate.benchmarks.scenarios import Scenario
    from tidegate.benchmarks.sharding.report import ShardingReport
    from tidegate.benchmarks.sharding.size import ShardingSize


def run_benchmark(
    data_set: DataSet,
    *,
    rounds: int,
    server: URL | None,
    steps: Steps,
    cache_url: str | None = None,
    cache_size: Size = DEMO,
    routing_size: RoutingSize | None = None,
    sharding_size: ShardingSize | None = None,
) -> Report:
    """Load *data_set* into two databases, measure, and clean up.

    Args:
        data_set: the rows.
        rounds: how many times each scenario is measured.
        server: a PostgreSQL server of the caller's; None: one is started, and removed at the end.
        steps: shows what is being done.
        cache_url: a Valkey or Redis for tests, used together with *server*; None: the cache is not measured there.
        cache_size: how much of the cache is measured.
        routing_size: how much of the routing is measured, on servers that are started for it; None: nothing.
        sharding_size: how much of the sharding is measured, on other such servers; None: nothing.

    Raises:
        BenchmarkError: the disk is too full, the server is in use, or contenders answer differently.
        EmbeddedServerError: a server could not be started.
    """
    need = disk_need(data_set.runs)
    steps.console.print(f"On the disk this needs at most {need}.", highlight=False)
    with ExitStack() as stack:
        if server is None:
            check_disk(need)
            server, cache_url = stack.enter_context(_embedded(steps))
        places = stack.enter_context(databases(server, data_set, steps))
        steps.console.print(
            f"On the disk are {gigabytes(places.plain_bytes)} with Tidegate's indexes "
            f"and {gigabytes(places.baseline_bytes)} without.",
            highlight=False,
        )
        contenders = (plain(places.plain), baseline(places.baseline))
        for contender in contenders:
            stack.callback(contender.engine.dispose)
        cache = CacheBenchmark(places, data_set, cache_url, cache_size, steps) if cache_url else None
        report = _measured(places, data_set, contenders, rounds, steps, cache)
    # Measure these after the first servers have ended: they measure how soon other servers take over, and the machine
    # may be small.
    routing = None if routing_size is None else _routing(routing_size, data_set.seed, steps)
    sharding = None if sharding_size is None else _sharding(sharding_size, data_set.seed, steps)
    return replace(report, routing=routing, sharding=sharding)


def _measured(
    places: Databases,
    data_set: DataSet,
    contenders: Sequence[Repositories],
    rounds: int,
    steps: Steps,
    cache: CacheBenchmark | None,
) -> Report:
    asked, deepest = _asked(data_set, contenders[0])
    with steps.step("comparing the answers of all", len(asked)) as advance:
        for scenario in asked:
            check_agreement(scenario, contenders)
            advance(1)
    with steps.step(f"measuring {len(asked)} scenarios", rounds * len(asked)) as advance:
        measured = measure(asked, contenders, rounds=rounds, seed=data_set.seed, advance=advance)
    with steps.step("measuring writes", rounds + 1) as advance:
        writes = measure_writes(places, data_set, rounds=rounds, advance=advance)
    return Report(
        runs=data_set.runs,
        seed=data_set.seed,
        rounds=rounds,
        machine=machine(),
        versions=versions(contenders[0].engine),
        rows=places.rows,
        database_bytes={"plain": places.plain_bytes, "baseline": places.baseline_bytes},
        contenders=[contender.name for contender in contenders],
        measured=measured,
        goals=goals(measured, deepest),
        writes=writes,
        cache=cache.run(contenders, asked, deepest) if cache else None,
        routing=None,
        sharding=None,
    )


def _asked(data_set: DataSet, contender: Repositories) -> tuple[list[Scenario], int]:
    with Session(contender.engine) as session:
        targets = Targets(session, data_set.population)
        return scenarios(targets), deepest_page(targets.runs_of_main())


def _routing(size: RoutingSize, seed: int, steps: Steps) -> RoutingReport:
    # Import it here: on a server of the caller's own, nothing of the extra [embedded] is needed.
    from tidegate.benchmarks.routing.benchmark import RoutingBenchmark

    return RoutingBenchmark(size, seed, steps).run()


def _sharding(size: ShardingSize, seed: int, steps: Steps) -> ShardingReport:
    # Import it here: on a server of the caller's own, nothing of the extra [embedded] is needed.
    from tidegate.benchmarks.sharding.benchmark import ShardingBenchmark

    return ShardingBenchmark(size, seed, steps).run()


@contextmanager
def _embedded(steps: Steps) -> Iterator[tuple[URL, str]]:
    # Import it here: on a server of the caller's own, nothing of the extra [embedded] is needed.
    from tidegate.proxy.embedded import Cluster

    cluster = Cluster(postgres_settings=SERVER_SETTINGS)
    with steps.step("starting PostgreSQL and Valkey"):
        cluster.start()
    try:
        yield make_url(cluster.shards[0].primary.url), cluster.cache.url
    finally:
        cluster.close()
