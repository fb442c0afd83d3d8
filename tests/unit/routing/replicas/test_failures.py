"""What an error of a replica means for the read: by SQLSTATE, as psycopg 3 and psycopg2 give it, and without one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import psycopg2
import pytest
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tidegate.routing.replicas.failures import Verdict, sqlstate, verdict

if TYPE_CHECKING:
    from collections.abc import Callable

STATES = {
    "25006": Verdict.NO_READ,  # read only transaction
    "22P02": Verdict.RAISE,  # no uuid
    "22012": Verdict.RAISE,  # division by zero
    "23505": Verdict.RAISE,  # unique violation
    "0A000": Verdict.ELSEWHERE,  # SERIALIZABLE, on a standby
    "28P01": Verdict.BAN,  # wrong password
    "57014": Verdict.RAISE,  # canceled
    "57P01": Verdict.BAN,  # terminated by an administrator
    "57P02": Verdict.BAN,  # a process crashed
    "57P03": Verdict.BAN,  # starting up
    "53300": Verdict.BAN,  # too many connections
    "53200": Verdict.BAN,  # out of memory
    "58030": Verdict.BAN,  # disk
    "08006": Verdict.BAN,  # connection failure
    "XX001": Verdict.BAN,  # damage
    "40001": Verdict.ELSEWHERE,  # conflict with recovery
    "40P01": Verdict.ELSEWHERE,  # deadlock with recovery
    "55P03": Verdict.ELSEWHERE,  # lock time-out
    "42P01": Verdict.ELSEWHERE,  # a table that has not arrived yet
    "42703": Verdict.ELSEWHERE,  # a column that has not arrived yet
    "42501": Verdict.ELSEWHERE,  # a right that was granted a moment ago
    "58P01": Verdict.BAN,  # a file is missing
}


def of_psycopg(state: str) -> DBAPIError:
    class Raised(psycopg.Error):
        sqlstate = state

    return DBAPIError("SELECT 1", None, Raised("it says so"))


def of_psycopg2(state: str) -> DBAPIError:
    raised = type("Raised", (psycopg2.Error,), {"pgcode": state})("it says so")
    return DBAPIError("SELECT 1", None, raised)


@pytest.mark.parametrize("made", [of_psycopg, of_psycopg2])
@pytest.mark.parametrize(("state", "expected"), STATES.items())
def test_by_what_the_server_says(made: Callable[[str], DBAPIError], state: str, expected: Verdict) -> None:
    error = made(state)
    assert sqlstate(error) == state
    assert verdict(error) is expected


LOST = psycopg.OperationalError("server closed the connection unexpectedly")
WITHOUT_STATE = {
    "the connection was lost": (OperationalError("SELECT 1", None, LOST), Verdict.BAN),
    "the driver has closed it": (InterfaceError("SELECT 1", None, psycopg.InterfaceError("closed")), Verdict.BAN),
    "psycopg2's lost connection": (OperationalError("SELECT 1", None, psycopg2.OperationalError("gone")), Verdict.BAN),
    "found to be lost": (DBAPIError("SELECT 1", None, psycopg.Error("?"), connection_invalidated=True), Verdict.BAN),
    "arguments that it cannot send": (
        ProgrammingError("SELECT 1", None, psycopg.ProgrammingError("cannot adapt type 'object'")),
        Verdict.RAISE,
    ),
    "all connections in use": (PoolTimeout("QueuePool limit"), Verdict.ELSEWHERE),
    "the method's own": (ValueError("Last workflow run not exists"), Verdict.RAISE),
    "stopped by the program": (KeyboardInterrupt(), Verdict.RAISE),
}


@pytest.mark.parametrize(("error", "expected"), WITHOUT_STATE.values(), ids=WITHOUT_STATE)
def test_by_who_raised_it(error: BaseException, expected: Verdict) -> None:
    assert verdict(error) is expected
