"""A run as the workflow engine sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tidegate.repositories.columns import naive_utc, naive_utc_now
from tidegate.repositories.enums import WorkflowExecutionStatus, WorkflowType

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


@dataclass(slots=True)
class WorkflowExecution:
    """One run. Times are UTC, aware or naive."""

    id_: str
    workflow_id: str
    workflow_version: str
    workflow_type: WorkflowType
    graph: Mapping[str, Any]
    inputs: Mapping[str, Any]
    started_at: datetime
    outputs: Mapping[str, Any] | None = None
    status: WorkflowExecutionStatus = WorkflowExecutionStatus.RUNNING
    error_message: str = ""
    total_tokens: int = 0
    total_steps: int = 0
    exceptions_count: int = 0
    finished_at: datetime | None = None

    @property
    def elapsed_time(self) -> float:
        """Return the seconds from the start to the end, or until now while the run goes on."""
        end = naive_utc(self.finished_at) or naive_utc_now()
        return (end - (naive_utc(self.started_at) or end)).total_seconds()
