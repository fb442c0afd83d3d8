from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tidegate.benchmarks.data.data_set import (
    CHUNK_RUNS,
    PAUSED_RUNS,
    RUN_COLUMNS,
    SPAN,
    START,
    WEBHOOK_RUNS,
    Chunk,
    DataSet,
)
from tidegate.benchmarks.data.node_rows import NODE_COLUMNS, OFFLOAD_COLUMNS
from tidegate.repositories.enums import WorkflowExecutionStatus, WorkflowRunTriggeredFrom
from tidegate.repositories.models import WorkflowNodeExecutionModel, WorkflowNodeExecutionOffload, WorkflowRun

if TYPE_CHECKING:
    from collections.abc import Iterable

RUNS, SEED = 4_000, 7
DIGEST = """
from test_data_set import digest
from tidegate.benchmarks.data.data_set import DataSet
made = DataSet(600, 5)
print(digest(made.chunk(number) for number in made.chunks))
"""


@pytest.fixture(scope="module")
def data_set() -> DataSet:
    return DataSet(RUNS, SEED)


@pytest.fixture(scope="module")
def chunks(data_set: DataSet) -> list[Chunk]:
    return [data_set.chunk(number) for number in data_set.chunks]


@pytest.fixture(scope="module")
def runs(chunks: list[Chunk]) -> list[dict[str, Any]]:
    return [dict(zip(RUN_COLUMNS, row, strict=True)) for chunk in chunks for row in chunk.runs]


def digest(chunks: Iterable[Chunk]) -> str:
    return hashlib.sha256(repr([(c.runs, c.nodes, c.offloads) for c in chunks]).encode()).hexdigest()


def test_the_same_seed_and_size_give_the_same_rows_whatever_the_order_of_chunks(chunks: list[Chunk]) -> None:
    again = DataSet(RUNS, SEED)
    backwards = [again.chunk(number) for number in reversed(again.chunks)]
    assert digest(reversed(backwards)) == digest(chunks)


def test_another_process_with_another_hash_seed_makes_the_same_rows() -> None:
    made = DataSet(600, 5)
    hash_seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", DIGEST],
        env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": here},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == digest(made.chunk(number) for number in made.chunks)


def test_another_seed_gives_other_rows(chunks: list[Chunk]) -> None:
    assert digest([DataSet(RUNS, SEED + 1).chunk(0)]) != digest(chunks[:1])


@pytest.mark.parametrize("runs", [200, 777, 2 * CHUNK_RUNS])
def test_there_are_as_many_runs_as_asked_for_and_ids_are_unique(runs: int) -> None:
    made = DataSet(runs, 1)
    ids = [row[0] for number in made.chunks for row in made.chunk(number).runs]
    assert len(ids) == len(set(ids)) == runs


def test_the_whale_has_half_and_the_others_follow_by_rank(runs: list[dict[str, Any]], data_set: DataSet) -> None:
    shares = Counter(run["tenant_id"] for run in runs)
    assert shares[data_set.population.whale_id] == RUNS // 2
    largest = [count for _, count in shares.most_common()][1:]
    assert largest[0] > 1.5 * largest[1] > 1.5 * largest[3]
    assert len(largest) >= 10


def test_apps_are_interleaved_in_time(runs: list[dict[str, Any]]) -> None:
    assert [run["created_at"] for run in runs] == sorted(run["created_at"] for run in runs)
    changes = sum(a["app_id"] != b["app_id"] for a, b in pairwise(runs))
    assert changes > RUNS / 3


def test_every_source_and_state_is_there_and_the_rare_ones_are_as_rare_as_said(
    runs: list[dict[str, Any]], data_set: DataSet
) -> None:
    assert {run["triggered_from"] for run in runs} == set(WorkflowRunTriggeredFrom)
    assert {run["status"] for run in runs} == set(WorkflowExecutionStatus)
    of_main = [run for run in runs if run["app_id"] == data_set.population.main_app.id]
    assert sum(run["triggered_from"] == "webhook" for run in of_main) == WEBHOOK_RUNS
    assert sum(run["status"] == "paused" for run in of_main) == PAUSED_RUNS
    of_quiet = [run for run in runs if run["app_id"] == data_set.population.quiet_app.id]
    assert sum(run["triggered_from"] == "webhook" for run in of_quiet) == WEBHOOK_RUNS
    assert max(run["created_at"] for run in of_quiet) < START + SPAN * 0.51
    common = [run for run in of_main if run["triggered_from"] == "app-run"]
    assert 0.3 * RUNS < len(common) < 0.4 * RUNS


def test_runs_of_a_workflow_share_a_graph_of_2_to_60_kb_of_json(runs: list[dict[str, Any]]) -> None:
    graphs = defaultdict(set)
    for run in runs:
        graphs[run["workflow_id"]].add(run["graph"])
    assert {len(found) for found in graphs.values()} == {1}
    texts = [text for found in graphs.values() for text in found]
    sizes = sorted(len(text.encode()) for text in texts)
    assert sizes[0] >= 2_000
    assert sizes[-1] <= 60_000
    assert sizes[0] < 4_000
    assert sizes[-1] > 40_000
    for text in texts:
        graph = json.loads(text)
        nodes = {node["id"] for node in graph["nodes"]}
        assert len(nodes) >= 3
        assert all({edge["source"], edge["target"]} <= nodes for edge in graph["edges"])


def test_inputs_and_outputs_are_json_of_200_bytes_to_20_kb(runs: list[dict[str, Any]]) -> None:
    ended = [run for run in runs if run["status"] in WorkflowExecutionStatus.ended_values()]
    for column, rows in (("inputs", runs), ("outputs", ended)):
        sizes = [len(run[column].encode()) for run in rows]
        assert min(sizes) >= 200
        assert max(sizes) <= 20_000
        assert max(sizes) > 10_000
        assert all(json.loads(run[column]) for run in rows[:200])


def test_bursts_share_their_time_within_one_app(runs: list[dict[str, Any]], data_set: DataSet) -> None:
    main = data_set.population.main_app.id
    ties = Counter(run["created_at"] for run in runs if run["app_id"] == main)
    assert max(ties.values()) >= 5
    assert sum(count for count in ties.values() if count > 1) > RUNS / 100


def test_node_executions_belong_to_their_runs_and_offloads_to_them(
    chunks: list[Chunk], runs: list[dict[str, Any]]
) -> None:
    nodes = [dict(zip(NODE_COLUMNS, row, strict=True)) for chunk in chunks for row in chunk.nodes]
    offloads = [dict(zip(OFFLOAD_COLUMNS, row, strict=True)) for chunk in chunks for row in chunk.offloads]
    by_run = Counter(node["workflow_run_id"] for node in nodes)
    assert all(by_run[run["id"]] == run["total_steps"] for run in runs)
    assert max(by_run.values()) >= 8
    assert {offload["node_execution_id"] for offload in offloads} <= {node["id"] for node in nodes}
    pairs = [(offload["node_execution_id"], offload["type"]) for offload in offloads]
    assert 0 < len(pairs) == len(set(pairs))


def test_the_rows_have_every_column_of_the_tables() -> None:
    tables = {WorkflowRun: RUN_COLUMNS, WorkflowNodeExecutionModel: NODE_COLUMNS}
    for model, columns in (tables | {WorkflowNodeExecutionOffload: OFFLOAD_COLUMNS}).items():
        assert set(columns) == set(model.__table__.columns.keys())


@pytest.mark.parametrize(
    ("runs", "seed", "named"), [(199, 1, "runs"), (10_000_001, 1, "runs"), (True, 1, "runs"), (500, -1, "seed")]
)
def test_a_number_out_of_range_is_named(runs: int, seed: int, named: str) -> None:
    with pytest.raises(ValueError, match=f"{named} must be a whole number from"):
        DataSet(runs, seed)
