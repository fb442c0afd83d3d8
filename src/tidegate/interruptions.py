"""What a signal handler raises: it comes out of whatever was running, and is no fault of that.

A time limit of Celery's, or of a program's own, raises an ordinary exception from its handler. Whoever takes errors of
something for its faults (a server, a body, a policy) must let such an exception pass, or the program goes on as if its
time were not over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType, TracebackType


def pass_interruption(error: BaseException) -> None:
    """Raise what a signal handler has raised, if *error* is that, or was raised by somebody who took it for another.

    Call it where *error* is caught. An exception that was being handled before is not looked at.
    """
    if error.__traceback__ is None:
        return
    outside, seen = _callers(error.__traceback__.tb_frame), error
    found: BaseException | None = error
    while found is not None:
        traceback = found.__traceback__
        if found is not error and traceback is not None and traceback.tb_frame in outside:
            return
        if _comes_from_handler(traceback):
            if found is error:
                raise error
            raise found from None
        seen = found
        found = seen.__cause__ or seen.__context__


def _callers(frame: FrameType | None) -> list[FrameType]:
    """Return *frame* and all that called it."""
    callers = []
    while frame is not None:
        callers.append(frame)
        frame = frame.f_back
    return callers


def _comes_from_handler(traceback: TracebackType | None) -> bool:
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_back is not None and _was_handed(frame, frame.f_back):
            return True
        traceback = traceback.tb_next
    return False


def _was_handed(frame: FrameType, caller: FrameType) -> bool:
    """Tell whether a function was given its caller's frame: only signal handlers are."""
    code, values = frame.f_code, frame.f_locals
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 0x04)
    for name in code.co_varnames[:count]:
        value = values.get(name)
        if value is caller or (type(value) is tuple and any(one is caller for one in value)):
            return True
    return False
