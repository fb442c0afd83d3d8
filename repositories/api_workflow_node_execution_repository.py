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
    """Reads, counts and deletes node executions; times are UTC."""

    def get_node_last_execution(
        self, tenant_id: str, app_id: str, workflow_id: str, node_id: str
    ) -> WorkflowNodeExecutionModel | None:
        """The newest execution of one node, with ``offload_data``."""
        ...

    def get_executions_by_workflow_run(
        self, tenant_id: str, app_id: str, workflow_run_id: str
    ) -> Sequence[WorkflowNodeExecutionModel]:
        """The executions of one run, oldest first, with ``offload_data``."""
        ...

    def get_execution_by_id(self, execution_id: str, tenant_id: str | None = None) -> WorkflowNodeExecutionModel | None:
        """One execution, of *tenant_id* if given, with ``offload_data``."""
        ...

    def get_expired_executions_batch(
        self, tenant_id: str, before_date: datetime, batch_size: int = 1000
    ) -> Sequence[WorkflowNodeExecutionModel]:
        """At most *batch_size* of the tenant's executions created before *before_date*, oldest first."""
        ...

    def delete_expired_executions(self, tenant_id: str, before_date: datetime, batch_size: int = 1000) -> int:
        """Delete what was created before *before_date*; returns the executions deleted."""
        ...

    def delete_executions_by_app(self, tenant_id: str, app_id: str, batch_size: int = 1000) -> int:
        """Delete the executions of an app; returns how many."""
        ...

    def delete_executions_by_ids(self, execution_ids: Sequence[str]) -> int:
        """Delete some executions in one transaction; returns how many."""
        ...

    def count_by_runs(self, session: Session, run_ids: Sequence[str]) -> tuple[int, int]:
        """How many (node executions, offloads) belong to some runs."""
        ...

    def delete_by_runs(self, session: Session, run_ids: Sequence[str]) -> tuple[int, int]:
        """Delete the (node executions, offloads) of some runs without a commit; returns how many of each."""
        ...

    def get_offloads_by_execution_ids(
        self, session: Session, node_execution_ids: Sequence[str]
    ) -> Sequence[WorkflowNodeExecutionOffload]:
        """The offloads of some executions."""
        ...
