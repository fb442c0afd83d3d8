"""The benchmark on a small data set and real PostgreSQL: what it loads, what it compares, what it leaves behind."""

from __future__ import annotations

import io
import json
import shutil
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from rich.console import Console
from sqlalchemy import create_engine, make_url
from typer.testing import CliRunner

from tidegate.benchmarks.cache.benchmark import Size
from tidegate.benchmarks.data.copy_loader import load
from tidegate.benchmarks.data.data_set import DataSet
from tidegate.benchmarks.data.databases import BASELINE, PLAIN, conninfo, databases
from tidegate.benchmarks.progress import Steps
from tidegate.benchmarks.report import as_json
from tidegate.benchmarks.run import run_benchmark
from tidegate.benchmarks.scenarios import FIRST_PAGE
from tidegate.errors import BenchmarkError
from tidegate.proxy.cli.app import app
from tidegate.repositories.models import Base

if TYPE_CHECKING:
    from pathlib import Path

    from tidegate.proxy.embedded import Cluster

pytest.importorskip("psycopg2", reason="the baseline runs on psycopg2: pip install 'tidegate[bench]'")

TABLES = ("workflow_runs", "workflow_node_executions", "workflow_node_execution_offload")


@pytest.fixture
def steps() -> Steps:
    return Steps(Console(file=io.StringIO(), width=200))


def printed(steps: Steps) -> str:
    assert isinstance(steps.console.file, io.StringIO)
    return steps.console.file.getvalue()


def database_names(cluster: Cluster) -> set[str]:
    return {row[0] for row in cluster.shards[0].primary.execute("SELECT datname FROM pg_database")}


def digests(url: str) -> list[str]:
    found = []
    with psycopg.connect(conninfo(make_url(url))) as connection:
        for table in TABLES:
            query = f"SELECT md5(string_agg(t::text, '' ORDER BY id)) FROM {table} t".encode()
            found.append(connection.execute(query).fetchone())
    return [row[0] for row in found if row]


def test_the_loaded_rows_do_not_depend_on_the_number_of_connections(cluster: Cluster, database_url: str) -> None:
    primary = cluster.shards[0].primary
    primary.execute("CREATE DATABASE loaded_alone", database="postgres")
    alone = primary.url.rsplit("/", 1)[0] + "/loaded_alone"
    committed: list[float] = []
    for url, connections in ((alone, 1), (database_url, 3)):
        engine = create_engine(url)
        Base.metadata.create_all(engine)
        engine.dispose()
        totals = load(DataSet(1_000, 3), conninfo(make_url(url)), committed.append, connections=connections)
        assert totals["workflow_runs"] == 1_000
    assert sum(committed) == 2_000
    assert digests(alone) == digests(database_url)
    primary.execute("DROP DATABASE loaded_alone WITH (FORCE)", database="postgres")


def test_the_whole_benchmark_reports_every_scenario_and_leaves_nothing(cluster: Cluster, steps: Steps) -> None:
    server = make_url(cluster.shards[0].primary.url)
    before = database_names(cluster)
    size = Size(rounds=1, floor_rounds=1, writes=2, bulks=1, pages=100, seconds=0.1, outside=2)
    url = cluster.cache.url
    report = run_benchmark(DataSet(1_500, 3), rounds=1, server=server, steps=steps, cache_url=url, cache_size=size)
    assert database_names(cluster) == before
    assert "On the disk this needs at most" in printed(steps).splitlines()[0]
    assert "second copy for the baseline" in printed(steps).splitlines()[0]
    found: Any = json.loads(json.dumps(as_json(report)))
    assert len(found["scenarios"]) >= 20
    for scenario in found["scenarios"]:
        assert scenario["contenders"].keys() == {"plain", "baseline"}
        for one in scenario["contenders"].values():
            assert 0 < one["p50_ms"] <= one["p95_ms"] <= one["p99_ms"]
            assert one["queries"] >= 1
            assert one["samples"] >= 1
    first = next(scenario for scenario in found["scenarios"] if scenario["name"] == FIRST_PAGE)
    assert {who: (one["queries"], one["rows"]) for who, one in first["contenders"].items()} == {
        "plain": (1, 21),
        "baseline": (1, 21),
    }
    deep = next(scenario for scenario in found["scenarios"] if scenario["name"].startswith("page "))
    assert deep["contenders"]["plain"]["queries"] == 1
    assert deep["contenders"]["baseline"]["queries"] == 2
    assert [cost["statement"] for cost in found["index_cost"]] == ["INSERT of a run", "UPDATE of a run's status"]
    assert found["versions"].keys() == {"python", "tidegate", "sqlalchemy", "psycopg", "psycopg2", "postgresql"}
    assert found["machine"]["cores"] >= 1
    check_cache(found["cache"])


def check_cache(found: Any) -> None:
    hits = {"hit", "near strict", "near bounded"}
    for scenario in found["scenarios"]:
        assert scenario["contenders"].keys() == {"plain", "baseline"} | hits
    # Not 0: where the machine is busy one answer of the cache may come too late, and that call asks the primary.
    # That a hit asks no database is counted in test_gate.py, where nothing else runs.
    asked = [scenario["contenders"][name]["queries"] for scenario in found["scenarios"] for name in hits]
    assert sum(asked) / len(asked) <= 0.1
    assert all(floor["us"] > 0 and floor["floor_us"] > 0 for floor in found["floors"])
    assert [write["ratio_p50"] > 0 for write in found["writes"]] == [True] * 8
    assert [(one["pages"], one["scripts"]) for one in found["invalidation"]] == [(10, 1.0), (100, 1.0)]
    assert found["memory"]["bytes_per_page"] >= found["memory"]["entry_bytes"] > 0
    assert found["memory"]["marks_bytes"] > 0
    still = [row for row in found["under_writes"] if row["writes_a_second"] == 0]
    assert [row["hit_rate"] for row in still] == [1.0] * 5
    busy = {row["kind"]: row for row in found["under_writes"] if row["writes_a_second"] == 100}
    assert busy["first page"]["hit_rate"] < busy["pages deep down"]["hit_rate"]
    assert busy["first page"]["reached_a_second"] > 0
    ways = {"psycopg", "function", "COPY", "subscription"} | ({"psql"} if shutil.which("psql") else set())
    assert {one["way"] for one in found["outside_writes"]} == ways
    assert all(one["timing"]["samples"] == 2 and one["timing"]["p99_ms"] > 0 for one in found["outside_writes"])
    assert len(found["goals"]) == 15 + len(ways)


def test_a_database_in_use_is_refused_by_name(database_url: str, cluster: Cluster, steps: Steps) -> None:
    engine = create_engine(database_url)
    Base.metadata.create_all(engine)
    engine.dispose()
    name, before = make_url(database_url).database, database_names(cluster)
    with (
        pytest.raises(BenchmarkError, match=f"database '{name}' has a table workflow_runs"),
        databases(make_url(database_url), DataSet(400, 1), steps),
    ):
        pass
    assert database_names(cluster) == before


@pytest.mark.parametrize("name", [PLAIN, BASELINE])
def test_a_database_left_by_another_benchmark_is_named_and_kept(
    name: str, cluster: Cluster, database_url: str, steps: Steps
) -> None:
    primary = cluster.shards[0].primary
    primary.execute(f"CREATE DATABASE {name} STRATEGY file_copy", database="postgres")
    with (
        pytest.raises(BenchmarkError, match=f"already has a database '{name}'"),
        databases(make_url(database_url), DataSet(400, 1), steps),
    ):
        pass
    assert name in database_names(cluster)
    primary.execute(f"DROP DATABASE {name}", database="postgres")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--runs", "5"], "runs must be a whole number from 1,000 to 10,000,000, not 5"),
        (["--rounds", "0"], "--rounds must be a whole number from 1 to 10,000, not 0"),
        (["--seed", "-1"], "seed must be a whole number from 0"),
        (["--url", "mysql://me:secret@host/db"], "--url must name a PostgreSQL database"),
        (["--url", "postgresql://me:secret@127.0.0.1:1/db"], "postgresql+psycopg://me:***@127.0.0.1:1/db"),
        (["--json", "/no/such/folder/report.json"], "--json /no/such/folder/report.json cannot be written"),
    ],
)
def test_the_command_refuses_wrong_values_before_the_work(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["bench", *arguments])
    assert done.exit_code == 2
    assert said in done.output
    assert "secret" not in done.output
    assert "starting" not in done.output


def test_the_command_writes_its_report(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    url = cluster.shards[0].primary.url
    done = CliRunner().invoke(
        app, ["bench", "--runs", "1000", "--rounds", "1", "--json", str(path), "--url", url, "--seed", "9"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(path.read_text(encoding="utf-8"))
    assert (found["runs"], found["seed"], found["rounds"]) == (1000, 9, 1)
    assert all(scenario["name"] in done.output for scenario in found["scenarios"])


def test_help_tells_what_there_is_to_say() -> None:
    done = CliRunner().invoke(app, ["bench", "--help"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    for word in (
        "--runs",
        "--seed",
        "--rounds",
        "--json",
        "--url",
        "[default: a server is started",
        "Example: tidegate bench",
    ):
        assert word in done.output
