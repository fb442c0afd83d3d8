"""What a benchmark found of the routing: as JSON, and as a table for a terminal."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from rich.table import Table

from tidegate.benchmarks.goals import Goal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from tidegate.benchmarks.cache.floors import Floor
    from tidegate.benchmarks.timing import Timing


@dataclass(frozen=True, slots=True)
class Offload:
    """A load in which some calls write: how many reads there were, and how many of them the primary had to answer."""

    reads: int
    writes: int
    on_primary: int
    seconds: float

    @property
    def share(self) -> float:
        """Return the share of the reads that replicas answered, from 0 to 1."""
        return 1 - self.on_primary / self.reads


@dataclass(frozen=True, slots=True)
class Killed:
    """Reads before one of two replicas was killed, and from that moment on; the slowest of these in milliseconds."""

    before: Timing
    after: Timing
    slowest_ms: float
    failed: int


@dataclass(frozen=True, slots=True)
class Failover:
    """The time from SIGKILL of the primary to the first write on the promoted one, in seconds, by its parts.

    Args:
        kill_s: until the process is gone.
        promote_s: the promotion, which is not Tidegate's.
        follow_s: from the end of the promotion until the gate has written there.
    """

    kill_s: float
    promote_s: float
    follow_s: float

    @property
    def total_s(self) -> float:
        """Return the whole time, in seconds."""
        return self.kill_s + self.promote_s + self.follow_s


@dataclass(frozen=True, slots=True)
class RoutingReport:
    """The routing's part of a report."""

    overheads: Sequence[Floor]
    offload: Offload
    killed: Killed
    failover: Failover
    goals: Sequence[Goal]

    @classmethod
    def of(cls, overheads: Sequence[Floor], offload: Offload, killed: Killed, failover: Failover) -> Self:
        """Make the report, with the goals and what was measured of them."""
        goals = [
            Goal(f"{one.text} minus {one.floor_text}, us", one.value, one.bound, at_most=True)
            for one in overheads
            if one.bound is not None
        ]
        goals.append(Goal("reads that failed when a replica was killed", killed.failed, 0, at_most=True))
        return cls(overheads, offload, killed, failover, goals)


def routing_json(report: RoutingReport) -> dict[str, Any]:
    """Return the report in the form that JSON takes; times in milliseconds unless the name says another unit."""
    return {
        "overheads": [asdict(one) | {"value": one.value} for one in report.overheads],
        "offload": asdict(report.offload) | {"share": report.offload.share},
        "replica_killed": asdict(report.killed),
        "failover": asdict(report.failover) | {"total_s": report.failover.total_s},
        "goals": [asdict(goal) | {"reached": goal.reached} for goal in report.goals],
    }


def show_routing(report: RoutingReport, console: Console) -> None:
    """Print the table, and below it the goals."""
    offload, killed, failover = report.offload, report.killed, report.failover
    table = Table(title="Routing: a primary with two replicas", title_style="bold")
    table.add_column("what", no_wrap=True)
    table.add_column("found", justify="right", no_wrap=True)
    for one in report.overheads:
        table.add_row(f"{one.text}: us more than {one.floor_text}", f"{one.value:+.1f} of {one.us:.1f}")
    reads_s, writes_s = offload.reads / offload.seconds, offload.writes / offload.seconds
    table.add_row(f"reads answered by replicas, at {reads_s:.0f} reads and {writes_s:.0f} writes a second",
                  f"{offload.share:.1%}")  # fmt: skip
    before, after = killed.before, killed.after
    table.add_row("a read by id: p50, p99, ms", f"{before.p50_ms:.2f}, {before.p99_ms:.2f}")
    table.add_row("after one of two replicas was killed", f"{after.p50_ms:.2f}, {after.p99_ms:.2f}")
    table.add_row("the slowest of those; how many failed", f"{killed.slowest_ms:.1f}, {killed.failed}")
    table.add_row("SIGKILL of the primary to the first write on the promoted one, s", f"{failover.total_s:.2f}")
    table.add_row("of that, after the promotion", f"{failover.follow_s:.2f}")
    console.print()
    console.print(table)
    for goal in report.goals:
        mark = "[green]reached[/]" if goal.reached else "[red]missed [/]"
        console.print(f"{mark} {goal.text}: {goal.value:.2f}, goal at most {goal.bound:g}", highlight=False)
