"""The connection by which a monitor asks its node."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

from tidegate.fork_hooks import reset_after_fork
from tidegate.routing.replicas.probe_sql import VIEW, one_row, view_of
from tidegate.routing.replicas.sockets import close_line, line_of, listen_first, note_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from tidegate.routing.replicas.topology import View


class PostgresMonitorConnection:
    """Ask one PostgreSQL server for its state, on a connection of its own.

    The contract is :class:`tidegate.routing.replicas.monitor.MonitorConnection`.

    Args:
        make_engine: makes an engine, which keeps no connection. It is made anew for each connection, with the listeners
            that the program's engine has by then.
        state: returns the name of the table of named facts.
    """

    def __init__(self, make_engine: Callable[[], Engine], state: Callable[[], str]) -> None:
        self._make_engine = make_engine
        self._state = state
        self._raw: Any = None
        self._info: dict[str, Any] = {}
        self._parents: list[Any] = []
        self._asking = threading.Lock()
        reset_after_fork(self._forked)

    def ask(self) -> View:
        """Ask the server once, and return what it shows.

        Any error closes the connection; the next question opens a new one.
        """
        with self._asking:  # the gate's first question may still be under way when the monitor starts
            try:
                raw = self._raw or self._connect()
                asked_s = time.monotonic()
                return view_of(one_row(raw, VIEW, self._state()), asked_s)
            except BaseException:
                self._close()
                raise

    def cut(self) -> None:
        """Make the question that is under way fail, from another thread."""
        if (line := line_of(self._info)) is not None:
            line.shut()

    def close(self) -> None:
        """Close the connection, once no question is under way."""
        with self._asking:
            self._close()

    def _close(self) -> None:
        raw, self._raw = self._raw, None
        close_line(self._info)
        if raw is not None:
            with contextlib.suppress(Exception):
                raw.close()

    def _connect(self) -> Any:
        engine = self._make_engine()
        listen_first(engine, self._note)
        pooled = engine.raw_connection()
        pooled.detach()  # so that no pool of a forked process closes it: it is the parent's
        raw: Any = pooled.dbapi_connection
        raw.commit()  # a listener of the program's may have begun a transaction
        raw.autocommit = True  # one statement is one round trip
        return raw

    def _note(self, raw: Any, _record: Any) -> None:
        # If a listener of the program's fails after this, SQLAlchemy 2.0 leaves the connection open.
        self._raw = raw
        note_line(raw, self._info)

    def _forked(self) -> None:
        # Keep the parent's connection, and do not close it: closing would tell the server that the parent has ended.
        self._parents.append((self._raw, self._info))
        self._raw, self._info, self._asking = None, {}, threading.Lock()
