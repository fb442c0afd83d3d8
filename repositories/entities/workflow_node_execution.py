"""A node execution as the workflow engine sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tidegate.repositories.columns import naive_utc_now
from tidegate.repositories.enums import WorkflowNodeExecutionStatus

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class OrderConfig:
    """How to order node executions: column names, and one direction for all of them."""

    order_by: list[str]
    order_direction: Literal["asc", "desc"] | None = None


@dataclass(slots=True)
class WorkflowNodeExecution:
    """One execution of one node; ``elapsed_time`` is in seconds.

    A truncated form is what the row keeps of a value that is stored whole in a file.
    """

    id: str
    workflow_id: str
    index: int
    node_id: str
    node_type: str
    title: str
    node_execution_id: str | None = None
    workflow_execution_id: str | None = None
    predecessor_node_id: str | None = None
    inputs: Mapping[str, Any] | None = None
    process_data: Mapping[str, Any] | None = None
    outputs: Mapping[str, Any] | None = None
    status: WorkflowNodeExecutionStatus = WorkflowNodeExecutionStatus.RUNNING
    error: str | None = None
    elapsed_time: float = 0.0
    metadata: Mapping[str, Any] | None = None
    created_at: datetime = field(default_factory=naive_utc_now)
    finished_at: datetime | None = None
    _truncated: dict[str, Mapping[str, Any] | None] = field(default_factory=dict, repr=False)

    def get_truncated_inputs(self) -> Mapping[str, Any] | None:
        """Return the truncated inputs; None if the row has them whole."""
        return self._truncated.get("inputs")

    def get_truncated_process_data(self) -> Mapping[str, Any] | None:
        """Return the truncated process data; None if the row has it whole."""
        return self._truncated.get("process_data")

    def get_truncated_outputs(self) -> Mapping[str, Any] | None:
        """Return the truncated outputs; None if the row has them whole."""
        return self._truncated.get("outputs")

    def set_truncated_inputs(self, value: Mapping[str, Any] | None) -> None:
        """Set what the row keeps of the inputs."""
        self._truncated["inputs"] = value

    def set_truncated_process_data(self, value: Mapping[str, Any] | None) -> None:
        """Set what the row keeps of the process data."""
        self._truncated["process_data"] = value

    def set_truncated_outputs(self, value: Mapping[str, Any] | None) -> None:
        """Set what the row keeps of the outputs."""
        self._truncated["outputs"] = value
