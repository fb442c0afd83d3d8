"""The routing's part of the benchmark, in small, on servers of its own."""

from __future__ import annotations

import io
import json
from typing import Any

from rich.console import Console

from tidegate.benchmarks.progress import Steps
from tidegate.benchmarks.routing.benchmark import RoutingBenchmark
from tidegate.benchmarks.routing.report import routing_json, show_routing
from tidegate.benchmarks.routing.size import RoutingSize


def test_the_routing_benchmark_kills_two_servers_and_reports() -> None:
    console = Console(file=io.StringIO(), width=120)
    report = RoutingBenchmark(RoutingSize(rounds=1, seconds=0.5), 3, Steps(console)).run()
    found: Any = json.loads(json.dumps(routing_json(report)))
    assert all(one["us"] > one["floor_us"] > 0 for one in found["overheads"])
    assert found["offload"]["reads"] > 0
    assert 0.5 < found["offload"]["share"] <= 1
    killed = found["replica_killed"]
    assert killed["failed"] == 0
    assert 0 < killed["after"]["p50_ms"] <= killed["after"]["p99_ms"] <= killed["slowest_ms"]
    assert 0 < found["failover"]["follow_s"] < found["failover"]["total_s"]
    show_routing(report, console)
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    for goal in report.goals:
        assert goal.text in " ".join(printed.split())
