"""Build repositories by the class paths in the settings; to build one costs microseconds."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tidegate.errors import RepositoryImportError, SettingsError
from tidegate.interruptions import pass_interruption
from tidegate.repositories.settings import repository_settings

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.orm import Session, sessionmaker

    from tidegate.repositories.api_workflow_node_execution_repository import DifyAPIWorkflowNodeExecutionRepository
    from tidegate.repositories.api_workflow_run_repository import APIWorkflowRunRepository
    from tidegate.repositories.workflow_execution_repository import (
        WorkflowExecutionRepository,
        WorkflowNodeExecutionRepository,
    )


@cache
def _resolve(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def _build(setting: str, *args: Any) -> Any:
    path = getattr(repository_settings(), setting)
    try:
        repository = _resolve(path)
    except Exception as error:
        pass_interruption(error)
        raise RepositoryImportError(f"{setting.upper()}={path!r} cannot be imported: {error}") from error
    try:
        return repository(*args)
    except (ValueError, SettingsError):  # the repository's own word on its arguments: the caller must read it
        raise
    except Exception as error:
        pass_interruption(error)
        raise RepositoryImportError(f"{setting.upper()}={path!r} cannot be built: {error}") from error


class DifyCoreRepositoryFactory:
    """Build the repositories of the write side."""

    @classmethod
    def create_workflow_execution_repository(
        cls, session_factory: sessionmaker[Session] | Engine, user: Any, app_id: str | None, triggered_from: Any
    ) -> WorkflowExecutionRepository:
        """Build the repository that saves runs.

        Raises:
            RepositoryImportError: the class cannot be imported or built.
            ValueError: the repository refuses the arguments.
        """
        args = (session_factory, user, app_id, triggered_from)
        return _build("core_workflow_execution_repository", *args)  # type: ignore[no-any-return]  # by its path

    @classmethod
    def create_workflow_node_execution_repository(
        cls, session_factory: sessionmaker[Session] | Engine, user: Any, app_id: str | None, triggered_from: Any
    ) -> WorkflowNodeExecutionRepository:
        """Build the repository that saves node executions.

        Raises:
            RepositoryImportError: the class cannot be imported or built.
            ValueError: the repository refuses the arguments.
        """
        args = (session_factory, user, app_id, triggered_from)
        return _build("core_workflow_node_execution_repository", *args)  # type: ignore[no-any-return]  # by its path


class DifyAPIRepositoryFactory(DifyCoreRepositoryFactory):
    """Build the repositories of the service side, and those of the write side."""

    @classmethod
    def create_api_workflow_run_repository(cls, session_maker: sessionmaker[Session]) -> APIWorkflowRunRepository:
        """Build the run repository.

        Raises:
            RepositoryImportError: the class cannot be imported or built.
        """
        return _build("api_workflow_run_repository", session_maker)  # type: ignore[no-any-return]  # by its path

    @classmethod
    def create_api_workflow_node_execution_repository(
        cls, session_maker: sessionmaker[Session]
    ) -> DifyAPIWorkflowNodeExecutionRepository:
        """Build the node execution repository.

        Raises:
            RepositoryImportError: the class cannot be imported or built.
        """
        return _build("api_workflow_node_execution_repository", session_maker)  # type: ignore[no-any-return]  # by path
