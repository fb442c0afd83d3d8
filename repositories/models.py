"""The tables, column for column as Dify 1.12 makes them: no foreign keys, ids as ``uuid``, naive UTC timestamps.

The indexes here are those that Dify makes. Tidegate's own are in ``indexes.py``; ``tidegate init`` creates them.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import BigInteger, Index, PrimaryKeyConstraint, String, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from tidegate.repositories.columns import EnumText, LongText, StringUUID, UTCDateTime, naive_utc_now
from tidegate.repositories.enums import (
    ExecutionOffLoadType,
    PauseReasonType,
    WorkflowTriggerStatus,
)
from tidegate.repositories.payloads import NodePayloads, RunPayloads


class Base(DeclarativeBase):
    """The root of the models. A datetime is naive UTC, an id is text."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: UTCDateTime(), str: String(255)}


def new_id() -> str:
    """Return a new random id in canonical form."""
    return str(uuid.uuid4())


def _id() -> Mapped[str]:
    return mapped_column(StringUUID, default=new_id)


def _uuid() -> Mapped[str]:
    return mapped_column(StringUUID)


def _created_at() -> Mapped[datetime]:
    return mapped_column(default=naive_utc_now, server_default=text("CURRENT_TIMESTAMP"))


class WorkflowRun(RunPayloads, Base):
    """One run of a workflow. ``status`` and ``triggered_from`` are plain strings, ``error`` is text or None."""

    __tablename__ = "workflow_runs"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="workflow_run_pkey"),
        Index("workflow_run_triggerd_from_idx", "tenant_id", "app_id", "triggered_from"),
        Index("workflow_run_created_at_id_idx", "created_at", "id"),
    )

    id: Mapped[str] = _id()
    tenant_id: Mapped[str] = _uuid()
    app_id: Mapped[str] = _uuid()
    workflow_id: Mapped[str] = _uuid()
    type: Mapped[str]
    triggered_from: Mapped[str]
    version: Mapped[str]
    graph: Mapped[str | None] = mapped_column(LongText)
    inputs: Mapped[str | None] = mapped_column(LongText)
    status: Mapped[str]
    outputs: Mapped[str | None] = mapped_column(LongText, default="{}")
    error: Mapped[str | None] = mapped_column(LongText)
    elapsed_time: Mapped[float] = mapped_column(default=0, server_default=text("0"))
    total_tokens: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    total_steps: Mapped[int | None] = mapped_column(default=0, server_default=text("0"))
    created_by_role: Mapped[str]
    created_by: Mapped[str] = _uuid()
    created_at: Mapped[datetime] = _created_at()
    finished_at: Mapped[datetime | None]
    exceptions_count: Mapped[int | None] = mapped_column(default=0, server_default=text("0"))

    pause: Mapped[WorkflowPause | None] = relationship(
        primaryjoin="WorkflowRun.id == foreign(WorkflowPause.workflow_run_id)",
        uselist=False,
        viewonly=True,
        lazy="raise",
    )


class WorkflowNodeExecutionModel(NodePayloads, Base):
    """One execution of one node. ``status`` is a plain string; ``offload_data`` must be loaded explicitly."""

    __tablename__ = "workflow_node_executions"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="workflow_node_execution_pkey"),
        Index("workflow_node_execution_workflow_run_id_idx", "workflow_run_id"),
        Index(
            "workflow_node_execution_node_run_idx", "tenant_id", "app_id", "workflow_id", "triggered_from", "node_id"
        ),
        Index(
            "workflow_node_execution_id_idx",
            *("tenant_id", "app_id", "workflow_id", "triggered_from", "node_execution_id"),
        ),
        Index("workflow_node_executions_tenant_id_idx", "tenant_id", "workflow_id", "node_id", text("created_at DESC")),
    )

    id: Mapped[str] = _id()
    tenant_id: Mapped[str] = _uuid()
    app_id: Mapped[str] = _uuid()
    workflow_id: Mapped[str] = _uuid()
    triggered_from: Mapped[str]
    workflow_run_id: Mapped[str | None] = mapped_column(StringUUID)
    index: Mapped[int]
    predecessor_node_id: Mapped[str | None]
    node_execution_id: Mapped[str | None]
    node_id: Mapped[str]
    node_type: Mapped[str]
    title: Mapped[str]
    inputs: Mapped[str | None] = mapped_column(LongText)
    process_data: Mapped[str | None] = mapped_column(LongText)
    outputs: Mapped[str | None] = mapped_column(LongText)
    status: Mapped[str]
    error: Mapped[str | None] = mapped_column(LongText)
    elapsed_time: Mapped[float] = mapped_column(default=0, server_default=text("0"))
    execution_metadata: Mapped[str | None] = mapped_column(LongText)
    created_at: Mapped[datetime] = _created_at()
    created_by_role: Mapped[str]
    created_by: Mapped[str] = _uuid()
    finished_at: Mapped[datetime | None]

    offload_data: Mapped[list[WorkflowNodeExecutionOffload]] = relationship(
        primaryjoin="WorkflowNodeExecutionModel.id == foreign(WorkflowNodeExecutionOffload.node_execution_id)",
        uselist=True,
        viewonly=True,
        lazy="raise",
    )


class WorkflowNodeExecutionOffload(Base):
    """Where a value of a node execution lies that was too large for its row."""

    __tablename__ = "workflow_node_execution_offload"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="workflow_node_execution_offload_pkey"),
        UniqueConstraint("node_execution_id", "type", name="workflow_node_execution_offload_node_execution_id_key"),
    )

    id: Mapped[str] = _id()
    created_at: Mapped[datetime] = _created_at()
    tenant_id: Mapped[str] = _uuid()
    app_id: Mapped[str] = _uuid()
    node_execution_id: Mapped[str | None] = mapped_column(StringUUID)
    type_: Mapped[ExecutionOffLoadType] = mapped_column("type", EnumText(ExecutionOffLoadType))
    file_id: Mapped[str] = _uuid()


class WorkflowPause(Base):
    """The pause of a run, and where its state lies.

    A run has at most one; after the run went on, it stays, with ``resumed_at``.
    """

    __tablename__ = "workflow_pauses"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="workflow_pauses_pkey"),
        UniqueConstraint("workflow_run_id", name="workflow_pauses_workflow_run_id_key"),
    )

    id: Mapped[str] = _id()
    workflow_id: Mapped[str] = _uuid()
    workflow_run_id: Mapped[str] = _uuid()
    resumed_at: Mapped[datetime | None]
    state_object_key: Mapped[str]
    created_at: Mapped[datetime] = _created_at()
    updated_at: Mapped[datetime] = mapped_column(
        default=naive_utc_now, onupdate=naive_utc_now, server_default=text("CURRENT_TIMESTAMP")
    )


class WorkflowPauseReason(Base):
    """Why a run waits. ``form_id`` and ``node_id``, or ``message``, are empty if they do not apply."""

    __tablename__ = "workflow_pause_reasons"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="workflow_pause_reasons_pkey"),
        Index("workflow_pause_reasons_pause_id_idx", "pause_id"),
    )

    id: Mapped[str] = _id()
    pause_id: Mapped[str] = _uuid()
    type_: Mapped[PauseReasonType] = mapped_column(EnumText(PauseReasonType))
    form_id: Mapped[str] = mapped_column(String(36), default="")
    node_id: Mapped[str] = mapped_column(default="")
    message: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime] = _created_at()
    updated_at: Mapped[datetime] = mapped_column(
        default=naive_utc_now, onupdate=naive_utc_now, server_default=text("CURRENT_TIMESTAMP")
    )


class WorkflowAppLog(Base):
    """One line of an app's log, which points at its run."""

    __tablename__ = "workflow_app_logs"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="workflow_app_log_pkey"),
        Index("workflow_app_log_app_idx", "tenant_id", "app_id"),
        Index("workflow_app_log_workflow_run_id_idx", "workflow_run_id"),
    )

    id: Mapped[str] = _id()
    tenant_id: Mapped[str] = _uuid()
    app_id: Mapped[str] = _uuid()
    workflow_id: Mapped[str] = _uuid()
    workflow_run_id: Mapped[str] = _uuid()
    created_from: Mapped[str]
    created_by_role: Mapped[str]
    created_by: Mapped[str] = _uuid()
    created_at: Mapped[datetime] = _created_at()


class WorkflowArchiveLog(Base):
    """What remains of a run (and of its app log, if it had one) after its rows have been archived."""

    __tablename__ = "workflow_archive_logs"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="workflow_archive_log_pkey"),
        Index("workflow_archive_log_app_idx", "tenant_id", "app_id"),
        Index("workflow_archive_log_run_created_at_idx", "run_created_at"),
        Index("workflow_archive_log_workflow_run_id_idx", "workflow_run_id"),
    )

    id: Mapped[str] = _id()
    tenant_id: Mapped[str] = _uuid()
    app_id: Mapped[str] = _uuid()
    workflow_id: Mapped[str] = _uuid()
    workflow_run_id: Mapped[str] = _uuid()
    created_by_role: Mapped[str]
    created_by: Mapped[str] = _uuid()
    log_id: Mapped[str | None] = mapped_column(StringUUID)
    log_created_at: Mapped[datetime | None]
    log_created_from: Mapped[str | None]
    run_version: Mapped[str]
    run_status: Mapped[str]
    run_triggered_from: Mapped[str]
    run_error: Mapped[str | None] = mapped_column(LongText)
    run_elapsed_time: Mapped[float] = mapped_column(default=0, server_default=text("0"))
    run_total_tokens: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    run_total_steps: Mapped[int | None] = mapped_column(default=0, server_default=text("0"))
    run_created_at: Mapped[datetime]
    run_finished_at: Mapped[datetime | None]
    run_exceptions_count: Mapped[int | None] = mapped_column(default=0, server_default=text("0"))
    trigger_metadata: Mapped[str | None] = mapped_column(LongText)
    archived_at: Mapped[datetime] = mapped_column(default=naive_utc_now, server_default=text("CURRENT_TIMESTAMP"))


class WorkflowTriggerLog(Base):
    """One firing of a trigger. ``workflow_run_id`` is set as soon as a run came of it."""

    __tablename__ = "workflow_trigger_logs"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="workflow_trigger_log_pkey"),
        Index("workflow_trigger_log_tenant_app_idx", "tenant_id", "app_id"),
        Index("workflow_trigger_log_status_idx", "status"),
        Index("workflow_trigger_log_created_at_idx", "created_at"),
        Index("workflow_trigger_log_workflow_run_idx", "workflow_run_id"),
        Index("workflow_trigger_log_workflow_id_idx", "workflow_id"),
    )

    id: Mapped[str] = _id()
    tenant_id: Mapped[str] = _uuid()
    app_id: Mapped[str] = _uuid()
    workflow_id: Mapped[str] = _uuid()
    workflow_run_id: Mapped[str | None] = mapped_column(StringUUID)
    root_node_id: Mapped[str | None]
    trigger_metadata: Mapped[str] = mapped_column(LongText)
    trigger_type: Mapped[str]
    trigger_data: Mapped[str] = mapped_column(LongText)
    inputs: Mapped[str] = mapped_column(LongText)
    outputs: Mapped[str | None] = mapped_column(LongText)
    status: Mapped[WorkflowTriggerStatus] = mapped_column(EnumText(WorkflowTriggerStatus, 50))
    error: Mapped[str | None] = mapped_column(LongText)
    queue_name: Mapped[str] = mapped_column(String(100))
    celery_task_id: Mapped[str | None]
    retry_count: Mapped[int] = mapped_column(default=0)
    elapsed_time: Mapped[float | None]
    total_tokens: Mapped[int | None]
    created_at: Mapped[datetime] = _created_at()
    created_by_role: Mapped[str]
    created_by: Mapped[str]
    triggered_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
