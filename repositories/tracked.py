"""What is tracked in the tables of the run and node execution repositories: tags, and the ids of tenants."""

from __future__ import annotations

from typing import Final

from tidegate.repositories.models import (
    WorkflowAppLog,
    WorkflowArchiveLog,
    WorkflowNodeExecutionModel,
    WorkflowNodeExecutionOffload,
    WorkflowPause,
    WorkflowPauseReason,
    WorkflowRun,
    WorkflowTriggerLog,
)
from tidegate.repositories.policies import Tracked

TRACKED: Final = (
    Tracked(
        WorkflowRun,
        tags=("run:{id}", "runs:{app_id}", "runs:{app_id}:{created_at:day}"),
        identifies=("id", "run"),
    ),
    Tracked(
        WorkflowNodeExecutionModel,
        tags=("node:{id}", "nodes:{workflow_run_id}", "lastnode:{workflow_id}:{node_id}"),
        identifies=("id", "node"),
        names=(("workflow_run_id", "run"),),
    ),
    Tracked(
        WorkflowNodeExecutionOffload,
        tags=("node:{node_execution_id}",),
        parent=("node_execution_id", WorkflowNodeExecutionModel),
    ),
    Tracked(
        WorkflowPause,
        tenant=None,
        tags=("pause:{workflow_run_id}",),
        parent=("workflow_run_id", WorkflowRun),
        identifies=("id", "pause"),
    ),
    Tracked(WorkflowPauseReason, tenant=None, parent=("pause_id", WorkflowPause)),
    Tracked(WorkflowAppLog, tags=("logs:{app_id}",), names=(("workflow_run_id", "run"),)),
    # This is the log of an archived run: the run itself has no row any more.
    Tracked(WorkflowArchiveLog, tags=("archive:{workflow_run_id}",), identifies=("workflow_run_id", "run")),
    Tracked(WorkflowTriggerLog, tags=("triggers:{app_id}",), names=(("workflow_run_id", "run"),)),
)
