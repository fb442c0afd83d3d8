"""The plain repositories: a program can use them without a gate."""

from tidegate.repositories.api_workflow_node_execution_repository import DifyAPIWorkflowNodeExecutionRepository
from tidegate.repositories.api_workflow_run_repository import APIWorkflowRunRepository
from tidegate.repositories.factory import DifyAPIRepositoryFactory, DifyCoreRepositoryFactory
from tidegate.repositories.pagination import InfiniteScrollPagination
from tidegate.repositories.sqlalchemy_api_workflow_node_execution_repository import (
    DifyAPISQLAlchemyWorkflowNodeExecutionRepository,
)
from tidegate.repositories.sqlalchemy_api_workflow_run_repository import DifyAPISQLAlchemyWorkflowRunRepository
from tidegate.repositories.workflow_execution_repository import (
    SQLAlchemyWorkflowExecutionRepository,
    WorkflowExecutionRepository,
    WorkflowNodeExecutionRepository,
)
from tidegate.repositories.workflow_node_execution_repository import SQLAlchemyWorkflowNodeExecutionRepository

__all__ = [
    "APIWorkflowRunRepository",
    "DifyAPIRepositoryFactory",
    "DifyAPISQLAlchemyWorkflowNodeExecutionRepository",
    "DifyAPISQLAlchemyWorkflowRunRepository",
    "DifyAPIWorkflowNodeExecutionRepository",
    "DifyCoreRepositoryFactory",
    "InfiniteScrollPagination",
    "SQLAlchemyWorkflowExecutionRepository",
    "SQLAlchemyWorkflowNodeExecutionRepository",
    "WorkflowExecutionRepository",
    "WorkflowNodeExecutionRepository",
]
