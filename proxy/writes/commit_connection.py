"""The connection that commits, in the form that the commit protocol uses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.rows import tuple_row
from sqlalchemy import delete, select
from sqlalchemy.exc import DBAPIError

from tidegate.cache.root_recovery import Transaction
from tidegate.error_text import first_line
from tidegate.errors import StaleShardMap
from tidegate.position import NOWHERE, History, Position
from tidegate.proxy.database.deadlines import check_deadline
from tidegate.proxy.database.driver_errors import driver_connection
from tidegate.proxy.database.history_record import HERE, PLACE, here_of
from tidegate.proxy.database.note_functions import (
    TAKE,
    UNDEFINED_FUNCTION,
    WATCHED,
    qualified,
    without_functions,
)
from tidegate.proxy.database.ownership import check_ownership, not_held
from tidegate.proxy.database.ownership_functions import NOT_OWNED
from tidegate.proxy.database.placement import execute_own, schema_of, state_table
from tidegate.proxy.database.schema import OUTBOX
from tidegate.proxy.database.transaction import transaction_id
from tidegate.proxy.tracking.notes import Note
from tidegate.routing.replicas.failures import sqlstate
from tidegate.routing.replicas.probe_sql import ended_here, in_transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Connection, Executable, PoolProxiedConnection

    from tidegate.proxy.database.history_record import Here
    from tidegate.routing.sharding.shard_map import Ownership

_HERE: Final = f"SELECT {HERE}"
_TAKE: Final = f"SELECT pg_current_xact_id_if_assigned()::text, {PLACE}, record, taken, held FROM {{take}}(%s)"  # noqa: S608  # a name of our own, quoted
_TAKE_NOTHING: Final = f"SELECT pg_current_xact_id_if_assigned()::text, {PLACE}, NULL, NULL, NULL"
"""Where our functions are gone our tables may be too: then no history is known, and nothing is stored."""
_COMMIT: Final = b"COMMIT; SELECT pg_current_wal_insert_lsn()::text"
"""One message, so one server answers it. No connection outlives a life of its server, and no standby has a transaction
that has written: timeline and history are those that came with the notes. To ask for these too would take as long as
the COMMIT."""
_MARK: Final = f"SELECT set_config('{WATCHED}', 'on', false)"
_OURS: Final = select(OUTBOX.c.source, OUTBOX.c.rows).order_by(OUTBOX.c.id)
_MARKED: Final = "tidegate.marked"
_FAILED: Final = 3
"""libpq's transaction status "in error": the transaction has failed, and COMMIT will roll it back."""


class CommittingConnection:
    """Give the commit protocol what it needs of one transaction during its COMMIT.

    The contract is :class:`~tidegate.proxy.writes.commit_protocol.Committing`.

    Args:
        connection: the connection that commits.
        transaction: the transaction's id, position and history, if a statement has brought them already.
    """

    def __init__(self, connection: Connection, transaction: Transaction | None = None) -> None:
        self._connection = connection
        self._raw: PoolProxiedConnection = connection.connection
        self._transaction = transaction
        self._held: Mapping[str, int] = {}
        self._committed_at: str | None = None

    def transaction_id(self) -> Transaction:
        """Return the transaction's id, the position and the history; in at most one statement, before COMMIT only."""
        if self._transaction is None:
            self._transaction = transaction_id(self._connection)
        return self._transaction

    def take_notes(self, tenant: str | None = None) -> list[Note]:
        """Take what the transaction has changed out of the outbox, in one statement; before COMMIT only.

        Args:
            tenant: whose transaction it is: if it has written anything, this shard must own that tenant. None: it may
                be several tenants', or there is one shard.

        Raises:
            StaleShardMap: the shard does not own the tenant.
        """
        if self._connection.dialect.name != "postgresql":
            return self._take_all()
        dialect, schema = self._connection.dialect, schema_of(self._connection)
        given: tuple[str | None, ...] = (tenant,)
        sql = _TAKE.format(take=qualified(schema, TAKE))
        if dialect in without_functions:
            sql, given = _TAKE_NOTHING, ()
        try:
            with driver_connection(self._connection) as raw:  # SQLAlchemy's way takes longer than the statement
                xid, *place, taken, held = _row_of(raw, sql, given)
        except DBAPIError as error:
            if sqlstate(error) == UNDEFINED_FUNCTION:
                without_functions.add(dialect)  # this transaction is lost, and no other will be
            if sqlstate(error) == NOT_OWNED:
                raise StaleShardMap(first_line(error)) from error
            raise
        if xid is not None:
            here = here_of(place)
            self._transaction = Transaction(xid, here.position, here.history)
        self._held = {} if held is None else json.loads(held)
        return [] if taken is None else [Note(*note) for note in json.loads(taken)]

    def _take_all(self) -> list[Note]:
        found = [Note(*row) for row in execute_own(self._connection, _OURS)]
        if found:
            execute_own(self._connection, delete(OUTBOX))
        return found

    def has_written(self) -> bool:
        """Tell whether the transaction has written anything; after :meth:`take_notes`, in no statement."""
        return self._transaction is not None

    def verify_ownership(self, ownerships: Sequence[Ownership]) -> None:
        """Check that the shard owns these units, and keep it so until the transaction ends; before COMMIT only.

        Those that triggers have checked cost no statement.

        Raises:
            StaleShardMap: the shard does not own one of them.
            TimeoutError: the scatter that this transaction belongs to has ended.
        """
        if left := not_held(self._held, ownerships):
            check_ownership(self._connection, left)
        check_deadline()  # the check may have waited for a flip

    def execute(self, statement: Executable, parameters: Any = None) -> Any:
        """Run *statement*, on Tidegate's own tables, inside the transaction; before COMMIT only."""
        return execute_own(self._connection, statement, parameters)

    def commit(self, commit: Callable[[Any], object]) -> None:
        """Commit, and bring the position in the same round trip, where the driver can send two statements in one.

        Args:
            commit: commits as the dialect does.
        """
        raw: Any = self._raw.dbapi_connection
        if (
            self._transaction is None
            or type(raw) is not psycopg.Connection
            or raw.autocommit
            or raw.pgconn.pipeline_status
            or not in_transaction(raw)
        ):
            commit(self._raw)
            return
        cursor = psycopg.Cursor(raw, row_factory=tuple_row)  # the program's own kind may do anything
        try:
            cursor.execute(_COMMIT, prepare=False)
        except psycopg.Error:
            # The position may be what failed. Without a connection nobody can tell: then the outcome is not known.
            if in_transaction(raw) or not self._has_committed(cursor):
                raise
        else:
            cursor.nextset()
            ((self._committed_at,),) = cursor
        finally:
            cursor.close()

    def _has_committed(self, cursor: Any) -> bool:
        if self._transaction is None:
            return False
        with ended_here(cursor.connection):
            cursor.execute("SELECT pg_xact_status(%s::text::xid8)", (self._transaction.xid,))
            return bool(cursor.fetchone() == ("committed",))

    def position(self) -> tuple[Position, History | None]:
        """Return a position behind the COMMIT, and the history; in one statement at most, after COMMIT only."""
        if self._connection.dialect.name != "postgresql":
            return NOWHERE, History()
        if self._committed_at is not None and self._transaction is not None:
            return self._transaction.position.moved(self._committed_at), self._transaction.history
        found = self._ask_place()
        return found.position, found.history

    def _ask_place(self) -> Here:
        raw: Any = self._raw.dbapi_connection
        raw.autocommit = True  # without a transaction it is one round trip
        try:
            return here_of(_row_of(raw, _HERE.format(state=state_table(self._connection.dialect)), ()))
        finally:
            self._restore(raw)

    def _restore(self, raw: Any) -> None:
        try:
            raw.autocommit = False
        except Exception:  # a connection that stays in AUTOCOMMIT must not be used again
            self._raw.invalidate()
            raise


def _row_of(raw: Any, sql: str, given: tuple[Any, ...]) -> Any:
    cursor = raw.cursor()
    try:
        cursor.execute(sql, given or None)
        return cursor.fetchone()
    finally:
        cursor.close()


def mark_watched(dialect: Any, raw: Any, record: Any, _proxy: Any) -> None:
    """Say once on each connection that its notes are taken at COMMIT, so that nobody is woken for them."""
    if dialect.name != "postgresql" or _MARKED in record.info:
        return
    record.info[_MARKED] = True
    began_here = not in_transaction(raw)  # else a listener of the program did, and ends it
    cursor = raw.cursor()
    try:
        cursor.execute(_MARK)
    finally:
        cursor.close()
    if began_here:
        raw.commit()


def has_failed(connection: Connection) -> bool:
    """Tell whether the transaction has failed on the server, so that COMMIT will roll it back and raise no error."""
    raw: Any = connection.connection.dbapi_connection
    if hasattr(raw, "get_transaction_status"):
        return bool(raw.get_transaction_status() == _FAILED)
    info = getattr(raw, "info", None)
    return getattr(info, "transaction_status", None) == _FAILED


def is_autocommit(connection: Connection) -> bool:
    """Tell whether each statement on *connection* commits by itself."""
    level = connection.get_execution_options().get("isolation_level")
    if level is None:
        level = getattr(connection.dialect, "_on_connect_isolation_level", None)
    if level == "AUTOCOMMIT":
        return True
    raw: Any = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite":
        # With isolation_level None, or with autocommit of Python 3.12, the driver begins no transaction by itself.
        by_hand = raw.isolation_level is None or getattr(raw, "autocommit", None) is True
        return by_hand and not raw.in_transaction
    return connection.dialect.name == "postgresql" and bool(getattr(raw, "autocommit", False))
