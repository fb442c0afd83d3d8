"""The sharding's part of the benchmark, in small, on servers of its own."""

from __future__ import annotations

import io
import json
from typing import Any

from rich.console import Console

from tidegate.benchmarks.progress import Steps
from tidegate.benchmarks.sharding.benchmark import ShardingBenchmark
from tidegate.benchmarks.sharding.isolation import FROZEN, KILLED, POOL
from tidegate.benchmarks.sharding.report import sharding_json, show_sharding
from tidegate.benchmarks.sharding.size import ShardingSize

TINY = ShardingSize(rows=480, rounds=4, pages=2, calls=30, freezes=1, kills=1, seconds=0.3)


def test_the_sharding_benchmark_freezes_and_kills_a_shard_and_reports() -> None:
    console = Console(file=io.StringIO(), width=120)
    report = ShardingBenchmark(TINY, 3, Steps(console)).run()
    found: Any = json.loads(json.dumps(sharding_json(report)))
    assert all(one["us"] > 0 and one["beside_us"] > 0 for one in found["overheads"])
    # What routing by tenant sends: nothing, but for the one statement of a read for which no mark vouches.
    sent = [(one["statements"], one["beside_statements"]) for one in found["overheads"]]
    assert sent == [(0, 0), (0, 0), (2, 1), (0, 0), (0, 0), (1, 1)]
    assert [(one["rows"], one["scattered"]["samples"]) for one in found["pages"]] == [(20, 2), (200, 2)]
    cold, warm, *_ = found["without_tenant"]
    # Not all: where the tenant's shard answers before another has been asked, that one is not asked any more.
    assert cold["calls"] / 2 < cold["scattered"] <= cold["calls"]
    assert (warm["calls"], warm["scattered"]) == (30, 0)
    assert [one["text"] for one in found["isolation"]] == [FROZEN, KILLED]
    for one in found["isolation"]:
        assert one["failed"] == one["taken"] == 0
        assert one["attempts"] > 0
        assert one["answered"] < one["attempts"]
        for when in ("alone", "before", "meanwhile"):
            assert 0 < one[when]["p50_ms"] <= one[when]["p99_ms"]
    assert 0 < found["isolation"][0]["held"] <= POOL.size + POOL.overflow
    show_sharding(report, console)
    assert isinstance(console.file, io.StringIO)
    printed = " ".join(console.file.getvalue().split())
    for goal in report.goals:
        assert goal.text in printed
