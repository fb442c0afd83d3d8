"""The mapped classes of a host: the same tables in each of its releases, with other types of columns."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

import host_database
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator


class Id(TypeDecorator[str]):
    """A UUID as text, whatever it was given as."""

    impl = sa.Uuid(as_uuid=False)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str | None:
        del dialect
        return None if value is None else str(uuid.UUID(str(value)))


class RunStatus(StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PAUSED = "paused"


class Source(StrEnum):
    DEBUGGING = "debugging"
    APP_RUN = "app-run"


class Word(TypeDecorator[StrEnum]):
    """A word of a vocabulary; any other is refused."""

    impl = sa.String(255)
    cache_ok = True

    def __init__(self, vocabulary: type[StrEnum]) -> None:
        super().__init__()
        self._vocabulary = vocabulary

    def process_bind_param(self, value: Any, dialect: Any) -> str | None:
        del dialect
        return None if value is None else self._vocabulary(value).value

    def process_result_value(self, value: Any, dialect: Any) -> StrEnum | None:
        del dialect
        return None if value is None else self._vocabulary(value)


def define(module: str, *, words: bool, later: bool) -> dict[str, type[Any]]:
    """Make the mapped classes of one release.

    Args:
        module: where they are.
        words: whether columns with a vocabulary give members of it.
        later: whether there is a column that Tidegate does not know.
    """

    def word(vocabulary: type[StrEnum]) -> Any:
        return Word(vocabulary) if words else sa.String(255)

    class Base(DeclarativeBase):
        pass

    class WorkflowRun(Base):
        __tablename__ = "workflow_runs"
        id: Mapped[str] = mapped_column(Id, primary_key=True, default=lambda: str(uuid.uuid4()))
        tenant_id: Mapped[str] = mapped_column(Id)
        app_id: Mapped[str] = mapped_column(Id)
        workflow_id: Mapped[str] = mapped_column(Id)
        type: Mapped[str] = mapped_column(sa.String(255))
        triggered_from: Mapped[str] = mapped_column(word(Source))
        version: Mapped[str] = mapped_column(sa.String(255))
        graph: Mapped[str | None] = mapped_column(sa.Text)
        inputs: Mapped[str | None] = mapped_column(sa.Text)
        status: Mapped[str] = mapped_column(word(RunStatus))
        outputs: Mapped[str | None] = mapped_column(sa.Text, default="{}")
        error: Mapped[str | None] = mapped_column(sa.Text)
        elapsed_time: Mapped[float] = mapped_column(sa.Float, default=0.0)
        total_tokens: Mapped[int] = mapped_column(sa.BigInteger, default=0)
        total_steps: Mapped[int] = mapped_column(sa.Integer, default=0)
        created_by_role: Mapped[str] = mapped_column(sa.String(255))
        created_by: Mapped[str] = mapped_column(Id)
        created_at: Mapped[datetime] = mapped_column(sa.DateTime)
        finished_at: Mapped[datetime | None] = mapped_column(sa.DateTime)
        exceptions_count: Mapped[int | None] = mapped_column(sa.Integer, default=0)

        @property
        def message(self) -> Any:
            """What a host's own class has, and no class of Tidegate's."""
            wanted = sa.select(Message).where(Message.app_id == self.app_id, Message.workflow_run_id == self.id)
            return host_database.db.session.scalar(wanted)

        @property
        def created_by_account(self) -> Any:
            """Who it was, asked of the session of the request."""
            return host_database.db.session.get(Account, self.created_by)

    class WorkflowNodeExecutionModel(Base):
        __tablename__ = "workflow_node_executions"
        id: Mapped[str] = mapped_column(Id, primary_key=True, default=lambda: str(uuid.uuid4()))
        tenant_id: Mapped[str] = mapped_column(Id)
        app_id: Mapped[str] = mapped_column(Id)
        workflow_id: Mapped[str] = mapped_column(Id)
        triggered_from: Mapped[str] = mapped_column(sa.String(255))
        workflow_run_id: Mapped[str | None] = mapped_column(Id)
        index: Mapped[int] = mapped_column(sa.Integer)
        predecessor_node_id: Mapped[str | None] = mapped_column(sa.String(255))
        node_execution_id: Mapped[str | None] = mapped_column(sa.String(255))
        node_id: Mapped[str] = mapped_column(sa.String(255))
        node_type: Mapped[str] = mapped_column(sa.String(255))
        title: Mapped[str] = mapped_column(sa.String(255))
        inputs: Mapped[str | None] = mapped_column(sa.Text)
        process_data: Mapped[str | None] = mapped_column(sa.Text)
        outputs: Mapped[str | None] = mapped_column(sa.Text)
        status: Mapped[str] = mapped_column(word(RunStatus))
        error: Mapped[str | None] = mapped_column(sa.Text)
        elapsed_time: Mapped[float] = mapped_column(sa.Float, default=0.0)
        execution_metadata: Mapped[str | None] = mapped_column(sa.Text)
        created_at: Mapped[datetime] = mapped_column(sa.DateTime)
        created_by_role: Mapped[str] = mapped_column(sa.String(255))
        created_by: Mapped[str] = mapped_column(Id)
        finished_at: Mapped[datetime | None] = mapped_column(sa.DateTime)
        if later:
            workspace_id: Mapped[str | None] = mapped_column(Id)
        offload_data: Mapped[list[Any]] = relationship(
            "WorkflowNodeExecutionOffload",
            primaryjoin="WorkflowNodeExecutionModel.id == foreign(WorkflowNodeExecutionOffload.node_execution_id)",
            lazy="raise",
            uselist=True,
        )

    class WorkflowNodeExecutionOffload(Base):
        __tablename__ = "workflow_node_execution_offload"
        id: Mapped[str] = mapped_column(Id, primary_key=True, default=lambda: str(uuid.uuid4()))
        created_at: Mapped[datetime] = mapped_column(sa.DateTime)
        tenant_id: Mapped[str] = mapped_column(Id)
        app_id: Mapped[str] = mapped_column(Id)
        node_execution_id: Mapped[str | None] = mapped_column(Id)
        type: Mapped[str] = mapped_column(sa.String(20))
        file_id: Mapped[str | None] = mapped_column(Id)

    class Account(Base):
        __tablename__ = "accounts"
        id: Mapped[str] = mapped_column(Id, primary_key=True)
        name: Mapped[str] = mapped_column(sa.String(255))

    class EndUser(Base):
        __tablename__ = "end_users"
        id: Mapped[str] = mapped_column(Id, primary_key=True)
        tenant_id: Mapped[str] = mapped_column(Id)
        name: Mapped[str] = mapped_column(sa.String(255))

    class Message(Base):
        __tablename__ = "messages"
        id: Mapped[str] = mapped_column(Id, primary_key=True)
        app_id: Mapped[str] = mapped_column(Id)
        workflow_run_id: Mapped[str | None] = mapped_column(Id)
        query: Mapped[str] = mapped_column(sa.Text)

    class WorkflowTriggerLog(Base):
        __tablename__ = "workflow_trigger_logs"
        id: Mapped[str] = mapped_column(Id, primary_key=True, default=lambda: str(uuid.uuid4()))
        tenant_id: Mapped[str] = mapped_column(Id)
        app_id: Mapped[str] = mapped_column(Id)
        workflow_run_id: Mapped[str | None] = mapped_column(Id)
        trigger_metadata: Mapped[str] = mapped_column(sa.Text)

    class WorkflowAppLog(Base):
        __tablename__ = "workflow_app_logs"
        id: Mapped[str] = mapped_column(Id, primary_key=True, default=lambda: str(uuid.uuid4()))
        tenant_id: Mapped[str] = mapped_column(Id)
        app_id: Mapped[str] = mapped_column(Id)
        workflow_id: Mapped[str] = mapped_column(Id)
        workflow_run_id: Mapped[str] = mapped_column(Id)
        created_from: Mapped[str] = mapped_column(sa.String(255))
        created_by_role: Mapped[str] = mapped_column(sa.String(255))
        created_by: Mapped[str] = mapped_column(Id)
        created_at: Mapped[datetime] = mapped_column(sa.DateTime)

        @property
        def workflow_run(self) -> Any:
            """The run, asked of a repository of its own."""
            from repositories.factory import DifyAPIRepositoryFactory

            maker = host_database.db.maker
            runs = DifyAPIRepositoryFactory.create_api_workflow_run_repository(maker)
            return runs.get_workflow_run_by_id_without_tenant(self.workflow_run_id)

        @property
        def created_by_account(self) -> Any:
            """Who it was, asked of the session of the request."""
            is_account = self.created_by_role == "account"
            return host_database.db.session.get(Account, self.created_by) if is_account else None

        @property
        def created_by_end_user(self) -> Any:
            """Who it was, if it was a visitor."""
            is_visitor = self.created_by_role == "end_user"
            return host_database.db.session.get(EndUser, self.created_by) if is_visitor else None

    made = (
        Base, WorkflowRun, WorkflowNodeExecutionModel, WorkflowNodeExecutionOffload, Account, Message, WorkflowAppLog,
        WorkflowTriggerLog, EndUser,
    )  # fmt: skip
    for cls in made:
        cls.__module__, cls.__qualname__ = module, cls.__name__
    return {cls.__name__: cls for cls in made}
