"""What the factories of a host's releases with class paths have in common."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any


def made_by_setting(setting: str, otherwise: str, session_maker: Any) -> Any:
    """Make an object of the class that a setting names."""
    module, _, name = os.environ.get(setting, otherwise).rpartition(".")
    return getattr(import_module(module), name)(session_maker=session_maker)


RUNS = "repositories.sqlalchemy_api_workflow_run_repository.DifyAPISQLAlchemyWorkflowRunRepository"
NODES = RUNS.replace("workflow_run", "workflow_node_execution").replace("WorkflowRun", "WorkflowNodeExecution")


class DifyAPIRepositoryFactory:
    @classmethod
    def create_api_workflow_run_repository(cls, session_maker: Any) -> Any:
        return made_by_setting("API_WORKFLOW_RUN_REPOSITORY", RUNS, session_maker)

    @classmethod
    def create_api_workflow_node_execution_repository(cls, session_maker: Any) -> Any:
        return made_by_setting("API_WORKFLOW_NODE_EXECUTION_REPOSITORY", NODES, session_maker)
