"""The sockets of an engine's connections, so that another thread can end what waits on them.

A socket is a copy of the driver's: shutting it down works whatever the driver is doing, and closing it cannot hit a
file of somebody else that has got the driver's number meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

_KEY: Final = "tidegate.socket"


def note_line(raw: Any, info: Any) -> socket.socket:
    """Keep the socket of the DBAPI connection *raw* in its record's *info*."""
    line = info[_KEY] = socket.socket(fileno=os.dup(raw.fileno()))
    return line


def line_of(info: Any) -> socket.socket | None:
    """What was kept."""
    return info.get(_KEY)  # type: ignore[no-any-return]


def close_line(info: Any) -> None:
    """Forget it; the connection is not touched."""
    if (line := info.pop(_KEY, None)) is not None:
        line.close()


def shut(line: socket.socket) -> None:
    """Have whoever waits on it fail at once."""
    with contextlib.suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)


class Lines:
    """The connections of one engine.

    Args:
        engine: whose.
    """

    def __init__(self, engine: Engine) -> None:
        self._infos: dict[int, Any] = {}
        event.listen(engine, "connect", self._note)
        event.listen(engine, "checkout", self._checked_out)
        event.listen(engine, "close", self._closed)
        event.listen(engine, "detach", self._closed)

    def cut(self, which: Callable[[Any], bool]) -> None:
        """Have everything fail that waits on a connection of *which* (of the record's info) holds."""
        for info in list(self._infos.values()):
            if (line := line_of(info)) is not None and which(info):
                shut(line)

    def _note(self, raw: Any, record: Any) -> None:
        note_line(raw, record.info)
        self._infos[id(record)] = record.info

    def _checked_out(self, raw: Any, record: Any, _proxy: Any) -> None:
        if line_of(record.info) is None:  # opened before anybody listened
            self._note(raw, record)

    def _closed(self, _raw: Any, record: Any) -> None:
        self._infos.pop(id(record), None)
        close_line(record.info)
