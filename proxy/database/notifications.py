"""Following a PostgreSQL server in the background, by its notifications, and by looking regularly all the same."""

from __future__ import annotations

import logging
import threading
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Final

from tidegate.error_text import first_line
from tidegate.fork_hooks import reset_after_fork
from tidegate.proxy.database.sibling_engine import sibling_engine
from tidegate.routing.replicas.sockets import close_line, line_of, listen_first, note_line
from tidegate.routing.threads.background import Background

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

_log: Final = logging.getLogger(__name__)
_LISTEN_S: Final = 5.0
"""How long a listener waits before it looks whether it is still wanted, in seconds."""
_LEAVE_S: Final = 1.0
"""How long to wait for a listener that ends, in seconds: it may be in the middle of connecting."""
_TIMES: Final = 10
"""How often is looked whether a pooler gives two clients one connection to the server."""
_WHO: Final = "SELECT pg_backend_pid()"
_NAME: Final = "SELECT set_config('application_name', %s, false)"


class SharedByPooler(Exception):  # noqa: N818  # no mistake: the poll does the work
    """A connection has no session of its own, so it cannot listen."""


class Listener:
    """Wait for NOTIFY on a connection of its own, which is opened as those of *engine* are.

    Args:
        engine: the primary's engine. Its driver is psycopg.
        channel: the channel's name. It must be a name of the program's own, since it is put into the statement as it
            is.
        name: is shown as the connection's application name.
    """

    def __init__(self, engine: Engine, channel: str, name: str) -> None:
        self._engine = engine
        self._channel = channel
        self._name = name
        self._info: dict[str, Any] = {}
        self._connection: Any = None

    def open(self) -> None:
        """Connect, and listen from now on. What the engine or its driver raises is raised.

        Raises:
            SharedByPooler: nobody would ever be notified here.
        """
        engine = sibling_engine(self._engine)
        listen_first(engine, self._note)
        pooled = engine.raw_connection()
        pooled.detach()  # so that no pool of a forked process closes it: it is the parent's
        self._connection.commit()  # a listener of the program's may have begun a transaction
        self._connection.autocommit = True
        self._refuse_shared()
        self._connection.execute(_NAME, (self._name,))
        self._connection.execute(f"LISTEN {self._channel}".encode())

    def _refuse_shared(self) -> None:
        """Refuse a connection whose server a pooler gives to others between transactions.

        LISTEN would stay behind with that server, and others would get what is notified.
        """
        if _server_of(self._connection) == self._connection.info.backend_pid:
            return  # a pooler tells its clients numbers of its own
        with closing(sibling_engine(self._engine).raw_connection()) as another:
            for _ in range(_TIMES):
                ours, theirs = _server_of(self._connection), _server_of(another.dbapi_connection)
                if ours == theirs or ours != _server_of(self._connection):
                    raise SharedByPooler(
                        "a pooler shares connections to the server between its clients; with the server's own "
                        "address, or in session mode, outside writes would be seen sooner"
                    )

    def _note(self, raw: Any, _record: Any) -> None:
        # If a listener of the program's fails after this, SQLAlchemy 2.0 leaves the connection open.
        self._connection = raw
        note_line(raw, self._info)

    def wait(self, seconds: float) -> bool:
        """Wait for a notification, for *seconds* at most; tell whether one came."""
        for _ in self._connection.notifies(timeout=seconds, stop_after=1):
            return True
        return False

    def interrupt(self) -> None:
        """Make :meth:`wait` fail at once, in whatever thread it waits; the listener cannot be used any more."""
        if (line := line_of(self._info)) is not None:
            line.shut()

    def close(self) -> None:
        """Close the connection."""
        close_line(self._info)
        if self._connection is not None:
            with suppress(Exception):
                self._connection.close()


class NotifiedThread:
    """Run a thread that does something at each notification, and every *poll_s* seconds.

    Notifications are waited for in another thread, so that nothing which happens to that one's connection keeps the
    work from being done.

    Args:
        name: the thread's name.
        listen: makes what waits for notifications; None: there are none, and the work is done regularly only.
        do: the work. It raises where the server does not answer. It returns False where it could do nothing now: then
            the thread waits *poll_s*, whatever is notified meanwhile.
        failed: the warning to log at an error of the work; has one ``%s`` for the error.
        poll_s: how long to wait for a notification before working all the same, in seconds.
        again_s: how long to wait after an error, in seconds.
    """

    def __init__(
        self,
        name: str,
        listen: Callable[[], Listener] | None,
        do: Callable[[], bool],
        *,
        failed: str,
        poll_s: float,
        again_s: float,
    ) -> None:
        self._name = name
        self._listen = listen
        self._do = do
        self._failed = failed
        self._poll_s = poll_s
        self._again_s = again_s
        self._listener: Listener | None = None
        self._working = Background(name, self._work)
        self._listening = Background(f"{name}-listener", self._follow)
        self._forget()
        reset_after_fork(self._forget)

    def ensure_started(self) -> None:
        """Start the threads in this process, if they do not run."""
        self._working.ensure_started()
        if self._listen is not None:
            self._listening.ensure_started()

    def wake(self) -> None:
        """Have the work done now."""
        self._news.set()

    def close(self) -> None:
        """End the threads."""
        self._listening.close(self._interrupt, wait_s=_LEAVE_S)
        self._working.close(self._news.set)

    def _forget(self) -> None:
        self._news = threading.Event()  # a new one: the parent's thread may have held its lock at the fork
        self._listener = None

    def _interrupt(self) -> None:
        if (listener := self._listener) is not None:
            listener.interrupt()

    def _work(self, stop: threading.Event) -> None:
        while not stop.is_set():
            # Before the work, not after it: what is notified while it is done may have come too late for it.
            self._news.clear()
            try:
                if self._do():
                    self._news.wait(self._poll_s)
                else:
                    stop.wait(self._poll_s)
            except Exception as error:  # noqa: BLE001  # the server does not answer
                if not stop.is_set():
                    _log.warning(self._failed, first_line(error))
                self._news.wait(self._again_s)

    def _follow(self, stop: threading.Event) -> None:
        said = False
        while not stop.is_set() and self._listen is not None:
            listener = self._listener = self._listen()
            try:
                listener.open()
                said = False
                self._news.set()  # what happened before LISTEN was not notified
                while not stop.is_set():
                    if listener.wait(_LISTEN_S):
                        self._news.set()
            except Exception as error:  # noqa: BLE001  # the server does not answer, or has no NOTIFY
                if not stop.is_set() and not said:
                    said = True
                    every, why = f"{self._poll_s:g} s", first_line(error)
                    _log.warning("%s is not notified, and looks every %s instead: %s", self._name, every, why)
            finally:
                listener.close()
            stop.wait(self._again_s)


def _server_of(raw: Any) -> int:
    """Return the number of the server process that a connection of psycopg has just asked."""
    asked: int = raw.execute(_WHO).fetchone()[0]
    raw.commit()
    return asked


def listens(engine: Engine) -> bool:
    """Tell whether :class:`Listener` can wait on a connection of *engine*: its driver must be psycopg."""
    return engine.dialect.driver == "psycopg"
