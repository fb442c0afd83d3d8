"""The sockets of an engine's connections, so that another thread can end what waits on them.

A socket here is a copy of the driver's. To shut it down works whatever the driver is doing. To close it cannot hit a
stranger's file that has got the driver's number meanwhile.
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
    """Hold a copy of the socket of one connection.

    It is closed with the connection, or when nobody holds the connection any more.

    Args:
        raw: the DBAPI connection.
        record: the pool's record of the connection.
    """

    def __init__(self, raw: Any, record: Any = None) -> None:
        self._socket = socket.socket(fileno=os.dup(raw.fileno()))
        self.record = record

    def shut(self) -> None:
        """Make everything fail at once that waits on the socket."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the copy. The connection is not touched."""
        self._socket.close()

    __del__ = close  # needed for a connection that failed while it was opened: no event says that it is closed


def note_line(raw: Any, info: Any, record: Any = None) -> ConnectionSocket:
    """Keep the socket of the DBAPI connection *raw* in *info*, the info of its record."""
    line = info[_KEY] = ConnectionSocket(raw, record)
    return line


def line_of(info: Any) -> ConnectionSocket | None:
    """Return the socket that is kept in *info*; None if there is none."""
    return info.get(_KEY)  # type: ignore[no-any-return]


def close_line(info: Any) -> None:
    """Close the socket that is kept in *info*, and forget it."""
    if (line := info.pop(_KEY, None)) is not None:
        line.close()


def listen_first(engine: Engine, noted: Callable[[Any, Any], object]) -> None:
    """Call *noted* for each new connection before anybody asks it anything.

    SQLAlchemy itself asks an engine's first connection. If the server falls silent there, that would wait without end.
    """
    event.listen(engine, "connect", noted, insert=True)


class ConnectionSockets:
    """Keep the sockets of all connections of one engine.

    Args:
        engine: the engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._lines: WeakValueDictionary[int, ConnectionSocket] = WeakValueDictionary()
        listen_first(engine, self._note)
        event.listen(engine, "checkout", self._checked_out)
        event.listen(engine, "close", lambda _raw, record: close_line(record.info))
        event.listen(engine, "detach", lambda _raw, record: close_line(record.info))

    def cut(self, which: Callable[[Any], bool]) -> None:
        """Make everything fail that waits on some connections, now and later.

        The pool stays, and opens a new connection where one of these would be used next. To dispose of the pool instead
        would leave connections open that are in use and come back to it later.

        Args:
            which: tells, by the info of its record, whether a connection is meant.
        """
        for known in self._lines.valuerefs():
            if (line := known()) is not None and which(line.record.info):
                line.record.invalidate(soft=True)
                line.shut()

    def _note(self, raw: Any, record: Any) -> None:
        line = note_line(raw, record.info, record)
        self._lines[id(line)] = line

    def _checked_out(self, raw: Any, record: Any, _proxy: Any) -> None:
        if line_of(record.info) is None:  # the connection was opened before anybody listened
            self._note(raw, record)
