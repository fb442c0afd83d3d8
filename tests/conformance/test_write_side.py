"""The write side: saving runs and node executions without reading them, and never another tenant's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from real_servers.sharded import tenant_on
from sqlalchemy import event, select, text
from sqlalchemy.orm import selectinload

from tidegate.errors import QueryError
from tidegate.repositories import DifyAPIRepositoryFactory
from tidegate.repositories.entities.workflow_execution import WorkflowExecution
from tidegate.repositories.entities.workflow_node_execution import OrderConfig, WorkflowNodeExecution
from tidegate.repositories.models import WorkflowNodeExecutionModel, WorkflowNodeExecutionOffload, WorkflowRun, new_id
from tidegate.repositories.workflow_execution_repository import SQLAlchemyWorkflowExecutionRepository
from tidegate.repositories.workflow_node_execution_repository import SQLAlchemyWorkflowNodeExecutionRepository

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker

    from tests.conformance.conftest import Behind

pytestmark = pytest.mark.fast

TENANT = "7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10"
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


def a_node() -> WorkflowNodeExecution:
    return WorkflowNodeExecution(
        id=new_id(),
        node_execution_id=new_id(),
        workflow_id=new_id(),
        workflow_execution_id=new_id(),
        index=1,
        node_id="start",
        node_type="start",
        title="Start",
        created_at=NOON,
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


def test_a_run_of_another_tenant_is_not_overwritten(across: Behind, session_maker: sessionmaker[Session]) -> None:
    """Of one on the same shard: on another, an id that is taken is not seen."""
    execution = run()
    app = new_id()
    across.executions(Account(new_id(), TENANT), app, "app-run").save(execution)
    execution.error_message = "taken over"
    stranger = across.executions(Account(new_id(), tenant_on("s2")), app, "app-run")
    with pytest.raises(ValueError, match="tenant"):
        stranger.save(execution)
    with session_maker() as session:
        assert session.scalars(select(WorkflowRun)).one().error != "taken over"


def test_wrong_makers_are_refused(session_maker: sessionmaker[Session]) -> None:
    with pytest.raises(ValueError, match="session_factory"):
        SQLAlchemyWorkflowExecutionRepository("nothing", Account(new_id(), new_id()), new_id(), "app-run")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tenant"):
        SQLAlchemyWorkflowExecutionRepository(session_maker, Account(new_id(), None), new_id(), "app-run")


def test_large_data_is_offloaded_and_the_row_keeps_the_truncated_form(
    across: Behind, session_maker: sessionmaker[Session]
) -> None:
    files: dict[str, bytes] = {}

    def offload(execution_id: str, kind: str, data: bytes) -> str:
        assert (execution_id, str(kind)) == (node.id, "inputs")
        files[file_id := new_id()] = data
        return file_id

    repository = across.node_executions(Account(new_id(), new_id()), new_id(), "workflow-run")
    repository._offload = offload
    node = a_node()
    node.inputs = {"text": "long" * 100}
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


@dataclass
class EndUser:
    id: str
    tenant_id: str


def node_of(run_id: str, index: int, **values: Any) -> WorkflowNodeExecution:
    named: dict[str, Any] = {
        "id": new_id(),
        "workflow_id": new_id(),
        "node_id": f"n{index}",
        "node_type": "llm",
        "title": "N",
    }
    return WorkflowNodeExecution(**(named | {"index": index, "workflow_execution_id": run_id} | values))


def test_an_end_user_is_the_creator_and_the_api_s_factory_makes_the_write_side_too(
    session_maker: sessionmaker[Session],
) -> None:
    user, execution = EndUser(new_id(), new_id()), run()
    factory = DifyAPIRepositoryFactory
    factory.create_workflow_execution_repository(session_maker, user, new_id(), "app-run").save(execution)
    nodes = factory.create_workflow_node_execution_repository(session_maker, user, new_id(), "workflow-run")
    nodes.save(node_of(execution.id_, 1))
    with session_maker() as session:
        row = session.get_one(WorkflowRun, execution.id_)
        assert (row.tenant_id, row.created_by, row.created_by_role) == (user.tenant_id, user.id, "end_user")
        assert session.scalars(select(WorkflowNodeExecutionModel.created_by_role)).one() == "end_user"


def test_node_executions_come_in_the_order_asked_for(across: Behind) -> None:
    nodes = across.node_executions(Account(new_id(), new_id()), new_id(), "workflow-run")
    run_id = new_id()
    for index, title in ((2, "a"), (1, "b"), (3, "a")):
        nodes.save(node_of(run_id, index, title=title))

    def indexes(order: OrderConfig | None) -> list[int]:
        return [found.index for found in nodes.get_by_workflow_run(run_id, order)]

    assert indexes(None) == indexes(OrderConfig(order_by=["index"])) == [1, 2, 3]
    assert indexes(OrderConfig(order_by=["index"], order_direction="desc")) == [3, 2, 1]
    assert indexes(OrderConfig(order_by=["title", "index"])) == [2, 3, 1]
    with pytest.raises(QueryError, match="no column 'colour'; known are"):
        indexes(OrderConfig(order_by=["colour"]))


def test_truncated_values_come_back_as_such_and_whole_from_their_files(session_maker: sessionmaker[Session]) -> None:
    files: dict[str, bytes] = {}

    def offload(_execution: str, kind: str, data: bytes) -> str:
        files[file_id := new_id()] = data
        with session_maker.begin() as session:
            session.execute(text("INSERT INTO upload_files (id, key) VALUES (:id, :key)"), {"id": file_id, "key": kind})
        return file_id

    with session_maker.begin() as session:
        kind = "uuid" if session.get_bind().dialect.name == "postgresql" else "CHAR(36)"
        session.execute(text(f"CREATE TABLE upload_files (id {kind}, key VARCHAR(255))"))
    nodes = SQLAlchemyWorkflowNodeExecutionRepository(
        session_maker, Account(new_id(), new_id()), new_id(), "workflow-run", offload=offload
    )
    run_id = new_id()
    execution = node_of(run_id, 1, inputs={"a": 1}, process_data={"p": "long" * 50}, outputs={"o": "long" * 50})
    nodes.save(execution)
    execution.set_truncated_outputs({"o": "long..."})
    execution.set_truncated_process_data({"p": "long..."})
    nodes.save_execution_data(execution)
    (found,) = nodes.get_by_workflow_run(run_id)
    assert (found.get_truncated_inputs(), found.inputs) == (None, {"a": 1})
    assert found.get_truncated_outputs() == found.outputs == {"o": "long..."}
    assert found.get_truncated_process_data() == {"p": "long..."}

    class Storage:
        def load(self, key: str) -> bytes:
            return next(data for data in files.values() if key[0].encode() in data[:3])

    with session_maker() as session:
        row = session.scalars(select(WorkflowNodeExecutionModel).options(_WITH_OFFLOADS)).one()
        assert (row.inputs_truncated, row.outputs_truncated, row.process_data_truncated) == (False, True, True)
        assert row.load_full_inputs(session, Storage()) == {"a": 1}
        assert row.load_full_outputs(session, Storage()) == {"o": "long" * 50}
        assert row.load_full_process_data(session, Storage()) == {"p": "long" * 50}


_WITH_OFFLOADS = selectinload(WorkflowNodeExecutionModel.offload_data)


def test_elapsed_time_is_from_start_to_end_in_seconds() -> None:
    execution = run()
    execution.finished_at = NOON + timedelta(minutes=2)
    assert execution.elapsed_time == 120
    execution.started_at = datetime.now(UTC)
    execution.finished_at = None
    assert 0 <= execution.elapsed_time < 60


class File:
    """What JSON cannot hold."""


class Key(Enum):
    PRICE = "total_price"


WRONG: dict[str, tuple[dict[Any, Any], str]] = {
    "an object": ({"file": File()}, r"outputs\['file'\] is a File"),
    "a nested one": ({"a": [{"b": File()}]}, r"outputs\['a'\]\[0\]\['b'\] is a File"),
    "bytes": ({"data": b"x"}, r"outputs\['data'\] is a bytes"),
    "a set": ({"tags": {1}}, r"outputs\['tags'\] is a set"),
    "a time": ({"at": NOON}, r"outputs\['at'\] is a datetime"),
    "an id": ({"id": UUID(int=1)}, r"outputs\['id'\] is a UUID"),
    "no number": ({"score": float("nan")}, r"outputs\['score'\] is a float \(nan\)"),
    "an infinite number": ({"score": Decimal("inf")}, r"outputs\['score'\] is a Decimal"),
    "a number that no float is": ({"score": Decimal("0.1234567890123456789")}, r"outputs\['score'\] is a Decimal"),
    "a key": ({(1, 2): 3}, r"a key of outputs is a tuple"),
    "a nested key": ({"a": {File(): 3}}, r"a key of outputs\['a'\] is a File"),
}


def circle() -> dict[str, Any]:
    made: dict[str, Any] = {}
    made["again"] = made
    return made


@pytest.mark.parametrize("case", [*WRONG, "a circle"])
def test_what_json_cannot_hold_is_refused_by_key_and_type_and_nothing_is_stored(
    session_maker: sessionmaker[Session], case: str
) -> None:
    value, message = WRONG[case] if case in WRONG else (circle(), "outputs: JSON cannot hold this")
    account, app = Account(new_id(), TENANT), new_id()
    wrong = run()
    wrong.outputs = value
    with pytest.raises(ValueError, match=message):
        SQLAlchemyWorkflowExecutionRepository(session_maker, account, app, "app-run").save(wrong)
    files: list[object] = []

    def offload(*stored: object) -> str:
        files.append(stored)
        return new_id()

    nodes = SQLAlchemyWorkflowNodeExecutionRepository(session_maker, account, app, "workflow-run", offload=offload)
    node = a_node()
    nodes.save(node)
    node.inputs, node.outputs = {"text": "long"}, value
    node.set_truncated_inputs({"text": "l"})
    for store in (nodes.save, nodes.save_execution_data):
        with pytest.raises(ValueError, match=message):
            store(node)
    with session_maker() as session:
        assert session.scalars(select(WorkflowRun)).all() == []
        (row,) = session.scalars(select(WorkflowNodeExecutionModel))
        assert (row.inputs, row.outputs, files) == (None, None, [])


@pytest.mark.parametrize("name", ["graph", "inputs", "outputs"])
def test_each_value_of_a_run_is_refused_by_its_name(session_maker: sessionmaker[Session], name: str) -> None:
    wrong = run()
    setattr(wrong, name, {"file": File()})
    repository = SQLAlchemyWorkflowExecutionRepository(session_maker, Account(new_id(), TENANT), new_id(), "app-run")
    with pytest.raises(ValueError, match=rf"{name}\['file'\] is a File"):
        repository.save(wrong)


@pytest.mark.parametrize("name", ["inputs", "process_data", "outputs", "metadata"])
def test_each_value_of_a_node_execution_is_refused_by_its_name(session_maker: sessionmaker[Session], name: str) -> None:
    wrong = a_node()
    setattr(wrong, name, {"file": File()})
    nodes = SQLAlchemyWorkflowNodeExecutionRepository(
        session_maker, Account(new_id(), TENANT), new_id(), "workflow-run"
    )
    with pytest.raises(ValueError, match=rf"{name}\['file'\] is a File"):
        nodes.save(wrong)


def test_what_is_no_text_is_no_status_and_no_type(session_maker: sessionmaker[Session]) -> None:
    account = Account(new_id(), TENANT)
    repository = SQLAlchemyWorkflowExecutionRepository(session_maker, account, new_id(), "app-run")
    for name in ("status", "workflow_type"):
        wrong = run()
        setattr(wrong, name, File())
        with pytest.raises(ValueError, match=f"{name} must be text.*not a File"):
            repository.save(wrong)
    with pytest.raises(ValueError, match=r"triggered_from must be text.*not a File"):
        SQLAlchemyWorkflowExecutionRepository(session_maker, account, new_id(), File())


def test_decimal_numbers_and_enums_are_stored_as_numbers_and_values(session_maker: sessionmaker[Session]) -> None:
    nodes = SQLAlchemyWorkflowNodeExecutionRepository(
        session_maker, Account(new_id(), TENANT), new_id(), "workflow-run"
    )
    node = a_node()
    node.metadata = {Key.PRICE: Decimal("0.0001"), "kind": Key.PRICE, "currency": None}  # type: ignore[dict-item]
    nodes.save(node)
    with session_maker() as session:
        (row,) = session.scalars(select(WorkflowNodeExecutionModel))
        assert row.execution_metadata_dict == {"total_price": 0.0001, "kind": "total_price", "currency": None}
