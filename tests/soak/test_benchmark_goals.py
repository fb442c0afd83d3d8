"""The goals, the cache's too, at the size they are set for: minutes, so not in CI."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from tidegate.benchmarks.cache.benchmark import BENCH
from tidegate.benchmarks.data.data_set import DataSet
from tidegate.benchmarks.goals import GOAL_RUNS
from tidegate.benchmarks.progress import Steps
from tidegate.benchmarks.report import WIDTH, show
from tidegate.benchmarks.run import run_benchmark

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1_800)]


# At 300,000 runs the main app has page 5,000 of 20; at 100,000, of which half are the whale's, no app can have it.
@pytest.mark.parametrize(("runs", "seed"), [(GOAL_RUNS, 1), (GOAL_RUNS, 2), (300_000, 1)])
def test_every_goal_is_reached_whatever_the_seed(
    runs: int, seed: int, record_property: Callable[[str, object], None]
) -> None:
    console = Console(width=WIDTH)
    report = run_benchmark(DataSet(runs, seed), rounds=30, server=None, steps=Steps(console), cache_size=BENCH)
    show(report, console)
    assert report.cache is not None
    goals = [*report.goals, *report.cache.goals]
    for goal in goals:
        record_property(goal.text, goal.value)
    assert [goal.text for goal in goals if not goal.reached] == []
