"""What runs beside a program: threads that follow a process forked off, and waiting to be notified."""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL


class Background:
    """A thread that is started by the first who needs it, in each process: threads do not survive a fork.

    Args:
        name: the thread's.
        run: what it does, until the event that it is given is set.
    """

    def __init__(self, name: str, run: Callable[[threading.Event], None]) -> None:
        self._name = name
        self._run = run
        self._thread: threading.Thread | None = None
        self._forget()
        os.register_at_fork(after_in_child=partial(_forked, weakref.ref(self)))

    def ensure_started(self) -> None:
        """Start the thread, if it does not run in this process."""
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, args=(self._stop,), name=self._name, daemon=True)
                thread.start()
                self._thread = thread

    def close(self) -> None:
        """End the thread, and wait 5 s at most until it has; it is not started again."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _forget(self) -> None:
        self._lock = threading.Lock()  # a new one: the parent's may have been held at the fork
        self._stop = threading.Event()
        self._thread = None


def _forked(background: weakref.ref[Background]) -> None:
    if (found := background()) is not None:
        found._forget()  # noqa: SLF001  # a function of this module


class Listener:
    """Waits for NOTIFY on a connection of its own, by psycopg; with another driver it only waits.

    Args:
        url: of the database, as SQLAlchemy's.
        channel: a name of the program's own: it stands in the statement.
        name: shown as the connection's application name.

    Raises:
        psycopg.Error: the database does not answer; so do all methods.
    """

    def __init__(self, url: URL, channel: str, name: str) -> None:
        self._connection: Any = None
        if url.get_driver_name() == "psycopg":
            import psycopg

            plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
            self._connection = psycopg.connect(plain, autocommit=True, connect_timeout=5, application_name=name)
            self._connection.execute(f"LISTEN {channel}".encode())

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Return at a notification, or after *seconds*, or, where there is nothing to listen to, once *stop* is set."""
        if self._connection is None:
            stop.wait(seconds)
            return
        for _ in self._connection.notifies(timeout=seconds, stop_after=1):
            return

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            with suppress(Exception):
                self._connection.close()
