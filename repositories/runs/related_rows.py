"""The rows that belong to runs and node executions: count them, and delete them so that none is left behind.

These tables have no foreign keys, so only this module takes care of that. Every function works in the caller's
transaction, in statements of bounded size, and returns how many rows it counted or deleted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import ColumnElement, delete, func

from tidegate.repositories.base import batches, not_one_text
from tidegate.repositories.models import (
    WorkflowAppLog,
    WorkflowNodeExecutionModel,
    WorkflowNodeExecutionOffload,
    WorkflowPause,
    WorkflowPauseReason,
    WorkflowTriggerLog,
)
from tidegate.repositories.query_builder import Query, column_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session


class DeletedPauses(NamedTuple):
    """How many rows were deleted, and the storage keys of their states, which must be discarded after the commit."""

    pauses: int
    reasons: int
    state_keys: list[str]


def delete_nodes(session: Session, node_ids: Sequence[str]) -> tuple[int, int]:
    """Delete some node executions with their offloads, and return how many (node executions, offloads)."""
    offloads = delete_where(session, WorkflowNodeExecutionOffload, "node_execution_id", node_ids)
    return delete_where(session, WorkflowNodeExecutionModel, "id", node_ids), offloads


def delete_nodes_of_runs(session: Session, run_ids: Sequence[str]) -> tuple[int, int]:
    """Delete the node executions of some runs with their offloads, and return how many (node executions, offloads)."""
    nodes = offloads = 0
    for runs in batches(run_ids):
        of_runs = Query(WorkflowNodeExecutionModel).where("workflow_run_id", "in", runs)
        ids = session.scalars(of_runs.columns(WorkflowNodeExecutionModel.id)).all()
        deleted = delete_nodes(session, ids)
        nodes, offloads = nodes + deleted[0], offloads + deleted[1]
    return nodes, offloads


def count_nodes_of_runs(session: Session, run_ids: Sequence[str]) -> tuple[int, int]:
    """Count the (node executions, offloads) of some runs."""
    node, offload = WorkflowNodeExecutionModel, WorkflowNodeExecutionOffload
    offloads = 0
    for runs in batches(dict.fromkeys(not_one_text(run_ids))):
        joined = Query(node).where("workflow_run_id", "in", runs).join(offload, offload.node_execution_id == node.id)
        offloads += session.scalar(joined.columns(func.count())) or 0
    return count_where(session, node, "workflow_run_id", run_ids), offloads


def delete_logs_of_runs(session: Session, run_ids: Sequence[str]) -> int:
    """Delete the app logs and trigger logs of some runs, and return how many."""
    app_logs = delete_where(session, WorkflowAppLog, "workflow_run_id", run_ids)
    return app_logs + delete_where(session, WorkflowTriggerLog, "workflow_run_id", run_ids)


def delete_pauses(session: Session, *conditions: ColumnElement[bool]) -> DeletedPauses:
    """Delete the pauses that satisfy all of *conditions*, with their reasons."""
    returned = delete(WorkflowPause).where(*conditions).returning(WorkflowPause.id, WorkflowPause.state_object_key)
    gone = session.execute(returned, execution_options={"synchronize_session": False}).all()
    reasons = delete_where(session, WorkflowPauseReason, "pause_id", [row.id for row in gone])
    return DeletedPauses(len(gone), reasons, [row.state_object_key for row in gone])


def delete_pauses_of_runs(session: Session, run_ids: Sequence[str]) -> DeletedPauses:
    """Delete the pauses of some runs, with their reasons."""
    parts = [delete_pauses(session, WorkflowPause.workflow_run_id.in_(ids)) for ids in batches(run_ids)]
    keys = [key for part in parts for key in part.state_keys]
    return DeletedPauses(sum(part.pauses for part in parts), sum(part.reasons for part in parts), keys)


def count_pauses_of_runs(session: Session, run_ids: Sequence[str]) -> tuple[int, int]:
    """Count the (pauses, pause reasons) of some runs."""
    pause, reason = WorkflowPause, WorkflowPauseReason
    reasons = 0
    for runs in batches(dict.fromkeys(not_one_text(run_ids))):
        joined = Query(pause).where("workflow_run_id", "in", runs).join(reason, reason.pause_id == pause.id)
        reasons += session.scalar(joined.columns(func.count())) or 0
    return count_where(session, pause, "workflow_run_id", run_ids), reasons


def delete_where(session: Session, model: type[Any], field: str, values: Sequence[str]) -> int:
    """Delete the rows of *model* whose *field* is one of *values*, and return how many."""
    total = 0
    for part in batches(values):
        statement = delete(model).where(column_of(model, field).in_(part))
        done: Any = session.execute(statement, execution_options={"synchronize_session": False})
        total += done.rowcount
    return total


def count_where(session: Session, model: type[Any], field: str, values: Sequence[str]) -> int:
    """Count the rows of *model* whose *field* is one of *values*."""
    total = 0
    for part in batches(dict.fromkeys(not_one_text(values))):
        total += session.scalar(Query(model).where(field, "in", part).columns(func.count())) or 0
    return total
