"""A monitor's own connection to one node."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from tidegate.routing.asking import VIEW, one_row, view_of

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tidegate.routing.topology import View


class MonitorLine:
    """See :class:`tidegate.routing.monitor.Line`.

    Args:
        engine: connects it; has no pool.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pid = 0
        self._raw: Any = None
        self._socket: socket.socket | None = None

    def ask(self) -> View:
        """See ``Line``."""
        if self._pid != os.getpid():
            # The connection of a parent, which asks on it too; it is the parent's to close.
            self._raw = self._socket = None
        raw = self._raw or self._connect()
        asked_s = time.monotonic()
        try:
            return view_of(one_row(raw, VIEW), asked_s)
        except BaseException:
            self.close()
            raise

    def cut(self) -> None:
        """See ``Line``."""
        if (line := self._socket) is not None and self._pid == os.getpid():
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """See ``Line``."""
        raw, self._raw = self._raw, None
        line, self._socket = self._socket, None
        if raw is not None and self._pid == os.getpid():
            with contextlib.suppress(Exception):
                raw.close()
        if line is not None:
            line.close()

    def _connect(self) -> Any:
        pooled = self._engine.raw_connection()
        connection: Any = pooled.dbapi_connection
        pooled.detach()  # what the pool does with connections that are forgotten is not to be done in a child
        connection.autocommit = True  # one statement is one round trip
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        self._raw, self._pid = connection, os.getpid()
        return connection
