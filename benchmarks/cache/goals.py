"""What the cache is expected to reach, and whether a run of the benchmark shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tidegate.benchmarks.cache.under_writes import DEEP, ENDED
from tidegate.benchmarks.cache.writes import BULK_INSERT, BULK_UPDATE, INSERT, MANY, UPDATE
from tidegate.benchmarks.goals import Goal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.benchmarks.cache.floors import Floor
    from tidegate.benchmarks.cache.outside_writes import OutsideWrite
    from tidegate.benchmarks.cache.under_writes import UnderWrites
    from tidegate.benchmarks.cache.writes import WriteTimes

_RATE: Final = 10
_HIT_RATE: Final = 0.95
_WRITE_TIMES: Final = 2.0
_BULK_TIMES: Final = 1.8
_WINDOW_MS: Final = 100


def cache_goals(
    floors: Sequence[Floor],
    writes: Sequence[WriteTimes],
    under_writes: Sequence[UnderWrites],
    outside_writes: Sequence[OutsideWrite],
) -> list[Goal]:
    """Return the goals, each with what was measured; they hold for any number of runs."""
    costs = [
        Goal(f"{floor.text} {'minus' if floor.difference else '/'} {floor.floor_text}{', us' * floor.difference}",
             floor.value, floor.bound, at_most=True)
        for floor in floors
        if floor.bound is not None
    ]  # fmt: skip
    rates = [
        Goal(f"{row.kind}: hit rate at {_RATE} writes a second", row.hit_rate, _HIT_RATE, at_most=False)
        for row in under_writes
        if row.kind in (DEEP, ENDED) and row.writes_a_second == _RATE
    ]
    bounds = {INSERT: _WRITE_TIMES, UPDATE: _WRITE_TIMES}
    bounds |= {bulk.format(MANY): _BULK_TIMES for bulk in (BULK_INSERT, BULK_UPDATE)}
    times = [
        Goal(f"{row.statement}, gated / plain", row.ratio, bounds[row.statement], at_most=True)
        for row in writes
        if row.statement in bounds
    ]
    windows = [
        Goal(f"outside write by {row.way}: seen within, ms at p99", row.timing.p99_ms, _WINDOW_MS, at_most=True)
        for row in outside_writes
    ]
    return costs + times + rates + windows
