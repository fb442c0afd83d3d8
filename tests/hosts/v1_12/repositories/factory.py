from __future__ import annotations

from typing import Any

from host_factory import made_by_setting

RUNS = "repositories.sqlalchemy_api_workflow_run_repository.DifyAPISQLAlchemyWorkflowRunRepository"
NODES = RUNS.replace("workflow_run", "workflow_node_execution").replace("WorkflowRun", "WorkflowNodeExecution")


class DifyAPIRepositoryFactory:
    @classmethod
    def create_api_workflow_run_repository(cls, session_maker: Any) -> Any:
        return made_by_setting("API_WORKFLOW_RUN_REPOSITORY", RUNS, session_maker)

    @classmethod
    def create_api_workflow_node_execution_repository(cls, session_maker: Any) -> Any:
        return made_by_setting("API_WORKFLOW_NODE_EXECUTION_REPOSITORY", NODES, session_maker)
