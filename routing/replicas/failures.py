"""What an error on a replica means for the read: try another node, ban this node as well, or tell the caller.

SQLSTATE classes are those of PostgreSQL's appendix A.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, Final

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout


class Verdict(Enum):
    """What becomes of a read that failed on a replica."""

    RAISE = auto()
    """The read would have failed on any node: tell the caller."""
    ELSEWHERE = auto()
    """This node cannot answer the read now, but nothing is wrong with it: try another one."""
    BAN = auto()
    """This node is in trouble: ban it, and try another one."""
    NO_READ = auto()
    """The method writes or locks, which a replica refuses."""


_READ_ONLY: Final = "25006"
_CALLERS: Final = ("22", "23", "2B", "21")
"""Classes of errors about the statement and its arguments: data, integrity, cardinality."""
_CANCELED: Final = "57014"
"""Canceled by a statement time-out, or by somebody: the next node would take as long."""
_ADMIN: Final = ("57P", "58", "53", "08", "28", "XX")
"""The server shuts down, has a system error, is out of connections or memory, lost the connection, refuses the login,
or is damaged."""


def verdict(error: BaseException) -> Verdict:
    """Tell what an error of a replica means for the read."""
    if isinstance(error, DBAPIError):
        return _by_state(error)
    return Verdict.ELSEWHERE if isinstance(error, PoolTimeout) else Verdict.RAISE


def _by_state(error: DBAPIError) -> Verdict:
    state = sqlstate(error)
    if state == _READ_ONLY:
        return Verdict.NO_READ
    if state is None:  # the driver itself raised: it has no connection, or arguments that it cannot send
        is_away = error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
        return Verdict.BAN if is_away else Verdict.RAISE
    if state == _CANCELED or state.startswith(_CALLERS):
        return Verdict.RAISE
    if state.startswith(_ADMIN):
        return Verdict.BAN
    # A conflict with recovery (40001), a lock that replay holds (55P03), a table that is not there yet (42P01),
    # what standbys do not support (0A000, SERIALIZABLE): another node may answer, or the primary says why not.
    return Verdict.ELSEWHERE


def sqlstate(error: BaseException) -> str | None:
    """Return the five characters that PostgreSQL gave; None if the error did not come from the server."""
    orig: Any = getattr(error, "orig", None) or error
    state = getattr(orig, "sqlstate", None) or getattr(orig, "pgcode", None)
    return state if isinstance(state, str) else None
