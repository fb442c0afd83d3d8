"""Which tags a change of a row bumps, for the tables of the run and node execution repositories."""

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
    Tracked(WorkflowRun, tags=("run:{id}", "runs:{app_id}", "runs:{app_id}:{created_at:day}")),
    Tracked(
        WorkflowNodeExecutionModel,
        tags=("node:{id}", "nodes:{workflow_run_id}", "lastnode:{workflow_id}:{node_id}"),
    ),
    Tracked(
        WorkflowNodeExecutionOffload,
        tags=("node:{node_execution_id}",),
        parent=("node_execution_id", WorkflowNodeExecutionModel),
    ),
    Tracked(WorkflowPause, tenant=None, tags=("pause:{workflow_run_id}",), parent=("workflow_run_id", WorkflowRun)),
    Tracked(WorkflowPauseReason, tenant=None, parent=("pause_id", WorkflowPause)),
    Tracked(WorkflowAppLog, tags=("logs:{app_id}",)),
    Tracked(WorkflowArchiveLog, tags=("archive:{workflow_run_id}",)),
    Tracked(WorkflowTriggerLog, tags=("triggers:{app_id}",)),
)
