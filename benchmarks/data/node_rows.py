"""The node executions of one run, and the offloads of some of them."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from tidegate.benchmarks.data.population import random_uuid
from tidegate.repositories.enums import (
    ExecutionOffLoadType,
    WorkflowExecutionStatus,
    WorkflowNodeExecutionStatus,
    WorkflowNodeExecutionTriggeredFrom,
    WorkflowType,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from tidegate.benchmarks.data.graphs import Graph
    from tidegate.benchmarks.data.prose import Prose

NODE_COLUMNS: Final = (
    *("id", "tenant_id", "app_id", "workflow_id", "triggered_from", "workflow_run_id", "index", "predecessor_node_id"),
    *("node_execution_id", "node_id", "node_type", "title", "inputs", "process_data", "outputs", "status", "error"),
    *("elapsed_time", "execution_metadata", "created_at", "created_by_role", "created_by", "finished_at"),
)
OFFLOAD_COLUMNS: Final = ("id", "created_at", "tenant_id", "app_id", "node_execution_id", "type", "file_id")
_OFFLOADED: Final = 0.04
_LAST_STATUS: Final = {
    WorkflowExecutionStatus.SUCCEEDED: WorkflowNodeExecutionStatus.SUCCEEDED,
    WorkflowExecutionStatus.FAILED: WorkflowNodeExecutionStatus.FAILED,
    WorkflowExecutionStatus.PARTIAL_SUCCEEDED: WorkflowNodeExecutionStatus.EXCEPTION,
    WorkflowExecutionStatus.STOPPED: WorkflowNodeExecutionStatus.STOPPED,
    WorkflowExecutionStatus.RUNNING: WorkflowNodeExecutionStatus.RUNNING,
    WorkflowExecutionStatus.SCHEDULED: WorkflowNodeExecutionStatus.PENDING,
    WorkflowExecutionStatus.PAUSED: WorkflowNodeExecutionStatus.PAUSED,
}

Row = tuple[Any, ...]


def node_rows(rng: Random, prose: Prose, run: Mapping[str, Any], graph: Graph) -> tuple[list[Row], list[Row]]:
    """Make the rows of a run's node executions (as many as its ``total_steps``), and those of their offloads."""
    nodes: list[Row] = []
    offloads: list[Row] = []
    for index in range(run["total_steps"]):
        node = _node(rng, prose, run, graph, index)
        nodes.append(tuple(node[column] for column in NODE_COLUMNS))
        if rng.random() < _OFFLOADED:
            offloads.extend(_offloads(rng, node))
    return nodes, offloads


def _node(rng: Random, prose: Prose, run: Mapping[str, Any], graph: Graph, index: int) -> dict[str, Any]:
    here = graph.nodes[index % len(graph.nodes)]
    before = graph.nodes[(index - 1) % len(graph.nodes)].id if index else None
    created_at = run["created_at"] + timedelta(milliseconds=40 * index)
    last = index == run["total_steps"] - 1
    status = _LAST_STATUS[run["status"]] if last else WorkflowNodeExecutionStatus.SUCCEEDED
    over = status not in {WorkflowNodeExecutionStatus.RUNNING, WorkflowNodeExecutionStatus.PENDING}
    rag = run["type"] == WorkflowType.RAG_PIPELINE
    kind = (
        WorkflowNodeExecutionTriggeredFrom.RAG_PIPELINE_RUN if rag else WorkflowNodeExecutionTriggeredFrom.WORKFLOW_RUN
    )
    return {
        **{column: run[column] for column in ("tenant_id", "app_id", "workflow_id", "created_by_role", "created_by")},
        "id": random_uuid(rng),
        "triggered_from": kind.value,
        "workflow_run_id": run["id"],
        "index": index + 1,
        "predecessor_node_id": before,
        "node_execution_id": random_uuid(rng),
        "node_id": here.id,
        "node_type": here.type,
        "title": here.title,
        "inputs": _value(rng, prose, "query"),
        "process_data": _value(rng, prose, "prompts") if here.type == "llm" else None,
        "outputs": _value(rng, prose, "text") if over else None,
        "status": status.value,
        "error": run["error"] if last else None,
        "elapsed_time": 0.04 if over else 0.0,
        "execution_metadata": json.dumps({"total_tokens": rng.randrange(4_000), "currency": "USD"}),
        "created_at": created_at,
        "finished_at": created_at + timedelta(milliseconds=40) if over else None,
    }


def _value(rng: Random, prose: Prose, key: str) -> str:
    characters = min(int(rng.lognormvariate(5.5, 0.9)), 4_000)
    return json.dumps({key: prose.cut(rng, max(40, characters))}, ensure_ascii=False)


def _offloads(rng: Random, node: Mapping[str, Any]) -> list[Row]:
    kinds = rng.sample(list(ExecutionOffLoadType), rng.randint(1, 2))
    at = node["created_at"]
    return [
        (random_uuid(rng), at, node["tenant_id"], node["app_id"], node["id"], kind.value, random_uuid(rng))
        for kind in kinds
    ]
