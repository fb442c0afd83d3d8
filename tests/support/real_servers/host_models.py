"""A host's own models of the table of runs, in the forms that hosts have them. Nothing of Tidegate is in here."""

from __future__ import annotations

import uuid
from datetime import datetime  # noqa: TC003  # SQLAlchemy reads the annotations
from enum import StrEnum
from typing import Any, Final, TypeAlias

from sqlalchemy import CHAR, BigInteger, DateTime, Dialect, Float, Integer, String, Text, func, text
from sqlalchemy.dialects.postgresql import UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine


class HostUUID(TypeDecorator[str]):
    """An id that is text in Python, and goes through ``uuid.UUID`` on its way from PostgreSQL."""

    impl = CHAR
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(UUID() if dialect.name == "postgresql" else CHAR(36))

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002  # given
        return None if value is None else str(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002  # given
        return None if value is None else str(value)


class Strict(TypeDecorator[StrEnum]):
    """Text that is a member of an enumeration, and refuses any other, on the way in and on the way out."""

    impl = String
    cache_ok = True

    def __init__(self, members: type[StrEnum]) -> None:
        self.members = members
        super().__init__(255)

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002  # given
        return None if value is None else self.members(value).value

    def process_result_value(self, value: Any, dialect: Dialect) -> StrEnum | None:  # noqa: ARG002  # given
        return None if value is None else self.members(value)


class HostSource(StrEnum):
    """The sources that the host knows: not all that Tidegate knows."""

    DEBUGGING = "debugging"
    APP_RUN = "app-run"
    WEBHOOK = "webhook"


class HostStatus(StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"


class HostRole(StrEnum):
    ACCOUNT = "account"


class RunColumns:
    """The columns that have the same types in all releases."""

    id: Mapped[str] = mapped_column(HostUUID, primary_key=True, default=lambda: str(uuid.uuid4()))
    tenant_id: Mapped[str] = mapped_column(HostUUID)
    app_id: Mapped[str] = mapped_column(HostUUID)
    workflow_id: Mapped[str] = mapped_column(HostUUID)
    type: Mapped[str] = mapped_column(String(255))
    version: Mapped[str] = mapped_column(String(255))
    graph: Mapped[str | None] = mapped_column(Text)
    inputs: Mapped[str | None] = mapped_column(Text)
    outputs: Mapped[str | None] = mapped_column(Text, default="{}")
    error: Mapped[str | None] = mapped_column(Text)
    elapsed_time: Mapped[float] = mapped_column(Float, server_default=text("0"))
    total_tokens: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    total_steps: Mapped[int | None] = mapped_column(Integer, server_default=text("0"))
    created_by: Mapped[str] = mapped_column(HostUUID)
    created_at: Mapped[datetime] = mapped_column(DateTime, server_default=func.current_timestamp())
    finished_at: Mapped[datetime | None] = mapped_column(DateTime)
    exceptions_count: Mapped[int | None] = mapped_column(Integer, server_default=text("0"))


class PlainBase(DeclarativeBase):
    """The root of one host's models."""


class PlainRun(RunColumns, PlainBase):
    """All text is plain text."""

    __tablename__ = "workflow_runs"

    triggered_from: Mapped[str] = mapped_column(String(255))
    status: Mapped[str] = mapped_column(String(255))
    created_by_role: Mapped[str] = mapped_column(String(255))


class StrictColumns(RunColumns):
    """The columns, where some are members of enumerations."""

    triggered_from: Mapped[HostSource] = mapped_column(Strict(HostSource))
    status: Mapped[HostStatus] = mapped_column(Strict(HostStatus))
    created_by_role: Mapped[HostRole] = mapped_column(Strict(HostRole))


class StrictBase(DeclarativeBase):
    """The root of a host's models that give members of enumerations."""


class StrictRun(StrictColumns, StrictBase):
    """Some columns are members of enumerations."""

    __tablename__ = "workflow_runs"


class LaterBase(DeclarativeBase):
    """The root of a later release's models."""


class LaterRun(StrictColumns, LaterBase):
    """With a column that Tidegate does not know, and one more that the host itself leaves to be loaded later."""

    __tablename__ = "workflow_runs"

    note: Mapped[str | None] = mapped_column(String(40))
    draft: Mapped[str | None] = mapped_column(String(40), deferred=True)


class DataclassBase(MappedAsDataclass, DeclarativeBase):
    """The root of a host's models that are dataclasses."""


class DataclassRun(DataclassBase):
    """A dataclass, so without a hash, and with defaults where a row has NULL."""

    __tablename__ = "workflow_runs"

    id: Mapped[str] = mapped_column(HostUUID, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(HostUUID)
    app_id: Mapped[str] = mapped_column(HostUUID)
    workflow_id: Mapped[str] = mapped_column(HostUUID)
    type: Mapped[str] = mapped_column(String(255))
    triggered_from: Mapped[str] = mapped_column(String(255))
    version: Mapped[str] = mapped_column(String(255))
    status: Mapped[str] = mapped_column(String(255))
    created_by_role: Mapped[str] = mapped_column(String(255))
    created_by: Mapped[str] = mapped_column(HostUUID)
    graph: Mapped[str | None] = mapped_column(Text, default="a default")
    inputs: Mapped[str | None] = mapped_column(Text, default=None)
    outputs: Mapped[str | None] = mapped_column(Text, default="{}")
    error: Mapped[str | None] = mapped_column(Text, default=None)
    elapsed_time: Mapped[float] = mapped_column(Float, default=0.0)
    total_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    total_steps: Mapped[int | None] = mapped_column(Integer, default=0)
    created_at: Mapped[datetime] = mapped_column(DateTime, server_default=func.current_timestamp(), init=False)
    finished_at: Mapped[datetime | None] = mapped_column(DateTime, default=None)
    exceptions_count: Mapped[int | None] = mapped_column(Integer, default=0)


HostRun: TypeAlias = PlainRun | StrictRun | LaterRun | DataclassRun
HOST_MODELS: Final[tuple[type[HostRun], ...]] = (PlainRun, StrictRun, LaterRun, DataclassRun)
LATER_COLUMNS: Final = ("note", "draft")
"""Columns of the table that a later release of the host adds."""
