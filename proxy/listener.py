"""Waiting to be notified by a PostgreSQL server."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import threading

    from sqlalchemy import URL


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
