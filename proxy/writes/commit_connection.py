"""The connection that commits, in the form that the commit protocol uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, select

from tidegate.position import NOWHERE, History, Position
from tidegate.proxy.database.deadlines import check_deadline
from tidegate.proxy.database.history_record import HERE, here_of
from tidegate.proxy.database.ownership import check_ownership, check_ownership_at_commit
from tidegate.proxy.database.placement import execute_own, state_table
from tidegate.proxy.database.transaction import transaction_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Executable, PoolProxiedConnection

    from tidegate.cache.root_recovery import Transaction
    from tidegate.routing.sharding.shard_map import Ownership

_HERE: Final = f"SELECT {HERE}"
_HAS_ID: Final = select(func.pg_current_xact_id_if_assigned().is_not(None))
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

    def transaction_id(self) -> Transaction:
        """Return the transaction's id, the position and the history; in at most one statement, before COMMIT only."""
        if self._transaction is None:
            self._transaction = transaction_id(self._connection)
        return self._transaction

    def has_written(self) -> bool:
        """Tell whether the transaction has written anything, which gives it an id; in at most one statement."""
        return self._transaction is not None or bool(self._connection.scalar(_HAS_ID))

    def verify_ownership(self, ownerships: Sequence[Ownership]) -> None:
        """Check that the shard owns these units, and keep it so until the transaction ends; before COMMIT only.

        Raises:
            StaleShardMap: the shard does not own one of them.
            TimeoutError: the scatter that this transaction belongs to has ended.
        """
        if self._transaction is None:
            self._transaction = check_ownership_at_commit(self._connection, ownerships)
        else:
            check_ownership(self._connection, ownerships)
        check_deadline()  # the check may have waited for a flip

    def execute(self, statement: Executable, parameters: Any = None) -> Any:
        """Run *statement*, on Tidegate's own tables, inside the transaction; before COMMIT only."""
        return execute_own(self._connection, statement, parameters)

    def position(self) -> tuple[Position, History | None]:
        """Return the position and the history of now, in one statement without a transaction; after COMMIT only."""
        if self._connection.dialect.name != "postgresql":
            return NOWHERE, History()
        raw: Any = self._raw.dbapi_connection
        raw.autocommit = True
        try:
            cursor = raw.cursor()
            try:
                cursor.execute(_HERE.format(state=state_table(self._connection.dialect)))
                found = here_of(cursor.fetchone())
            finally:
                cursor.close()
        finally:
            self._restore(raw)
        return found.position, found.history

    def _restore(self, raw: Any) -> None:
        try:
            raw.autocommit = False
        except Exception:  # a connection that stays in AUTOCOMMIT must not be used again
            self._raw.invalidate()
            raise


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
