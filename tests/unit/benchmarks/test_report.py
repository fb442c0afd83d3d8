from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from tidegate.benchmarks.data.databases import check_disk, disk_need, server_url
from tidegate.benchmarks.goals import goals
from tidegate.benchmarks.index_cost import WriteCost
from tidegate.benchmarks.progress import Steps
from tidegate.benchmarks.report import WIDTH, Report, as_json, show
from tidegate.benchmarks.scenarios import FIRST_PAGE, RARE_SOURCE_QUIET, deepest_page, page_name
from tidegate.benchmarks.timing import Cost, Measured, Timing, timing
from tidegate.errors import BenchmarkError, SettingsError

if TYPE_CHECKING:
    from pathlib import Path


def test_percentiles_are_of_all_samples_in_milliseconds() -> None:
    found = timing([n * 1_000_000 for n in range(1, 102)])
    assert (found.p50_ms, found.p95_ms, found.p99_ms, found.samples) == (51.0, 96.0, 100.0, 101)
    assert timing([300, 100, 200]).p50_ms == 0.0002
    assert timing([5_000_000]) == Timing(5.0, 5.0, 5.0, 1)


@pytest.mark.parametrize(
    ("runs", "number"), [(25, 2), (3_520, 176), (99_999, 4_999), (100_000, 5_000), (900_000, 5_000)]
)
def test_the_deepest_page_is_whole_and_5000_at_most(runs: int, number: int) -> None:
    assert deepest_page(runs) == number


def measured(scenario: str, contender: str, p50_ms: float) -> Measured:
    return Measured(scenario, contender, Timing(p50_ms, p50_ms * 2, p50_ms * 3, 10), Cost(1, 21.0))


DEEP = page_name(176)
MEASURED = [
    *(measured(FIRST_PAGE, name, p50) for name, p50 in (("plain", 1.0), ("baseline", 2.0))),
    *(measured(RARE_SOURCE_QUIET, name, p50) for name, p50 in (("plain", 1.0), ("baseline", 9.9))),
    *(measured(DEEP, name, p50) for name, p50 in (("plain", 1.16), ("baseline", 0.5))),
]


def report() -> Report:
    return Report(
        runs=10_000,
        seed=1,
        rounds=3,
        machine={"cores": 2, "memory_bytes": 8_000_000_000, "cpu": "a processor", "system": "a system"},
        versions={"python": "3.11", "sqlalchemy": "2.1", "postgresql": "18"},
        rows={"workflow_runs": 10_000},
        database_bytes={"plain": 2, "baseline": 1},
        contenders=["plain", "baseline"],
        measured=MEASURED,
        goals=goals(MEASURED, 176),
        writes=[WriteCost("INSERT of a run", Timing(1, 1, 1, 9), Timing(1.5, 1, 1, 9))],
        cache=None,
        routing=None,
        sharding=None,
    )


def test_a_goal_is_reached_on_its_side_of_the_bound() -> None:
    found = goals(MEASURED, 176)
    assert [(goal.reached, round(goal.value, 2)) for goal in found] == [(True, 2.0), (False, 9.9), (False, 1.16)]


def test_the_report_is_json_with_machine_versions_seed_and_every_scenario() -> None:
    found = json.loads(json.dumps(as_json(report())))
    assert found.keys() == {
        *("runs", "seed", "rounds", "machine", "versions", "rows", "database_bytes"),
        *("scenarios", "goals", "index_cost", "cache", "routing", "sharding"),
    }
    assert [scenario["name"] for scenario in found["scenarios"]] == [FIRST_PAGE, RARE_SOURCE_QUIET, DEEP]
    first = found["scenarios"][0]
    assert first["times_faster_p50"] == {"plain": 2.0}
    assert first["contenders"]["baseline"] == {
        "p50_ms": 2.0,
        "p95_ms": 4.0,
        "p99_ms": 6.0,
        "samples": 10,
        "queries": 1,
        "rows": 21.0,
    }
    assert found["index_cost"][0]["ratio_p50"] == 1.5


def test_the_table_shows_what_was_lost_and_what_was_not_reached() -> None:
    console = Console(file=io.StringIO(), width=WIDTH)
    show(report(), console)
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    (lost,) = [line for line in printed.splitlines() if DEEP in line and "│" in line]
    assert "0.43" in lost
    assert "not yet" in printed
    assert "set for 100,000 runs; this was 10,000" in printed
    assert "…" not in printed


def test_a_third_contender_is_one_more_column() -> None:
    rows = [*MEASURED, *(measured(name, "cached", 0.1) for name in (FIRST_PAGE, RARE_SOURCE_QUIET, DEEP))]
    base = report()
    values = {name: getattr(base, name) for name in Report.__slots__}
    wider = Report(**(values | {"contenders": ["plain", "cached", "baseline"], "measured": rows}))
    assert as_json(wider)["scenarios"][0]["times_faster_p50"] == {"plain": 2.0, "cached": 20.0}
    console = Console(file=io.StringIO(), width=200)
    show(wider, console)
    assert isinstance(console.file, io.StringIO)
    assert "cached" in console.file.getvalue()


def test_a_full_disk_is_found_before_the_work(tmp_path: Path) -> None:
    check_disk(disk_need(200), tmp_path)
    with pytest.raises(BenchmarkError, match=r"free, and this needs .* GB: .*second copy .*--runs"):
        check_disk(disk_need(10**12), tmp_path)


@pytest.mark.parametrize("url", ["nonsense", "sqlite:///x.db", "postgresql://host", "mysql://me:secret@host/db"])
def test_a_url_that_cannot_work_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="--url") as caught:
        server_url(url)
    assert "secret" not in str(caught.value)


def test_without_a_terminal_steps_are_lines() -> None:
    console = Console(file=io.StringIO(), width=80)
    with Steps(console).step("loading", 10) as advance:
        advance(5)
    assert isinstance(console.file, io.StringIO)
    begun, done = console.file.getvalue().splitlines()
    assert begun.split() == ["loading", "..."]
    assert done.startswith("done loading (")
