"""One attempt at a read on one replica: what it needs of its connections, and how another thread ends it.

A read learns of its connections from the events of the pool and of the engine. These run in its own thread, and find
the attempt in a context variable. If no view vouches for a connection, the connection is asked where it is before the
read begins.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event

from tidegate.error_text import first_line
from tidegate.interruptions import pass_interruption
from tidegate.position import HistoryRecord, Position
from tidegate.routing.replicas.probe_sql import REPLAYED, VIEW, in_transaction, one_row, view_of
from tidegate.routing.replicas.sockets import close_line, line_of, listen_first, note_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Engine

    from tidegate.position import History
    from tidegate.routing.replicas.sockets import ConnectionSocket
    from tidegate.routing.replicas.topology import Node, View

_OPENED: Final = "tidegate.opened"
_STATE: Final = "tidegate.state"
current: Final[ContextVar[Attempt | None]] = ContextVar("tidegate_attempt", default=None)


class NotReached(Exception):  # noqa: N818  # no mistake: another node is asked
    """The connection shows less than the read needs, or it does not go to a standby. Another node is asked."""


class ConnectionLost(NotReached):
    """The connection broke when it was asked."""


@dataclass(slots=True, eq=False)
class Attempt:
    """Hold one attempt at a read, and check the connections that it uses.

    Args:
        node: the node that is to answer.
        view: what was known of the node when it was chosen.
        position: what the read needs.
        began_s: when the attempt began, by the monotonic clock, in seconds.
        history: that of the connections that were used; None if they show none, or not the same one.
        asked: how often a connection had to be asked.
        was_cut: whether another thread has ended the attempt.
    """

    node: Node
    view: View
    position: Position
    began_s: float
    history: History | None = None
    asked: int = 0
    was_cut: bool = False
    _lines: list[ConnectionSocket] = field(default_factory=list)
    _shown: set[History | None] = field(default_factory=set)

    def uses(self, info: Any) -> None:
        """Take note that the read waits for answers on this connection from now on."""
        if (line := line_of(info)) is not None:
            self._lines.append(line)

    def cut(self) -> None:
        """Make the read fail at once, from another thread: what it waits for will not come."""
        self.was_cut = True
        for line in self._lines:
            line.shut()

    def check(self, connection: Connection) -> None:
        """Check that a connection shows what the read needs.

        Raises:
            NotReached: it does not.
            ConnectionLost: it broke when it was asked.
        """
        info = connection.info
        self.uses(info)  # early enough: that pool does not ping, so the read has not waited on the connection yet
        opened: View = info[_OPENED]
        if not opened.standby:
            raise NotReached("the server was no standby when the connection was opened")
        timeline = opened.position.timeline
        if self.view.server == opened.server:
            timeline = max(timeline, self.view.position.timeline)
        elif self.view.server.system != opened.server.system:
            raise NotReached(f"the connection goes to another cluster (system identifier {opened.server.system})")
        elif timeline < self.view.position.timeline:
            raise NotReached(f"the connection goes to a server on timeline {timeline}, which was left")
        shown = self.view.history
        if not self.view.vouches_for(opened.server, opened.asked_s):
            shown = self._ask(connection, timeline)
        self._shown.add(shown)
        self.history = shown if len(self._shown) == 1 else None

    def _ask(self, connection: Connection, timeline: int) -> History | None:
        self.asked += 1
        raw = connection.connection.dbapi_connection
        try:
            began_before = in_transaction(raw)
            standby, lsn, level, text = one_row(raw, REPLAYED, connection.info[_STATE])
        except Exception as error:
            # SQLAlchemy does not wrap what the driver raises here, so the pool would take the connection back.
            connection.invalidate(error)
            pass_interruption(error)
            raise ConnectionLost(first_line(error)) from error
        if began_before and level != "read committed":
            # A listener may have taken the transaction's snapshot, which may show less than the answer says.
            raise NotReached("a transaction was open before the connection could be asked what it shows")
        if not standby or not Position.parse(lsn or "0/0", f"{timeline:08x}").reached(self.position):
            raise NotReached(f"the connection shows position {lsn}, and the read needs {self.position.text()}")
        record = HistoryRecord.of_text(text)
        shown = None if record is None else record.history
        if shown != self.view.history:
            raise NotReached("the connection shows another history of the database")
        return shown


def listen(engine: Engine, state: Callable[[], str]) -> None:
    """Let the reads on a replica's *engine* find their attempt, and let it check their connections.

    Args:
        engine: the replica's.
        state: returns the name of the table of named facts.
    """

    def noted(raw: Any, record: Any) -> None:
        note_line(raw, record.info)
        if (attempt := current.get()) is not None:
            attempt.uses(record.info)

    def connected(raw: Any, record: Any) -> None:
        # Take the time now, when the connection is open: it must not be earlier than that, since it is compared with
        # the moment at which a monitor asked.
        record.info[_STATE] = state()
        record.info[_OPENED] = view_of(one_row(raw, VIEW, record.info[_STATE]), time.monotonic())

    def closed(_raw: Any, record: Any, *_: Any) -> None:
        close_line(record.info)

    def begun(connection: Connection) -> None:
        attempt = current.get()
        if attempt is None:  # the method started a thread of its own: nobody knows what that one needs
            raise NotReached("a replica answers only within a read that was routed to it")
        attempt.check(connection)

    listen_first(engine, noted)
    event.listen(engine, "connect", connected)
    event.listen(engine, "close", closed)
    event.listen(engine, "begin", begun)
