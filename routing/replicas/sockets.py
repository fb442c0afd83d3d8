"""The sockets of an engine's connections, so that another thread can end what waits on them.

A socket is a copy of the driver's: shutting it down works whatever the driver is doing, and closing it cannot hit a
file of somebody else that has got the driver's number meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from sqlalchemy import event

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

_KEY: Final = "tidegate.line"


class ConnectionSocket:
    """One connection's socket; closed with the connection, or when nobody has the connection any more.

    Args:
        raw: the DBAPI connection.
        record: the pool's of it.
    """

    def __init__(self, raw: Any, record: Any = None) -> None:
        self._socket = socket.socket(fileno=os.dup(raw.fileno()))
        self.record = record

    def shut(self) -> None:
        """Have whoever waits on it fail at once."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Forget it; the connection is not touched."""
        self._socket.close()

    __del__ = close  # of a connection that failed as it was opened, nobody is told that it is closed


def note_line(raw: Any, info: Any, record: Any = None) -> ConnectionSocket:
    """Keep the line of the DBAPI connection *raw* in *info*, its record's."""
    line = info[_KEY] = ConnectionSocket(raw, record)
    return line


def line_of(info: Any) -> ConnectionSocket | None:
    """What was kept."""
    return info.get(_KEY)  # type: ignore[no-any-return]


def close_line(info: Any) -> None:
    """Close and forget it."""
    if (line := info.pop(_KEY, None)) is not None:
        line.close()


def listen_first(engine: Engine, noted: Callable[[Any, Any], object]) -> None:
    """Have *noted* told of each new connection before anybody asks it anything.

    SQLAlchemy itself does, of an engine's first one: a server that falls silent there would be waited for without end.
    """
    event.listen(engine, "connect", noted, insert=True)


class ConnectionSockets:
    """The connections of one engine.

    Args:
        engine: whose.
    """

    def __init__(self, engine: Engine) -> None:
        self._lines: WeakValueDictionary[int, ConnectionSocket] = WeakValueDictionary()
        listen_first(engine, self._note)
        event.listen(engine, "checkout", self._checked_out)
        event.listen(engine, "close", lambda _raw, record: close_line(record.info))
        event.listen(engine, "detach", lambda _raw, record: close_line(record.info))

    def cut(self, which: Callable[[Any], bool]) -> None:
        """Have everything fail that waits on a connection of *which* (of its record's info) holds, now and later.

        The pool stays, and makes another one where this one would be used next. To dispose of the pool would leave
        what is in use open in it, when it comes back.
        """
        for known in self._lines.valuerefs():
            if (line := known()) is not None and which(line.record.info):
                line.record.invalidate(soft=True)
                line.shut()

    def _note(self, raw: Any, record: Any) -> None:
        line = note_line(raw, record.info, record)
        self._lines[id(line)] = line

    def _checked_out(self, raw: Any, record: Any, _proxy: Any) -> None:
        if line_of(record.info) is None:  # opened before anybody listened
            self._note(raw, record)
