"""What the environment says of the plain repositories."""

from __future__ import annotations

from functools import cache

from pydantic_settings import BaseSettings

_HERE = "tidegate.repositories"


class RepositorySettings(BaseSettings):
    """Class paths and the pause storage. Each comes from the environment variable of its name in capitals."""

    api_workflow_run_repository: str = (
        f"{_HERE}.sqlalchemy_api_workflow_run_repository.DifyAPISQLAlchemyWorkflowRunRepository"
    )
    api_workflow_node_execution_repository: str = (
        f"{_HERE}.sqlalchemy_api_workflow_node_execution_repository.DifyAPISQLAlchemyWorkflowNodeExecutionRepository"
    )
    core_workflow_execution_repository: str = (
        f"{_HERE}.workflow_execution_repository.SQLAlchemyWorkflowExecutionRepository"
    )
    core_workflow_node_execution_repository: str = (
        f"{_HERE}.workflow_node_execution_repository.SQLAlchemyWorkflowNodeExecutionRepository"
    )
    tidegate_pause_storage: str | None = None
    """Where the states of paused runs lie; see :func:`tidegate.repositories.runs.pause_storage.storage_from`."""


@cache
def repository_settings() -> RepositorySettings:
    """Return the settings of the process, which are read once.

    After ``repository_settings.cache_clear()`` they are read again.
    """
    return RepositorySettings()
