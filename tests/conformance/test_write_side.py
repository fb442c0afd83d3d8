"""The write side: saving runs and node executions without reading them, and never another tenant's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event, select

from tidegate.repositories.entities.workflow_execution import WorkflowExecution
from tidegate.repositories.entities.workflow_node_execution import WorkflowNodeExecution
from tidegate.repositories.models import WorkflowNodeExecutionModel, WorkflowNodeExecutionOffload, WorkflowRun, new_id
from tidegate.repositories.workflow_execution_repository import SQLAlchemyWorkflowExecutionRepository
from tidegate.repositories.workflow_node_execution_repository import SQLAlchemyWorkflowNodeExecutionRepository

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker

pytestmark = pytest.mark.fast

NOON = datetime(2026, 3, 1, 12, 0)  # noqa: DTZ001  # columns are naive UTC


@dataclass
class Account:
    id: str
    current_tenant_id: str | None


def run() -> WorkflowExecution:
    return WorkflowExecution(
        id_=new_id(),
        workflow_id=new_id(),
        workflow_version="1",
        workflow_type="workflow",  # type: ignore[arg-type]  # attributes count
        graph={"nodes": []},
        inputs={"a": "é"},
        started_at=NOON,
    )


def test_a_run_is_saved_and_saved_again_without_being_read(session_maker: sessionmaker[Session]) -> None:
    account = Account(new_id(), new_id())
    repository = SQLAlchemyWorkflowExecutionRepository(session_maker, account, new_id(), "app-run")
    statements: list[str] = []
    event.listen(session_maker.kw["bind"], "before_cursor_execute", lambda *a: statements.append(a[2]))
    execution = run()
    repository.save(execution)
    execution.outputs = {"b": 2}
    execution.status = "succeeded"  # type: ignore[assignment]  # attributes count
    execution.finished_at = NOON
    repository.save(execution)
    assert not [statement for statement in statements if statement.lstrip().upper().startswith("SELECT")]
    with session_maker() as session:
        row = session.scalars(select(WorkflowRun)).one()
        assert (row.status, row.outputs_dict, row.graph_dict, row.inputs_dict) == (
            "succeeded",
            {"b": 2},
            {"nodes": []},
            {"a": "é"},
        )
        assert (row.tenant_id, row.created_by, row.created_by_role) == (
            account.current_tenant_id,
            account.id,
            "account",
        )


def test_a_run_of_another_tenant_is_not_overwritten(session_maker: sessionmaker[Session]) -> None:
    execution = run()
    app = new_id()
    SQLAlchemyWorkflowExecutionRepository(session_maker, Account(new_id(), new_id()), app, "app-run").save(execution)
    execution.error_message = "taken over"
    stranger = SQLAlchemyWorkflowExecutionRepository(session_maker, Account(new_id(), new_id()), app, "app-run")
    with pytest.raises(ValueError, match="tenant"):
        stranger.save(execution)
    with session_maker() as session:
        assert session.scalars(select(WorkflowRun)).one().error != "taken over"


def test_wrong_makers_are_refused(session_maker: sessionmaker[Session]) -> None:
    with pytest.raises(ValueError, match="session_factory"):
        SQLAlchemyWorkflowExecutionRepository("nothing", Account(new_id(), new_id()), new_id(), "app-run")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tenant"):
        SQLAlchemyWorkflowExecutionRepository(session_maker, Account(new_id(), None), new_id(), "app-run")


def test_large_data_is_offloaded_and_the_row_keeps_the_truncated_form(session_maker: sessionmaker[Session]) -> None:
    files: dict[str, bytes] = {}

    def offload(execution_id: str, kind: str, data: bytes) -> str:
        assert (execution_id, str(kind)) == (node.id, "inputs")
        files[file_id := new_id()] = data
        return file_id

    account = Account(new_id(), new_id())
    repository = SQLAlchemyWorkflowNodeExecutionRepository(
        session_maker, account, new_id(), "workflow-run", offload=offload
    )
    node = WorkflowNodeExecution(
        id=new_id(),
        node_execution_id=new_id(),
        workflow_id=new_id(),
        workflow_execution_id=new_id(),
        index=1,
        node_id="start",
        node_type="start",
        title="Start",
        inputs={"text": "long" * 100},
        created_at=NOON,
    )
    repository.save(node)
    node.set_truncated_inputs({"text": "long..."})
    repository.save_execution_data(node)
    repository.save_execution_data(node)
    with session_maker() as session:
        row = session.scalars(select(WorkflowNodeExecutionModel)).one()
        kept = session.scalars(select(WorkflowNodeExecutionOffload)).one()
        assert row.inputs_dict == {"text": "long..."}
        assert kept.node_execution_id == node.id
        assert b"longlong" in files[kept.file_id]
    assert node.workflow_execution_id is not None
    assert [found.id for found in repository.get_by_workflow_run(node.workflow_execution_id)] == [node.id]
