"""What the cache is expected to reach, and whether a run of the benchmark shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tidegate.benchmarks.cache.under_writes import DEEP, ENDED
from tidegate.benchmarks.goals import Goal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.benchmarks.cache.floors import Floor
    from tidegate.benchmarks.cache.under_writes import UnderWrites

_RATE: Final = 10
_HIT_RATE: Final = 0.95


def cache_goals(floors: Sequence[Floor], under_writes: Sequence[UnderWrites]) -> list[Goal]:
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
    return costs + rates
