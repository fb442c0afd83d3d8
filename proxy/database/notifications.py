"""Following a PostgreSQL server in a thread of its own, by its notifications, and by looking regularly all the same."""

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
    """Wait for NOTIFY on a connection of its own, by psycopg; with another driver, only let the time pass.

    Args:
        url: the database's URL, as SQLAlchemy has it.
        channel: the channel's name. It must be a name of the program's own, since it is put into the statement as it
            is.
        name: is shown as the connection's application name.

    Raises:
        psycopg.Error: the database does not answer; the methods raise it too.
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
        """Return at a notification, or after *seconds*; with nothing to listen to, also once *stop* is set."""
        if self._connection is None:
            stop.wait(seconds)
            return
        for _ in self._connection.notifies(timeout=seconds, stop_after=1):
            return

    def interrupt(self) -> None:
        """Make :meth:`wait` fail at once, in whatever thread it waits; the listener cannot be used any more."""
        if self._connection is not None:
            self._line.shut()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._line.close()
            with suppress(Exception):
                self._connection.close()


class NotifiedThread:
    """Run a thread that does something at each notification, and every *poll_s* seconds.

    Args:
        name: the thread's name.
        listen: makes the listener that waits for notifications.
        do: the work. It raises where the server does not answer. It returns False where it could do nothing now: then
            the thread waits *poll_s* without listening.
        failed: the warning to log at an error; has one ``%s`` for the error.
        poll_s: how long to wait for a notification before working all the same, in seconds.
        again_s: how long to wait after an error, in seconds.
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
                # Work after LISTEN, not before: this sees all that happened before LISTEN, and what happens after it
                # is notified. So nothing is missed in between.
                if self._do():
                    listener.wait(self._poll_s, stop)
                else:
                    stop.wait(self._poll_s)
            except Exception as error:  # noqa: BLE001  # the server does not answer
                if not stop.is_set():
                    _log.warning(self._failed, first_line(error))
                if listener is not None:
                    listener.close()
                listener = self._listener = None
                stop.wait(self._again_s)
        if listener is not None:
            listener.close()
