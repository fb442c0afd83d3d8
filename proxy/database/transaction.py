"""A transaction's id and position, in one statement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import String, cast, func, select

from tidegate.position import NOWHERE, Position

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection


TRANSACTION: Final = (
    cast(func.pg_current_xact_id(), String),
    func.pg_walfile_name(func.pg_current_wal_insert_lsn(), type_=String),
    cast(func.pg_current_wal_insert_lsn(), String),
)
"""The columns that give the transaction's id, and its position as log file and LSN."""


def transaction_of(row: Sequence[Any]) -> tuple[str, Position]:
    """Return the id and the position in a row of :data:`TRANSACTION`."""
    return row[0], Position.parse(row[2], row[1])


def transaction_id(connection: Connection) -> tuple[str, Position]:
    """Return the transaction's id and the position of now, in one statement; ("", NOWHERE) without a log."""
    if connection.dialect.name != "postgresql":
        return "", NOWHERE
    return transaction_of(connection.execute(select(*TRANSACTION)).one())
