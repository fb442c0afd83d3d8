"""Where Dify's repositories are in each of its releases: names only, of modules, classes, functions and tables.

Dify's own code is never imported here. What a release does not have is left out where it is looked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Place:
    """Where a release has a repository.

    Args:
        module: the module that defines the class.
        factory: the module that has what makes its objects.
        owner: the class in *factory* whose class method that is; "": it is a function of the module.
        function: its name.
    """

    module: str
    factory: str
    owner: str
    function: str


@dataclass(frozen=True, slots=True)
class HostRepository:
    """A repository of Dify that Tidegate knows.

    Args:
        name: what Tidegate calls it.
        class_name: the name of the class, in every release.
        setting: the setting of Dify that names its class, where a release has one.
        places: where it is, the newest release last.
    """

    name: str
    class_name: str
    setting: str
    places: tuple[Place, ...]


_FACTORY: Final = "repositories.factory"
_OWNER: Final = "DifyAPIRepositoryFactory"
_STORAGE: Final = "extensions.application_services.workflow_storage"
_MAKE_RUNS: Final = "create_api_workflow_run_repository"
_MAKE_NODES: Final = "create_api_workflow_node_execution_repository"

WORKFLOW_RUNS: Final = HostRepository(
    "workflow_runs",
    "DifyAPISQLAlchemyWorkflowRunRepository",
    "API_WORKFLOW_RUN_REPOSITORY",
    (
        Place("repositories.sqlalchemy_api_workflow_run_repository", _FACTORY, _OWNER, _MAKE_RUNS),
        Place("repositories.workflow.run_repository", _STORAGE, "", _MAKE_RUNS),
    ),
)
NODE_EXECUTIONS: Final = HostRepository(
    "node_executions",
    "DifyAPISQLAlchemyWorkflowNodeExecutionRepository",
    "API_WORKFLOW_NODE_EXECUTION_REPOSITORY",
    (
        Place("repositories.sqlalchemy_api_workflow_node_execution_repository", _FACTORY, _OWNER, _MAKE_NODES),
        Place("repositories.workflow.node_execution_repository", _STORAGE, "", _MAKE_NODES),
    ),
)
REPOSITORIES: Final = (WORKFLOW_RUNS, NODE_EXECUTIONS)
LOG_SERVICE: Final = "services.workflow_app_service"
"""The module of the service that gives pages of logs."""
LOG_PAGES: Final = ("WorkflowAppService", "get_paginate_workflow_app_logs")
"""The name of that service, and of its method."""
LATER_LOG_PAGES: Final = (
    ("repositories.workflow_app_log_query_repository", "WorkflowAppLogQueryRepository"),
    ("repositories.workflow.app_log_repository", "WorkflowAppLogRepository"),
)
"""Module and name of the repositories by which later releases read such pages: they run as they are."""
MODELS: Final = "models.workflow"
"""The module that has the mapped classes of the tables that are tracked."""
PAGE: Final = ("libs.infinite_scroll_pagination", "InfiniteScrollPagination")
"""Module and name of the class of a page."""
RECORDS: Final = (
    ("repositories.api_workflow_node_execution_repository", "WorkflowNodeExecutionSnapshot"),
    ("services.workflow.node_execution_queries", "WorkflowNodeExecutionSnapshot"),
)
"""Module and name of the frozen dataclasses of which answers are lists."""
MODULES: Final = tuple(
    dict.fromkeys(name for known in REPOSITORIES for place in known.places for name in (place.module, place.factory))
)
"""The modules after whose import there is something to do."""


def repository_of(cls: type[object]) -> HostRepository | None:
    """Return the repository that a class of the host is, by its name and that of its module; None: it is another."""
    for known in REPOSITORIES:
        if cls.__name__ == known.class_name and cls.__module__ in {place.module for place in known.places}:
            return known
    return None
