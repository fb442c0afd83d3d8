"""What a benchmark found of the sharding: as JSON, and as a table for a terminal."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from rich.table import Table

from tidegate.benchmarks.goals import Goal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from tidegate.benchmarks.intervals import Interval
    from tidegate.benchmarks.sharding.costs import Overhead
    from tidegate.benchmarks.sharding.isolation import Isolation
    from tidegate.benchmarks.sharding.pages import ScatterPage
    from tidegate.benchmarks.sharding.scatters import Scattered
    from tidegate.benchmarks.timing import Timing

PERCENT: Final = 0.1
"""How many percent of a warm gate's calls without a tenant may ask other shards."""
_SLOWER: Final = 1.5
"""How many times as long a call on the other shard may take at p99 while one shard is ill."""


@dataclass(frozen=True, slots=True)
class ShardingReport:
    """The sharding's part of a report."""

    overheads: Sequence[Overhead]
    pages: Sequence[ScatterPage]
    scattered: Sequence[Scattered]
    isolations: Sequence[Isolation]
    goals: Sequence[Goal]

    @classmethod
    def of(
        cls,
        overheads: Sequence[Overhead],
        pages: Sequence[ScatterPage],
        scattered: Sequence[Scattered],
        isolations: Sequence[Isolation],
    ) -> Self:
        """Make the report, with the goals and what was measured of them."""
        goals = [
            Goal(f"{one.text}: us more than on one shard", one.more.value, one.bound, at_most=True)
            for one in overheads
            if one.bound is not None
        ]
        goals += [
            Goal(
                f"calls without a tenant, by ids {one.ids}: % that asked other shards",
                one.percent,
                PERCENT,
                at_most=True,
            )
            for one in scattered
            if one.warm
        ]
        for one in isolations:
            slower = "p99 on the other, times that of before, high end of its interval"
            goals += [
                Goal(f"one of two shards {one.text}: calls on the other that failed", one.failed, 0, at_most=True),
                Goal("connections to the other that calls on the first took", one.taken, 0, at_most=True),
                Goal(slower, one.of_before.high, _SLOWER, at_most=True),
            ]
        return cls(overheads, pages, scattered, isolations, goals)


def sharding_json(report: ShardingReport) -> dict[str, Any]:
    """Return the report in the form that JSON takes; times in milliseconds unless the name says another unit."""
    return {
        "overheads": [asdict(one) for one in report.overheads],
        "pages": [asdict(one) for one in report.pages],
        "without_tenant": [asdict(one) | {"percent": one.percent} for one in report.scattered],
        "isolation": [asdict(one) for one in report.isolations],
        "goals": [asdict(goal) | {"reached": goal.reached} for goal in report.goals],
    }


def show_sharding(report: ShardingReport, console: Console) -> None:
    """Print the table, and below it the goals."""
    table = Table(title="Sharding", title_style="bold")
    table.add_column("what", no_wrap=True)
    table.add_column("found", justify="right", no_wrap=True)
    for text, found in _rows(report):
        table.add_row(text, found)
    console.print()
    console.print(table)
    console.print(
        "In brackets: between what a figure lies with a confidence of 95 %. us more: of the calling thread on the "
        "processor.\nus longer: waits included, of which there is one more without a cache.",
        style="dim",
    )
    for goal in report.goals:
        mark = "[green]reached[/]" if goal.reached else "[red]missed [/]"
        console.print(f"{mark} {goal.text}: {goal.value:.2f}, goal at most {goal.bound:g}", highlight=False)


def _rows(report: ShardingReport) -> Iterator[tuple[str, str]]:
    for one in report.overheads:
        if one.bound is not None:
            yield f"{one.text}: us more than on one shard", f"{_shown(one.more, '+.1f')} of {one.us:.1f}"
        else:
            yield f"{one.text}: us longer than on one shard", f"{_shown(one.longer, '+.0f')} of {one.us:.0f}"
    for page in report.pages:
        both = f"{page.scattered.p50_ms:.2f}, {page.one.p50_ms:.2f}"
        yield f"page of {page.rows} rows of {page.shards} shards, and of one database: p50, ms", both
        yield "the first divided by the second", _shown(page.times, ".2f")
    for calls in report.scattered:
        yield f"calls without a tenant, by ids {calls.ids}: asked other shards", f"{calls.scattered} of {calls.calls}"
    for each in report.isolations:
        yield from _of_isolation(each)


def _of_isolation(found: Isolation) -> Iterator[tuple[str, str]]:
    yield (
        f"a shard {found.text} ({found.times} times), calls on the other: p50, p99, ms, before",
        _percentiles(found.before),
    )
    yield "the same with no calls on the first", _percentiles(found.alone)
    yield "meanwhile", _percentiles(found.meanwhile)
    yield "p99 meanwhile, times that of before", _shown(found.of_before, ".2f")
    yield "p99 meanwhile, times that with no calls on the first", _shown(found.of_alone, ".2f")
    yield "calls on the other, how many failed", f"{found.calls}, {found.failed}"
    yield "calls on the first meanwhile, how many the cache answered", f"{found.attempts}, {found.answered}"
    yield f"connections to the first, of {found.most}; of the other's, taken for it", f"{found.held}, {found.taken}"


def _percentiles(found: Timing) -> str:
    return f"{found.p50_ms:.2f}, {found.p99_ms:.2f}"


def _shown(found: Interval, form: str) -> str:
    return rf"{found.value:{form}} \[{found.low:{form}}, {found.high:{form}}]"
