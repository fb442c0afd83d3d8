from __future__ import annotations

from typing import Any

from repositories.workflow.node_execution_repository import DifyAPISQLAlchemyWorkflowNodeExecutionRepository
from repositories.workflow.run_repository import DifyAPISQLAlchemyWorkflowRunRepository


def create_api_workflow_run_repository(session_maker: Any) -> Any:
    return DifyAPISQLAlchemyWorkflowRunRepository(session_maker=session_maker)


def create_api_workflow_node_execution_repository(session_maker: Any) -> Any:
    return DifyAPISQLAlchemyWorkflowNodeExecutionRepository(session_maker=session_maker)
