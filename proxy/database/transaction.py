"""A transaction's id, its position and its database's history, in one statement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import Numeric, String, cast, extract, func, select

from tidegate.cache.root_recovery import Transaction
from tidegate.position import NOWHERE, History
from tidegate.proxy.database.history_record import NAME, here_of
from tidegate.proxy.database.placement import execute_own
from tidegate.proxy.database.schema import PLACED_STATE

if TYPE_CHECKING:
    from sqlalchemy import Connection


_TRANSACTION: Final = select(
    cast(func.pg_current_xact_id(), String),
    cast(func.pg_current_wal_insert_lsn(), String),
    func.pg_walfile_name(func.pg_current_wal_insert_lsn(), type_=String),
    cast(cast(extract("epoch", func.pg_postmaster_start_time()), Numeric), String),
    select(PLACED_STATE.c.value).where(PLACED_STATE.c.name == NAME).scalar_subquery(),
)
# The transaction's id; its position, as LSN and log file; and the record of the history.


def transaction_id(connection: Connection) -> Transaction:
    """Return the transaction's id and the position of now, in one statement; without a log, "" and ``NOWHERE``."""
    if connection.dialect.name != "postgresql":
        return Transaction("", NOWHERE, History())
    xid, *place = execute_own(connection, _TRANSACTION).one()
    here = here_of(place)
    return Transaction(xid, here.position, here.history)
