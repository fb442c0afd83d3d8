"""Something interrupted by a signal handler that raises, at every call that it makes, one after the other."""

from __future__ import annotations

import gc
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class TimeLimitError(Exception):
    """As Celery's SoftTimeLimitExceeded is: an ordinary exception."""


def _ignored(frame: Any) -> bool:
    """Whether Python or redis-py ignores what is raised here: in finalizers, and in what serves telemetry."""
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_globals.get("__name__", "").startswith(
            ("importlib", "redis.observability")
        ):
            return True
        frame = frame.f_back
    return False


def interrupt(work: Callable[[], Any], at: int, error: type[BaseException]) -> bool:
    """Do *work*, and have a signal come at its call of this number, of Python's or of C's; whether it came.

    Args:
        work: what is interrupted; what comes out of it is raised.
        at: counts from 1.
        error: what the signal's handler raises.
    """
    left = at

    def handle(_number: int, _frame: object) -> None:
        raise error

    def count(frame: Any, event: str, arg: object) -> None:
        nonlocal left
        # Between the end of a with and the release of its lock the interpreter looks at no signals.
        at_release = event == "c_call" and getattr(arg, "__name__", "") in {"__exit__", "release"}
        if left > 0 and event in {"call", "c_call", "c_return"} and not at_release:
            left -= 1
            if left == 0 and _ignored(frame):
                left = 1
            elif left == 0:
                signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handle)
    gc.disable()  # what is raised in a finalizer of somebody else's is lost
    sys.setprofile(count)
    try:
        work()
        came, left = left <= 0, -1
    finally:
        left = -1
        sys.setprofile(None)
        gc.enable()
        signal.signal(signal.SIGUSR1, before)
    return came


def at_every_call(
    work: Callable[[], Any],
    check: Callable[[bool], None],
    error: type[BaseException] = TimeLimitError,
    *,
    step: int = 1,
) -> int:
    """Interrupt *work* at one call after the other, and *check* what is left; the number of calls.

    Args:
        work: what is interrupted.
        check: told whether the interruption came out of it.
        error: what the handler raises.
        step: leave out some.
    """
    at = 1
    while True:
        passed, came = False, True
        try:
            came = interrupt(work, at, error)
        except error:
            passed = True
        if not came:
            return at
        check(passed)
        at += step
