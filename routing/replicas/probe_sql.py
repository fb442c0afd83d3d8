"""What a node is asked: one cheap statement for its monitor, and a shorter one for a connection nobody vouches for.

No single function gives the timeline of a standby. There are three: what it receives (only members of ``pg_monitor``
see it), where its last restart point lies, and where its recovery would have to end. None is higher than the timeline
that it will replay, so the highest counts. A timeline that is told too low costs offload, never freshness.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from tidegate.position import HistoryRecord, Position
from tidegate.routing.replicas.failures import sqlstate
from tidegate.routing.replicas.topology import ServerId, View

if TYPE_CHECKING:
    from collections.abc import Iterator

_STANDBY_TIMELINE: Final = (
    "GREATEST((SELECT timeline_id FROM pg_control_checkpoint()),"
    " (SELECT min_recovery_end_timeline FROM pg_control_recovery()),"
    " (SELECT max(received_tli) FROM pg_stat_wal_receiver))"
)
_SERVER: Final = (
    "(SELECT system_identifier FROM pg_control_system())::text,"
    " extract(epoch FROM pg_postmaster_start_time())::numeric::text"
)
_LSN: Final = "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END"
_TIMELINE: Final = (
    f"CASE WHEN pg_is_in_recovery() THEN lpad(to_hex({_STANDBY_TIMELINE}), 8, '0')"
    " ELSE substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END"
)
# True from when a pause is requested. Its state would say more, and only PostgreSQL 14 and later tell that.
_PAUSED: Final = "CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END"

_RECORD: Final = "(SELECT value FROM {state} WHERE name = 'history')"
_NO_TABLE: Final = ("42P01", "3F000", "42501")
"""SQLSTATEs: there is no such table, or no such schema, or this user may not read it."""

VIEW: Final = f"SELECT {_SERVER}, pg_is_in_recovery(), ({_LSN})::text, {_TIMELINE}, {_PAUSED}, {_RECORD}"
REPLAYED: Final = (
    f"SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()::text, current_setting('transaction_isolation'), {_RECORD}"
)


def view_of(row: Any, asked_s: float) -> View:
    """Return the view that an answer to ``VIEW`` gives; *asked_s* is when it was asked, monotonic, in seconds."""
    system, started, standby, lsn, timeline, paused, record = row
    position = Position.parse(lsn or "0/0", timeline)
    server = ServerId(system, started)
    return View(asked_s, server, bool(standby), position, bool(paused), HistoryRecord.of_text(record))


def in_transaction(raw: Any) -> bool:
    """Tell whether a transaction is open on a DBAPI connection."""
    return bool(raw.info.transaction_status)  # 0 is idle, for both drivers


def one_row(raw: Any, sql: str, state: str) -> Any:
    """Return the row of ``VIEW`` or ``REPLAYED`` on a DBAPI connection, as :func:`row_of` does.

    Args:
        raw: the connection.
        sql: the statement.
        state: the name of the table of named facts. Where it is missing, no history is shown: nobody has made it yet,
            or a standby has not replayed that.
    """
    return row_or(raw, sql.format(state=state), sql.replace(_RECORD, "NULL"))


def row_or(raw: Any, sql: str, otherwise: str) -> Any:
    """Return the row of *sql*, or that of *otherwise* where a table is missing or may not be read."""
    began_before = in_transaction(raw)
    if began_before:  # an error must not end the program's transaction
        _run(raw, "SAVEPOINT tidegate_row")
    try:
        return row_of(raw, sql)
    except Exception as error:
        if sqlstate(error) not in _NO_TABLE:
            raise
    if began_before:
        _run(raw, "ROLLBACK TO SAVEPOINT tidegate_row")
    return row_of(raw, otherwise)


def _run(raw: Any, sql: str) -> None:
    cursor = raw.cursor()
    try:
        cursor.execute(sql)
    finally:
        cursor.close()


def row_of(raw: Any, sql: str) -> Any:
    """Return the row of *sql* on a DBAPI connection. No transaction stays open on it that was not open before."""
    with ended_here(raw):
        cursor = raw.cursor()
        try:
            cursor.execute(sql)
            return cursor.fetchone()
        finally:
            cursor.close()


@contextmanager
def ended_here(raw: Any) -> Iterator[bool]:
    """End by a rollback the transaction that begins meanwhile on a DBAPI connection.

    A transaction that is open already is a listener's of the program: to end it would undo what it has set.

    Yields:
        Whether none was open.
    """
    began_here = not in_transaction(raw)
    try:
        yield began_here
    except BaseException:
        if began_here:
            with suppress(Exception):  # the error that came first says more
                raw.rollback()
        raise
    if began_here:
        raw.rollback()
