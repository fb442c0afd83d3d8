"""What an error on a replica means for the read: try elsewhere, leave the node alone as well, or tell the caller.

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
    """It would have failed on any node."""
    ELSEWHERE = auto()
    """This node cannot answer it now; nothing is wrong with it."""
    BAN = auto()
    """This node is in trouble."""
    NO_READ = auto()
    """It writes, or locks: a replica refuses that."""


_READ_ONLY: Final = "25006"
_CALLERS: Final = ("22", "23", "2B", "21")
"""Data, integrity: about the statement and its arguments."""
_CANCELED: Final = "57014"
"""By a statement time-out, or by somebody: the next node would take as long."""
_ADMIN: Final = ("57P", "58", "53", "08", "28", "XX")
"""Shutting down, system errors, out of connections or memory, connection lost, no admittance, damage."""

_MOST_SAID: Final = 200


def verdict(error: BaseException) -> Verdict:
    """What an error of a replica means."""
    if isinstance(error, DBAPIError):
        return _by_state(error)
    return Verdict.ELSEWHERE if isinstance(error, PoolTimeout) else Verdict.RAISE


def _by_state(error: DBAPIError) -> Verdict:
    state = sqlstate(error)
    if state == _READ_ONLY:
        return Verdict.NO_READ
    if state is None:  # the driver itself: no connection, or arguments that it cannot send
        is_away = error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
        return Verdict.BAN if is_away else Verdict.RAISE
    if state == _CANCELED or state.startswith(_CALLERS):
        return Verdict.RAISE
    if state.startswith(_ADMIN):
        return Verdict.BAN
    # A conflict with recovery (40001), a lock that replay holds (55P03), a table that is not there yet (42P01),
    # what standbys do not support (0A000, SERIALIZABLE): another node may do, and the primary says what it is.
    return Verdict.ELSEWHERE


def first_line(error: BaseException) -> str:
    """What an error says, in one line: databases go on for several, with the statement."""
    text = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
    return text.splitlines()[0][:_MOST_SAID]


def sqlstate(error: DBAPIError) -> str | None:
    """The five characters that PostgreSQL gave; None if the server did not get to say anything."""
    orig: Any = error.orig
    state = getattr(orig, "sqlstate", None) or getattr(orig, "pgcode", None)
    return state if isinstance(state, str) else None
