"""The record of a database's history: what it is bound to, how a server is asked for it, and how it is written.

It is a row of ``tidegate_state``, bound to the life of the server: its timeline, when it was started, and since when it
counts statistics. A promotion begins a new timeline. Data can go back, to a backup or to a snapshot of the volume, only
while the server is stopped; and once it runs again, its log may soon be as long as before. A server that gets over a
crash by itself keeps its start time, and may have lost commits; but its statistics begin anew.

All this runs on a driver's connection, since a connection is asked as it opens. What it asks is for nobody to commit or
roll back but its caller, except where it says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tidegate.position import History, HistoryRecord, Position
from tidegate.proxy.database.placement import find_schema, state_table
from tidegate.proxy.database.schema import DATABASE, ddl
from tidegate.routing.replicas.probe_sql import row_or

if TYPE_CHECKING:
    from sqlalchemy import Dialect

NAME: Final = "history"
"""The name of the row: ordinal, token, what they are bound to, and the id of the database."""
_STARTED: Final = "extract(epoch FROM pg_postmaster_start_time())::numeric::text"
_RECORD: Final = "(SELECT value FROM {state} WHERE name = 'history')"
_DATABASE: Final = "(SELECT value FROM {state} WHERE name = 'database')"
BOUND_TO: Final = (
    "(SELECT system_identifier FROM pg_control_system())::text || ' '"
    " || (SELECT oid FROM pg_database WHERE datname = current_database())::text"
)
"""What a database has and none of its copies: the server's system identifier with the database's oid there."""
# A crash ends all connections, and each one is asked when it opens. So the statements of commits need not ask this.
_COUNTS_SINCE: Final = "coalesce(extract(epoch FROM pg_stat_get_bgwriter_stat_reset_time())::numeric::text, '-')"
PLACE: Final = f"pg_current_wal_insert_lsn()::text, pg_walfile_name(pg_current_wal_insert_lsn()), {_STARTED}"
"""The columns that tell where a primary's log is, and of which life it is."""
HERE: Final = f"{PLACE}, {_RECORD}"
"""The columns that tell where a primary's log is and which history it has, with a place for the table of named facts.
"""
_ASK: Final = (
    "SELECT pg_is_in_recovery(), CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn()::text END,"
    " CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_insert_lsn()) END,"
    f" {_STARTED}, {_RECORD}, {_DATABASE}, {BOUND_TO}, {_COUNTS_SINCE}"
)
_BARE: Final = _ASK.replace(_RECORD, "NULL").replace(_DATABASE, "NULL")
_REPLACE: Final = "UPDATE {state} SET value = %s WHERE name = 'history' AND value = %s"
_INSERT: Final = "INSERT INTO {state} (name, value) VALUES (%s, %s) ON CONFLICT (name) DO NOTHING"


class Life(NamedTuple):
    """One run of a server as a primary: the timeline that it writes, and when it was started."""

    timeline: int
    started: str


class Asked(NamedTuple):
    """What a server has answered to :func:`ask`."""

    standby: bool
    lsn: str
    file: str
    started: str
    record: str | None
    database: str | None
    bound_to: str
    counts_since: str

    @property
    def here(self) -> Here:
        """Return where it is; its record counts only if it has not got over a crash since."""
        found, record = here_of(self[1:5]), HistoryRecord.of_text(self.record)
        return found if record and record.counts_since == self.counts_since else found._replace(history=None)


class Here(NamedTuple):
    """Where a primary's log was, and which history it had; None: its record is none, or of another life.

    *database* is the id of the database by that record.
    """

    position: Position
    history: History | None
    life: Life
    database: str = ""


def here_of(row: Any) -> Here:
    """Return what a row of the columns :data:`HERE` says."""
    lsn, file, started, text = row
    position, record = Position.parse(lsn, file), HistoryRecord.of_text(text)
    life = Life(position.timeline, started)
    if record is None or (record.timeline, record.started) != life:
        return Here(position, None, life)
    return Here(position, record.history, life, record.database)


def ask(raw: Any, dialect: Dialect) -> Asked:
    """Ask the server of a driver's connection, on which nothing is under way, where it is and what it has recorded."""
    _schema(raw, dialect)
    return Asked(*row_or(raw, _ASK.format(state=state_table(dialect)), _BARE))


def write_record(raw: Any, dialect: Dialect, instead_of: str | None, text: str) -> str | None:
    """Write a record instead of another one, commit, and return the one that is there: another gate may be faster."""
    state = state_table(dialect)
    if instead_of is None:
        _run(raw, _INSERT.format(state=state), (NAME, text))
    else:
        _run(raw, _REPLACE.format(state=state), (text, instead_of))
    raw.commit()
    ((written,),) = _run(raw, f"SELECT {_RECORD}".format(state=state))
    return None if written is None else str(written)


def restore_tables(raw: Any, dialect: Dialect, database: str | None) -> None:
    """Make the tables again that commits ask, and commit.

    Args:
        raw: the connection.
        dialect: of its engine.
        database: what names this database, as it stood there before; None: it may be another one by now.
    """
    for statement in ddl(schema=_schema(raw, dialect)):
        _run(raw, statement)
    if database is not None:
        _run(raw, _INSERT.format(state=state_table(dialect)), (DATABASE, database))
    raw.commit()


def _schema(raw: Any, dialect: Dialect) -> str | None:
    return find_schema(dialect, lambda sql, given: _run(raw, sql, given))


def _run(raw: Any, sql: str, given: Any = None) -> list[Any]:
    cursor = raw.cursor()
    try:
        if given is None:
            cursor.execute(sql)
        else:
            cursor.execute(sql, given)
        return list(cursor.fetchall()) if cursor.description else []
    finally:
        cursor.close()
