"""Node executions: reading with offloads, and deleting without leaving any behind."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from real_servers.sharded import tenant_on
from sqlalchemy import func, select

from tidegate.errors import RepositoryImportError
from tidegate.repositories.factory import DifyAPIRepositoryFactory
from tidegate.repositories.models import WorkflowNodeExecutionModel, WorkflowNodeExecutionOffload, new_id
from tidegate.repositories.settings import repository_settings
from tidegate.repositories.sqlalchemy_api_workflow_node_execution_repository import (
    DifyAPISQLAlchemyWorkflowNodeExecutionRepository,
)
from tidegate.repositories.sqlalchemy_api_workflow_run_repository import DifyAPISQLAlchemyWorkflowRunRepository

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session, sessionmaker

    from tests.conformance.conftest import Behind

    Make = Callable[..., str]

pytestmark = pytest.mark.fast

TENANT, APP, RUN = tenant_on("s2"), new_id(), new_id()
NOON = datetime(2026, 3, 1, 12, 0)  # noqa: DTZ001  # columns are naive UTC


@pytest.fixture
def nodes(behind: Behind) -> DifyAPISQLAlchemyWorkflowNodeExecutionRepository:
    return behind.nodes()


@pytest.fixture
def make_node(session_maker: sessionmaker[Session]) -> Make:
    """Stores a node execution with one offload, and gives its id."""

    def make(**overrides: Any) -> str:
        values: dict[str, Any] = {
            "id": new_id(),
            "tenant_id": TENANT,
            "app_id": APP,
            "workflow_id": RUN,
            "triggered_from": "workflow-run",
            "workflow_run_id": RUN,
            "index": 1,
            "node_id": "start",
            "node_type": "start",
            "title": "Start",
            "status": "succeeded",
            "created_by_role": "account",
            "created_by": new_id(),
            "created_at": NOON,
        }
        values |= overrides
        owner = {key: values[key] for key in ("tenant_id", "app_id")}
        with session_maker.begin() as session:
            session.add(WorkflowNodeExecutionModel(**values))
            offload = {"node_execution_id": values["id"], "type_": "inputs", "file_id": new_id()}
            session.add(WorkflowNodeExecutionOffload(**owner, **offload))
        return str(values["id"])

    return make


def left(session_maker: sessionmaker[Session]) -> tuple[int, int]:
    with session_maker() as session:
        models = (WorkflowNodeExecutionModel, WorkflowNodeExecutionOffload)
        executions, offloads = (sum(session.scalars(select(func.count()).select_from(model))) for model in models)
        return executions, offloads


def test_the_nodes_of_a_run_come_in_order_with_their_offloads(
    nodes: DifyAPISQLAlchemyWorkflowNodeExecutionRepository, make_node: Make
) -> None:
    late = make_node(created_at=NOON + timedelta(seconds=1))
    early = make_node(index=2)
    make_node(tenant_id=tenant_on("s1"))
    found = nodes.get_executions_by_workflow_run(TENANT, APP, RUN)
    assert [node.id for node in found] == [early, late]
    assert found[0].inputs_truncated
    assert not found[0].outputs_truncated
    last = nodes.get_node_last_execution(TENANT, APP, RUN, "start")
    assert last is not None
    assert last.id == late


def test_by_id_the_tenant_is_checked_where_it_is_given(
    nodes: DifyAPISQLAlchemyWorkflowNodeExecutionRepository, make_node: Make
) -> None:
    node = make_node()
    assert nodes.get_execution_by_id(node) is not None
    assert nodes.get_execution_by_id(node, TENANT) is not None
    assert nodes.get_execution_by_id(node, tenant_on("s1")) is None


def test_deletion_takes_the_offloads_along_in_every_way(
    nodes: DifyAPISQLAlchemyWorkflowNodeExecutionRepository,
    make_node: Make,
    session_maker: sessionmaker[Session],
    behind: Behind,
) -> None:
    old = [make_node(created_at=NOON - timedelta(days=1)) for _ in range(5)]
    assert {node.id for node in nodes.get_expired_executions_batch(TENANT, NOON)} == set(old)
    make_node()
    assert nodes.delete_expired_executions(TENANT, NOON, batch_size=2) == 5
    assert left(session_maker) == (1, 1)
    assert nodes.delete_executions_by_app(TENANT, APP, batch_size=1) == 1
    assert left(session_maker) == (0, 0)
    one, other = make_node(), make_node()
    assert nodes.delete_executions_by_ids([one]) == 1
    assert nodes.delete_executions_by_ids([]) == 0
    with behind.session(TENANT) as session:
        assert nodes.count_by_runs(session, [RUN]) == (1, 1)
        assert [row.node_execution_id for row in nodes.get_offloads_by_execution_ids(session, [one, other])] == [other]
        assert nodes.delete_by_runs(session, [RUN]) == (1, 1)
        session.rollback()
    assert left(session_maker) == (1, 1)


def test_the_factory_builds_what_the_settings_name_and_names_what_it_cannot(
    session_maker: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = DifyAPIRepositoryFactory.create_api_workflow_run_repository(session_maker)
    assert isinstance(built, DifyAPISQLAlchemyWorkflowRunRepository)
    made = DifyAPIRepositoryFactory.create_api_workflow_node_execution_repository(session_maker)
    assert isinstance(made, DifyAPISQLAlchemyWorkflowNodeExecutionRepository)
    monkeypatch.setenv("API_WORKFLOW_RUN_REPOSITORY", "no.such.module.Class")
    repository_settings.cache_clear()
    try:
        with pytest.raises(RepositoryImportError, match=r"no\.such\.module\.Class"):
            DifyAPIRepositoryFactory.create_api_workflow_run_repository(session_maker)
    finally:
        monkeypatch.undo()
        repository_settings.cache_clear()
