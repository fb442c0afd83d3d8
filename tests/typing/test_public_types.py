"""What type checkers make of the public face. ``make check`` reads this file; a wrong type is an error there."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, assert_type

import tidegate
from tidegate.proxy.embedded import Cluster, PostgresNode, ValkeyNode
from tidegate.proxy.settings import Settings
from tidegate.repositories.base import batches
from tidegate.repositories.models import WorkflowNodeExecutionModel, WorkflowNodeExecutionOffload, WorkflowRun
from tidegate.repositories.pagination import InfiniteScrollPagination
from tidegate.repositories.query_builder import Query
from tidegate.repositories.sqlalchemy_api_workflow_node_execution_repository import (
    DifyAPISQLAlchemyWorkflowNodeExecutionRepository,
)
from tidegate.repositories.sqlalchemy_api_workflow_run_repository import DifyAPISQLAlchemyWorkflowRunRepository

if TYPE_CHECKING:
    from sqlalchemy import Select
    from sqlalchemy.orm import Session, sessionmaker

    from tidegate.repositories.enums import WorkflowRunTriggeredFrom


def runs(repository: DifyAPISQLAlchemyWorkflowRunRepository, sources: list[WorkflowRunTriggeredFrom]) -> None:
    page = repository.get_paginated_workflow_runs("t", "a", sources, limit=3, last_id=None, status="failed")
    assert_type(page, InfiniteScrollPagination[WorkflowRun])
    assert_type(page.data, Sequence[WorkflowRun])
    assert_type(page.has_more, bool)
    assert_type(repository.get_paginated_workflow_runs("t", "a", sources[0]), InfiniteScrollPagination[WorkflowRun])
    assert_type(repository.get_workflow_run_by_id("t", "a", "r"), WorkflowRun | None)
    assert_type(repository.get_workflow_runs_count("t", "a", "app-run"), dict[str, int])
    assert_type(repository.get_expired_runs_batch("t", datetime.min), Sequence[WorkflowRun])  # noqa: DTZ901  # never run
    repository.get_workflow_run_by_id("t", "a")  # type: ignore[call-arg]  # an id is missing
    repository.get_paginated_workflow_runs("t", "a", sources, limit="3")  # type: ignore[arg-type]  # a number is meant


def nodes(repository: DifyAPISQLAlchemyWorkflowNodeExecutionRepository, session: Session) -> None:
    assert_type(repository.get_node_last_execution("t", "a", "w", "n"), WorkflowNodeExecutionModel | None)
    assert_type(repository.get_executions_by_workflow_run("t", "a", "r"), Sequence[WorkflowNodeExecutionModel])
    assert_type(repository.count_by_runs(session, ["r"]), tuple[int, int])


def rows(run: WorkflowRun, node: WorkflowNodeExecutionModel) -> None:
    assert_type(run.graph, str | None)
    assert_type(run.created_at, datetime)
    assert_type(run.finished_at, datetime | None)
    assert_type(node.offload_data, list[WorkflowNodeExecutionOffload])
    assert_type(WorkflowRun.from_dict({}), WorkflowRun)
    assert_type(tidegate.load([run]), list[WorkflowRun])
    assert_type(tidegate.load((run, node)), tuple[WorkflowRun, WorkflowNodeExecutionModel])


def queries() -> Select[WorkflowRun]:
    query = Query(WorkflowRun).where("status", "eq", "failed").order_by("id").after(None).limit(1)
    assert_type(query, Query[WorkflowRun])
    query.where("status", "like", "f%")  # type: ignore[arg-type]  # no such operator
    for batch in batches(["a"], 10):
        assert_type(batch, list[str])
    return query.statement()


def servers(session_maker: sessionmaker[Session]) -> None:
    with Cluster(shards=1, replicas=1) as cluster:
        assert_type(cluster, Cluster)
        assert_type(cluster.shards[0].primary, PostgresNode)
        assert_type(cluster.shards[0].replicas, tuple[PostgresNode, ...])
        assert_type(cluster.cache, ValkeyNode)
        assert_type(cluster.settings(), Settings)
    DifyAPISQLAlchemyWorkflowRunRepository(session_maker)
    DifyAPISQLAlchemyWorkflowNodeExecutionRepository(session_maker=session_maker)
