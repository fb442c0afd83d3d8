from __future__ import annotations

import io
import json
from dataclasses import replace

from rich.console import Console

from tidegate.benchmarks.intervals import Interval
from tidegate.benchmarks.report import WIDTH
from tidegate.benchmarks.sharding.costs import Overhead
from tidegate.benchmarks.sharding.isolation import FROZEN, Isolation
from tidegate.benchmarks.sharding.pages import ScatterPage
from tidegate.benchmarks.sharding.report import ShardingReport, sharding_json, show_sharding
from tidegate.benchmarks.sharding.scatters import Scattered
from tidegate.benchmarks.timing import Timing

COST = Overhead("call that asks nothing", 7.5, 3.5, Interval(4.0, 3.9, 6.1), Interval(4.5, 3, 6), 0, 0)
READ = replace(
    COST, text="call that reads", longer=Interval(300, 250, 350), statements=2, beside_statements=1, bound=None
)
PAGE = ScatterPage(200, 3, Timing(4, 5, 6, 9), Timing(2, 3, 4, 9), Interval(2, 1.75, 2.25))
COLD = Scattered("never seen", 100, 100)
WARM = Scattered("written or read before", 2000, 2, warm=True)
TIMES = (Timing(1, 2, 2, 9), Timing(1, 2, 3, 9), Timing(1, 2, 4, 9))
FAULT = Isolation(FROZEN, 4, *TIMES, Interval(1.25, 0.75, 1.5), Interval(1.75, 1.5, 2.25), 900, 0, 50, 5, 0, 6, 6)


def unmet(cost: Overhead = COST, warm: Scattered = WARM, fault: Isolation = FAULT) -> list[float]:
    goals = ShardingReport.of([cost, READ], [PAGE], [COLD, warm], [fault]).goals
    assert len(goals) == 5
    return [goal.value for goal in goals if not goal.reached]


def test_a_goal_is_missed_by_what_lies_beyond_its_bound() -> None:
    assert unmet() == []
    assert unmet(cost=replace(COST, more=Interval(5.1, 4, 6))) == [5.1]
    assert unmet(warm=replace(WARM, scattered=3)) == [0.15]
    assert unmet(fault=replace(FAULT, failed=1)) == [1]
    assert unmet(fault=replace(FAULT, taken=2)) == [2]
    # A measuring that is not sure of it does not show that it is no slower.
    assert unmet(fault=replace(FAULT, of_before=Interval(1.1, 0.9, 2))) == [2]


def test_the_report_is_json_and_a_table_with_every_interval() -> None:
    report = ShardingReport.of([COST, READ], [PAGE], [COLD, WARM], [FAULT])
    found = json.loads(json.dumps(sharding_json(report)))
    assert found.keys() == {"overheads", "pages", "without_tenant", "isolation", "goals"}
    assert found["overheads"][0]["more"] == {"value": 4.0, "low": 3.9, "high": 6.1}
    assert [one["percent"] for one in found["without_tenant"]] == [100, 0.1]
    console = Console(file=io.StringIO(), width=WIDTH)
    show_sharding(report, console)
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    for shown in (
        "+4.0 [+3.9, +6.1] of 7.5",
        "+300 [+250, +350]",
        "2.00 [1.75, 2.25]",
        "2 of 2000",
        "1.25 [0.75, 1.50]",
        "1.75 [1.50, 2.25]",
    ):
        assert shown in printed
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= WIDTH
