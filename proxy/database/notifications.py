"""What follows a PostgreSQL server in a thread of its own: notified by it, and looking now and then all the same."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from tidegate.routing.replicas.failures import first_line
from tidegate.routing.replicas.sockets import ConnectionSocket
from tidegate.routing.threads.background import Background

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from sqlalchemy import URL

_log: Final = logging.getLogger(__name__)


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
            self._line = ConnectionSocket(self._connection)
            try:
                self._connection.execute(f"LISTEN {channel}".encode())
            except BaseException:
                self.close()
                raise

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Return at a notification, or after *seconds*; where there is nothing to listen to, once *stop* is set."""
        if self._connection is None:
            stop.wait(seconds)
            return
        for _ in self._connection.notifies(timeout=seconds, stop_after=1):
            return

    def interrupt(self) -> None:
        """Have whoever waits fail at once; it cannot be used any more."""
        if self._connection is not None:
            self._line.shut()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._line.close()
            with suppress(Exception):
                self._connection.close()


class NotifiedThread:
    """A thread that does something when it is notified, and every *poll_s*.

    Args:
        name: the thread's.
        listen: makes what waits for a notification.
        do: what; raises where the server does not answer, and gives False where it was of no use now: then nothing is
            listened to for *poll_s*.
        failed: what to say then, with one ``%s`` for the error.
        poll_s: how often without a notification, in seconds.
        again_s: how long to wait after a failure, in seconds.
    """

    def __init__(
        self,
        name: str,
        listen: Callable[[], Listener],
        do: Callable[[], bool],
        *,
        failed: str,
        poll_s: float,
        again_s: float,
    ) -> None:
        self._listen = listen
        self._do = do
        self._failed = failed
        self._poll_s = poll_s
        self._again_s = again_s
        self._listener: Listener | None = None
        self._background = Background(name, self._run)

    def ensure_started(self) -> None:
        """Start the thread in this process, if it does not run."""
        self._background.ensure_started()

    def close(self) -> None:
        """End the thread."""
        self._background.close(self._interrupt)

    def _interrupt(self) -> None:
        if (listener := self._listener) is not None:
            listener.interrupt()

    def _run(self, stop: threading.Event) -> None:
        listener = self._listener = None
        while not stop.is_set():
            try:
                listener = self._listener = listener or self._listen()
                # After LISTEN: what came before it is seen here, and what comes after it is notified.
                if self._do():
                    listener.wait(self._poll_s, stop)
                else:
                    stop.wait(self._poll_s)
            except Exception as error:  # noqa: BLE001  # the server is away
                if not stop.is_set():
                    _log.warning(self._failed, first_line(error))
                if listener is not None:
                    listener.close()
                listener = self._listener = None
                stop.wait(self._again_s)
        if listener is not None:
            listener.close()
