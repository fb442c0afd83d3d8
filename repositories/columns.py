"""Column types of the tables, and what differs in them between PostgreSQL and SQLite.

A repository that uses these need not ask for the dialect's name. Two modules do ask for it: ``indexes``, for CREATE
INDEX CONCURRENTLY, and ``workflow_execution_repository``, for INSERT ... ON CONFLICT.

================  =====================================  =============================================
what              PostgreSQL                             SQLite
================  =====================================  =============================================
ids               ``uuid``; text that is none: DataError  ``CHAR(36)``; text that is none finds nothing
row locks         ``FOR UPDATE``                         none: one writer at a time, from its first write
day in a zone     ``AT TIME ZONE``                       a function registered on the connection
names of zones    in any case                            as they are written
================  =====================================  =============================================
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from sqlalchemy import CHAR, ColumnElement, DateTime, Dialect, String, Text, func
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeDecorator, TypeEngine

if TYPE_CHECKING:
    from enum import StrEnum

    from sqlalchemy.exc import DataError
    from sqlalchemy.orm import InstrumentedAttribute, Session

_LOCAL_DATE = "tidegate_local_date"


class StringUUID(TypeDecorator[str]):
    """Store an id: ``uuid`` in PostgreSQL, 36 characters elsewhere, ``str`` in Python.

    Every spelling that PostgreSQL reads (upper case, no hyphens, braces) finds the same row in SQLite too.
    """

    impl = CHAR
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Use the native type where there is one."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.UUID(as_uuid=False))
        return dialect.type_descriptor(CHAR(36))

    def process_bind_param(self, value: str | uuid.UUID | None, dialect: Dialect) -> str | None:
        """Send the canonical spelling. Text that is no UUID is sent as it is, and the database may refuse it."""
        if value is None or (dialect.name == "postgresql" and isinstance(value, str)):
            return value
        try:
            return str(uuid.UUID(str(value)))
        except ValueError:
            return str(value)


class UTCDateTime(TypeDecorator[datetime]):
    """Store a timestamp without time zone that means UTC. Aware values are converted, naive ones are taken as UTC."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  # given
        """Convert in Python, so that the session's time zone does not matter."""
        if value is not None and not isinstance(value, datetime):
            raise TypeError(f"expected a datetime, aware or naive UTC, not {value!r}")
        return naive_utc(value)


class EnumText(TypeDecorator["StrEnum"]):
    """Store text that comes back as a member of *enum_class*.

    Args:
        enum_class: the enum of the column.
        length: how many characters the column holds.
    """

    impl = String
    cache_ok = True

    def __init__(self, enum_class: type[StrEnum], length: int = 20) -> None:
        self.enum_class = enum_class
        super().__init__(length)

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002  # given
        """Return the value of a member. A value that could not be read back raises ``ValueError``."""
        return None if value is None else self.enum_class(value).value

    def process_result_value(self, value: str | None, dialect: Dialect) -> StrEnum | None:  # noqa: ARG002  # given
        """Return the member of a value."""
        return None if value is None else self.enum_class(value)


class LongText(TypeDecorator[str]):
    """Store JSON and other text of any size."""

    impl = Text
    cache_ok = True


def naive_utc(value: datetime | None) -> datetime | None:
    """Return *value* as the columns hold it: UTC without a time zone. Naive values are taken as UTC."""
    if value is None or value.tzinfo is None:
        return value
    return value.astimezone(UTC).replace(tzinfo=None)


def naive_utc_now() -> datetime:
    """Return the present time, as the columns hold it."""
    return datetime.now(UTC).replace(tzinfo=None)


def local_date(
    session: Session, column: ColumnElement[datetime] | InstrumentedAttribute[datetime], timezone: str
) -> ColumnElement[str]:
    """Return an expression for the day of *column* in *timezone*, as text in the form YYYY-MM-DD.

    Raises:
        ValueError: *timezone* is no name that the database knows. PostgreSQL says so only when the statement runs: see
            :func:`is_unknown_timezone`.
    """
    if not isinstance(timezone, str) or not timezone or "\0" in timezone:
        raise unknown_timezone(timezone)
    if session.get_bind().dialect.name == "postgresql":
        local = func.timezone(timezone, func.timezone("UTC", column))
        return func.to_char(local, "YYYY-MM-DD", type_=String)
    zone = _zone(timezone)

    def as_local_date(text: str) -> str:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).astimezone(zone).date().isoformat()

    name = f"{_LOCAL_DATE}_{timezone.replace('/', '_').replace('+', 'p').replace('-', 'm').lower()}"
    raw: Any = session.connection().connection.driver_connection
    raw.create_function(name, 1, as_local_date, deterministic=True)
    return getattr(func, name)(column, type_=String)  # type: ignore[no-any-return]  # func is untyped by nature


def _zone(timezone: str) -> ZoneInfo:
    try:
        return ZoneInfo(timezone)
    except (KeyError, ValueError, OSError) as error:
        raise unknown_timezone(timezone) from error


def unknown_timezone(timezone: object) -> ValueError:
    """Return the error for a time zone that does not exist."""
    return ValueError(f"unknown timezone {timezone!r}: expected a name like 'UTC' or 'Asia/Shanghai'")


def is_unknown_timezone(error: DataError) -> bool:
    """Tell whether PostgreSQL refused a statement for the time zone in it (SQLSTATE 22023)."""
    return getattr(error.orig, "sqlstate", None) == "22023" or getattr(error.orig, "pgcode", None) == "22023"
