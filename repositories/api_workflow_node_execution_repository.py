"""What the service side asks of node executions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tidegate.repositories.workflow_execution_repository import WorkflowNodeExecutionRepository

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session

    from tidegate.repositories.models import WorkflowNodeExecutionModel, WorkflowNodeExecutionOffload


class DifyAPIWorkflowNodeExecutionRepository(WorkflowNodeExecutionRepository, Protocol):
    """Read, count and delete node executions. Times are UTC."""

    def get_node_last_execution(
        self, tenant_id: str, app_id: str, workflow_id: str, node_id: str
    ) -> WorkflowNodeExecutionModel | None:
        """Return the newest execution of one node, with ``offload_data``."""
        ...

    def get_executions_by_workflow_run(
        self, tenant_id: str, app_id: str, workflow_run_id: str
    ) -> Sequence[WorkflowNodeExecutionModel]:
        """Return the executions of one run, oldest first, with ``offload_data``."""
        ...

    def get_execution_by_id(self, execution_id: str, tenant_id: str | None = None) -> WorkflowNodeExecutionModel | None:
        """Return one execution, of *tenant_id* if given, with ``offload_data``."""
        ...

    def get_expired_executions_batch(
        self, tenant_id: str, before_date: datetime, batch_size: int = 1000
    ) -> Sequence[WorkflowNodeExecutionModel]:
        """Return at most *batch_size* of the tenant's executions created before *before_date*, oldest first."""
        ...

    def delete_expired_executions(self, tenant_id: str, before_date: datetime, batch_size: int = 1000) -> int:
        """Delete executions created before *before_date*, and return how many were deleted."""
        ...

    def delete_executions_by_app(self, tenant_id: str, app_id: str, batch_size: int = 1000) -> int:
        """Delete the executions of an app, and return how many were deleted."""
        ...

    def delete_executions_by_ids(self, execution_ids: Sequence[str]) -> int:
        """Delete some executions in one transaction, and return how many were deleted."""
        ...

    def count_by_runs(self, session: Session, run_ids: Sequence[str]) -> tuple[int, int]:
        """Count the (node executions, offloads) of some runs."""
        ...

    def delete_by_runs(self, session: Session, run_ids: Sequence[str]) -> tuple[int, int]:
        """Delete the (node executions, offloads) of some runs without a commit, and return how many of each."""
        ...

    def get_offloads_by_execution_ids(
        self, session: Session, node_execution_ids: Sequence[str]
    ) -> Sequence[WorkflowNodeExecutionOffload]:
        """Return the offloads of some executions."""
        ...
