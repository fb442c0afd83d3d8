"""What a benchmark found of the cache: as JSON, and as tables for a terminal."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from rich.box import SIMPLE_HEAD
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.console import Console

    from tidegate.benchmarks.cache.costs import Invalidation, Memory
    from tidegate.benchmarks.cache.floors import Floor
    from tidegate.benchmarks.cache.outside_writes import OutsideWrite
    from tidegate.benchmarks.cache.under_writes import UnderWrites
    from tidegate.benchmarks.cache.writes import WriteTimes
    from tidegate.benchmarks.goals import Goal
    from tidegate.benchmarks.timing import Measured

_REFERENCE: Final = "plain"
_BESIDE: Final = "baseline"


@dataclass(frozen=True, slots=True)
class CacheReport:
    """The cache's part of a report; ``contenders`` are in the order of their columns."""

    contenders: Sequence[str]
    measured: Sequence[Measured]
    floors: Sequence[Floor]
    writes: Sequence[WriteTimes]
    invalidation: Sequence[Invalidation]
    memory: Memory
    outside_writes: Sequence[OutsideWrite]
    under_writes: Sequence[UnderWrites]
    goals: Sequence[Goal]

    def by_scenario(self) -> dict[str, dict[str, Measured]]:
        """Return what was measured, by scenario and contender."""
        found: dict[str, dict[str, Measured]] = {}
        for one in self.measured:
            found.setdefault(one.scenario, {})[one.contender] = one
        return found


def cache_json(report: CacheReport) -> dict[str, Any]:
    """Return the report in the form that JSON takes; times in milliseconds unless the name says us, sizes in bytes."""
    return {
        "scenarios": [
            {"name": name, "contenders": {who: asdict(one.timing) | asdict(one.cost) for who, one in found.items()}}
            for name, found in report.by_scenario().items()
        ],
        "floors": [asdict(floor) | {"value": floor.value} for floor in report.floors],
        "writes": [asdict(write) | {"ratio_p50": write.ratio} for write in report.writes],
        "invalidation": [asdict(one) for one in report.invalidation],
        "memory": asdict(report.memory),
        "outside_writes": [asdict(one) for one in report.outside_writes],
        "under_writes": [asdict(row) | {"hit_rate": row.hit_rate} for row in report.under_writes],
        "goals": [asdict(goal) | {"reached": goal.reached} for goal in report.goals],
    }


def show_cache(report: CacheReport, console: Console) -> None:
    """Print the tables, and below them the goals."""
    tables = (_scenarios, _floors, _writes, _outside_writes, _invalidation, _under_writes)
    for table in (made(report) for made in tables):
        console.print()
        console.print(table)
    memory = report.memory
    console.print(
        f"\nMemory of the cache server, with {memory.pages:,} cached pages of 20: {memory.bytes_per_page:,.0f} bytes a "
        f"page with its key (of which the entry {memory.entry_bytes:,}); {memory.marks_bytes:,} bytes a tenant for its "
        f"marks ({memory.marks} fields).\n",
        highlight=False,
    )
    for goal in report.goals:
        mark = "[green]reached[/]" if goal.reached else "[red]missed [/]"
        side = "at most" if goal.at_most else "at least"
        console.print(f"{mark} {goal.text}: {goal.value:.2f}, goal {side} {goal.bound:g}", highlight=False)


def _scenarios(report: CacheReport) -> Table:
    table = _table("The cache: milliseconds a call; times: p50 of plain divided by this one's", ["scenario"])
    table.box, table.padding = SIMPLE_HEAD, (0, 1, 0, 0)
    for name in report.contenders:
        first, _, second = name.rpartition(" ")
        table.add_column(f"{first}\n{second}\np50", justify="right", style="bold", no_wrap=True)
        if name != _BESIDE:
            table.add_column("\n\np99", justify="right")
        if name not in (_REFERENCE, _BESIDE):
            table.add_column("\n\ntimes", justify="right")
    for scenario, found in report.by_scenario().items():
        table.add_row(scenario, *_cells(report.contenders, found))
    return table


def _cells(contenders: Iterable[str], found: Mapping[str, Measured]) -> list[str]:
    cells = []
    for name in contenders:
        timing = found[name].timing
        cells.append(_ms(timing.p50_ms))
        if name != _BESIDE:
            cells.append(_ms(timing.p99_ms))
        if name not in (_REFERENCE, _BESIDE):
            ratio = found[_REFERENCE].timing.p50_ms / timing.p50_ms
            cells.append(f"[{'green' if ratio >= 1 else 'red'}]{ratio:.1f}[/]")
    return cells


def _floors(report: CacheReport) -> Table:
    table = _table(
        "Beside the least it could cost: microseconds a call, median", ["what", "us", "floor", "us", "times"]
    )
    for floor in report.floors:
        value = f"+{floor.value:.1f} us" if floor.difference else f"{floor.value:.2f}"
        table.add_row(floor.text, f"{floor.us:.1f}", floor.floor_text, f"{floor.floor_us:.1f}", value)
    return table


def _writes(report: CacheReport) -> Table:
    columns = ["transaction", "plain p50", "p99", "with triggers p50", "p99", "gated p50", "p99", "times"]
    table = _table("Writes: milliseconds a transaction", columns)
    for write in report.writes:
        times = [_ms(t) for one in (write.plain, write.triggered, write.gated) for t in (one.p50_ms, one.p99_ms)]
        table.add_row(write.statement, *times, f"{write.ratio:.2f}")
    return table


def _outside_writes(report: CacheReport) -> Table:
    table = _table("Outside writes: milliseconds until a gate shows them", ["way", "p50", "p95", "p99", "writes"])
    for one in report.outside_writes:
        found = one.timing
        table.add_row(one.way, _ms(found.p50_ms), _ms(found.p95_ms), _ms(found.p99_ms), f"{found.samples:,}")
    return table


def _invalidation(report: CacheReport) -> Table:
    table = _table("Invalidation of an app, by turns: milliseconds", ["cached pages", "p50", "p99", "scripts a call"])
    for one in report.invalidation:
        table.add_row(f"{one.pages:,}", _ms(one.timing.p50_ms), _ms(one.timing.p99_ms), f"{one.scripts:.2f}")
    return table


def _under_writes(report: CacheReport) -> Table:
    rows: dict[str, list[UnderWrites]] = {}
    for row in report.under_writes:
        rows.setdefault(row.kind, []).append(row)
    table = _table(
        "Reading an app while another process writes to it: hits of 100 calls; p99 in milliseconds", ["writes a second"]
    )
    for row in next(iter(rows.values())):
        table.add_column(f"{row.writes_a_second}\nhits", justify="right", style="bold")
        table.add_column("\np99", justify="right")
    reached = [f"{row.reached_a_second:.1f}" for row in next(iter(rows.values()))]
    table.add_row("(reached)", *[cell for text in reached for cell in (text, "")])
    for kind, found in rows.items():
        cells = [cell for row in found for cell in (f"{row.hit_rate * 100:.1f}", _ms(row.timing.p99_ms))]
        table.add_row(kind, *cells)
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i and column != "floor" else "left", no_wrap=True)
    return table


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"  # noqa: PLR2004  # three figures
