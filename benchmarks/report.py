"""What a benchmark found: as JSON, and as tables for a terminal."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from tidegate.benchmarks.cache.report import cache_json, show_cache
from tidegate.benchmarks.goals import GOAL_RUNS
from tidegate.benchmarks.routing.report import routing_json, show_routing
from tidegate.benchmarks.sharding.report import sharding_json, show_sharding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from tidegate.benchmarks.cache.report import CacheReport
    from tidegate.benchmarks.goals import Goal
    from tidegate.benchmarks.index_cost import WriteCost
    from tidegate.benchmarks.routing.report import RoutingReport
    from tidegate.benchmarks.sharding.report import ShardingReport
    from tidegate.benchmarks.timing import Measured, Timing

REFERENCE: Final = "baseline"
"""The contender that the others are compared with."""
WIDTH: Final = 120
"""How many columns of a terminal the tables need."""


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one benchmark; ``contenders`` are in the order of their columns."""

    runs: int
    seed: int
    rounds: int
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    rows: Mapping[str, int]
    database_bytes: Mapping[str, int]
    contenders: Sequence[str]
    measured: Sequence[Measured]
    goals: Sequence[Goal]
    writes: Sequence[WriteCost]
    cache: CacheReport | None
    routing: RoutingReport | None
    sharding: ShardingReport | None

    def by_scenario(self) -> dict[str, dict[str, Measured]]:
        """Return what was measured, by scenario and contender."""
        found: dict[str, dict[str, Measured]] = {}
        for one in self.measured:
            found.setdefault(one.scenario, {})[one.contender] = one
        return found

    def times_faster(self, scenario: Mapping[str, Measured], contender: str) -> float:
        """Return how many times faster *contender* is than the reference at p50; below 1, it is slower."""
        return scenario[REFERENCE].timing.p50_ms / scenario[contender].timing.p50_ms

    def challengers(self) -> list[str]:
        """Return the names of all contenders except the reference."""
        return [name for name in self.contenders if name != REFERENCE]


def as_json(report: Report) -> dict[str, Any]:
    """Return the report in the form that JSON takes; times in milliseconds, sizes in bytes."""
    return {
        "runs": report.runs,
        "seed": report.seed,
        "rounds": report.rounds,
        "machine": dict(report.machine),
        "versions": dict(report.versions),
        "rows": dict(report.rows),
        "database_bytes": dict(report.database_bytes),
        "scenarios": [
            {
                "name": name,
                "contenders": {who: asdict(one.timing) | asdict(one.cost) for who, one in found.items()},
                "times_faster_p50": {who: report.times_faster(found, who) for who in report.challengers()},
            }
            for name, found in report.by_scenario().items()
        ],
        "goals": [asdict(goal) | {"reached": goal.reached, "set_for_runs": GOAL_RUNS} for goal in report.goals],
        "index_cost": [asdict(cost) | {"ratio_p50": cost.ratio} for cost in report.writes],
        "cache": None if report.cache is None else cache_json(report.cache),
        "routing": None if report.routing is None else routing_json(report.routing),
        "sharding": None if report.sharding is None else sharding_json(report.sharding),
    }


def show(report: Report, console: Console) -> None:
    """Print the tables, and below them the goals."""
    console.print()
    console.print(_scenario_table(report))
    console.print(
        "Milliseconds for each call. faster: p50 of the baseline divided by p50 of the other; below 1, in red, the "
        "baseline is faster.\n"
        "queries, rows: statements sent and rows received for each call, counted in a pass without a clock.\n"
        "quiet: an app that ran in the first half of the time only.",
        style="dim",
    )
    console.print()
    console.print(_write_table(report))
    console.print("Each statement with its commit, on a server that does not wait for its disk.", style="dim")
    console.print()
    for goal in report.goals:
        below = "[red]missed [/]" if report.runs >= GOAL_RUNS else "[yellow]not yet[/]"
        mark = "[green]reached[/]" if goal.reached else below
        side = "at most" if goal.at_most else "at least"
        console.print(f"{mark} {goal.text}: {goal.value:.2f}, goal {side} {goal.bound:g}", highlight=False)
    if report.runs != GOAL_RUNS:
        console.print(f"These goals are set for {GOAL_RUNS:,} runs; this was {report.runs:,}.", style="dim")
    if report.cache is None:
        console.print("The cache was not measured: give --cache-url with --url.", style="dim")
    else:
        show_cache(report.cache, console)
    if report.routing is None:
        console.print("The routing was not measured: it kills servers, and does so to its own only.", style="dim")
    else:
        show_routing(report.routing, console)
    if report.sharding is None:
        console.print(
            "The sharding was not measured: it freezes and kills servers, and does so to its own only.", style="dim"
        )
    else:
        show_sharding(report.sharding, console)


def _scenario_table(report: Report) -> Table:
    machine, versions = report.machine, report.versions
    table = Table(
        title=f"{report.runs:,} runs, seed {report.seed}; {machine['cores']} cores of {machine['cpu']}, "
        f"{machine['memory_bytes'] / 1e9:.0f} GB; PostgreSQL {versions['postgresql']}, Python {versions['python']}, "
        f"SQLAlchemy {versions['sqlalchemy']}",
        title_style="bold",
    )
    table.add_column("scenario", no_wrap=True)
    for name in report.contenders:
        table.add_column(f"{name}\np50", justify="right", style="bold")
        table.add_column("\np95", justify="right")
        table.add_column("\np99", justify="right")
    for name in report.challengers():
        table.add_column(f"{name}\nfaster", justify="right")
    table.add_column("queries\n" + " / ".join(c[0] for c in report.contenders), justify="right")
    table.add_column("rows\n" + " / ".join(c[0] for c in report.contenders), justify="right", no_wrap=True)
    for name, found in report.by_scenario().items():
        table.add_row(name, *_cells(report, found))
    return table


def _cells(report: Report, found: Mapping[str, Measured]) -> list[str]:
    cells = [cell for name in report.contenders for cell in _times(found[name].timing)]
    for name in report.challengers():
        ratio = report.times_faster(found, name)
        cells.append(f"[{'green' if ratio >= 1 else 'red'}]{ratio:.1f}[/]" if ratio >= 1 else f"[red]{ratio:.2f}[/]")
    costs = [found[name].cost for name in report.contenders]
    cells.append(" / ".join(_number(cost.queries) for cost in costs))
    cells.append(" / ".join(_number(cost.rows) for cost in costs))
    return cells


def _write_table(report: Report) -> Table:
    table = Table(title="What Tidegate's page indexes cost a write", title_style="bold")
    table.add_column("statement", no_wrap=True)
    for name in ("without them", "with them"):
        table.add_column(f"{name}\np50", justify="right", style="bold")
        table.add_column("\np95", justify="right")
        table.add_column("\np99", justify="right")
    table.add_column("\ntimes", justify="right")
    for cost in report.writes:
        times = (*_times(cost.without_indexes), *_times(cost.with_indexes))
        table.add_row(cost.statement, *times, f"{cost.ratio:.2f}")
    return table


def _times(timing: Timing) -> tuple[str, str, str]:
    return _ms(timing.p50_ms), _ms(timing.p95_ms), _ms(timing.p99_ms)


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"  # noqa: PLR2004  # three figures


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
