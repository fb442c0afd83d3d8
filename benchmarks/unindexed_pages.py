"""Pages on Dify's indexes only: the plain repositories beside Dify's statements, interleaved, on the same database.

Run it: ``python -m tidegate.benchmarks.unindexed_pages`` (``--help`` for its options). It prints one line a scenario,
with the ratio of the medians, and ends with 1 if one of them is above the goal.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from sqlalchemy import make_url
from sqlalchemy.orm import Session

from tidegate.benchmarks.agreement import check_agreement
from tidegate.benchmarks.contenders.contender import baseline, plain
from tidegate.benchmarks.data.data_set import DataSet
from tidegate.benchmarks.data.databases import SERVER_SETTINGS, databases
from tidegate.benchmarks.data.targets import Targets
from tidegate.benchmarks.progress import Steps
from tidegate.benchmarks.scenarios import page_scenarios
from tidegate.benchmarks.timing import measure
from tidegate.proxy.embedded import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.benchmarks.scenarios import Scenario
    from tidegate.benchmarks.timing import Measured

GOAL: Final = 1.15
"""How many times as long as Dify's own statement a page may take, at the median."""


def measure_pages(runs: int, seed: int, rounds: int, console: Console) -> list[tuple[Measured, Measured]]:
    """Measure every page of the benchmark on a database without Tidegate's indexes.

    Args:
        runs: how many runs to generate.
        seed: the same seed gives the same rows.
        rounds: how many rounds to measure; one gives up to 5 samples of each scenario and contender.
        console: shows what is being done.

    Returns:
        For each scenario what was measured of the plain repositories, and of Dify's statements.

    Raises:
        BenchmarkError: the two answer differently.
        EmbeddedServerError: a server could not be started.
    """
    data_set, steps = DataSet(runs, seed), Steps(console)
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(postgres_settings=SERVER_SETTINGS, cache=False))
        server = make_url(cluster.shards[0].primary.url)
        places = stack.enter_context(databases(server, data_set, steps))
        contenders = (plain(places.baseline), baseline(places.baseline))
        for contender in contenders:
            stack.callback(contender.engine.dispose)
        with Session(contenders[0].engine) as session:
            every = page_scenarios(Targets(session, data_set.population))
        # What touches lazy columns sends one statement more for each of them, with or without indexes.
        asked = [scenario for scenario in every if not any(call.touch for call in scenario.calls)]
        for scenario in asked:
            check_agreement(scenario, contenders)
        with steps.step(f"measuring {len(asked)} scenarios", rounds * len(asked)) as advance:
            measured = measure(asked, contenders, rounds=rounds, seed=seed, advance=advance)
    return list(_pairs(asked, measured))


def _pairs(asked: list[Scenario], measured: list[Measured]) -> Iterator[tuple[Measured, Measured]]:
    found = {(one.scenario, one.contender): one for one in measured}
    for scenario in asked:
        yield found[scenario.name, "plain"], found[scenario.name, "baseline"]


def main(
    runs: Annotated[int, typer.Option(min=1000, help="How many runs to generate.")] = 40_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same rows.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="How many rounds to measure.")] = 40,
) -> None:
    """Measure pages without Tidegate's indexes beside Dify's own statements."""
    console = Console(width=120)
    pairs = measure_pages(runs, seed, rounds, console)
    above = []
    for ours, dify in pairs:
        ratio = ours.timing.p50_ms / dify.timing.p50_ms
        above += [ours.scenario] if ratio > GOAL else []
        console.print(
            f"{ours.scenario:36} {ours.timing.p50_ms:9.2f} ms  Dify {dify.timing.p50_ms:9.2f} ms  {ratio:6.2f} times",
            highlight=False,
        )
    if above:
        console.print(f"above {GOAL} times: {', '.join(above)}", highlight=False)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
