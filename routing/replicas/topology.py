"""The nodes of one shard and what is known of each: which is the primary, how far a replica is, which is away.

What a monitor has seen is a :class:`View`. It is frozen, and handed to :meth:`Topology.observed`, which decides which
node is the primary: of the nodes of the right cluster that are not in recovery, the one with the highest timeline. A
primary that was demoted, and still answers, has a lower timeline, and is used for nothing.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from tidegate.fork_hooks import reset_after_fork
from tidegate.routing.replicas.health import HEALTHY, Health

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tidegate.position import History, HistoryRecord, Position

_MOST_POINTS: Final = 512
"""How many positions of the primary are remembered, to tell lags in seconds: enough for years, at ``_EXACT``."""
_EXACT: Final = 1 / 24
"""By which part of itself a lag may be told too low."""


class ServerId(NamedTuple):
    """Which server process has answered. A standby that was made anew at the same address is another one.

    Args:
        system: the system identifier, the same for a primary and all its replicas.
        started: when the server was started, as it says.
    """

    system: str
    started: str


@dataclass(frozen=True, slots=True)
class View:
    """What one question to a node has found.

    Args:
        asked_s: when the question was sent, by the monotonic clock, in seconds.
        server: the server that answered.
        standby: whether it is in recovery.
        position: of a standby, up to where it has replayed; of a primary, where it writes.
        replay_paused: whether somebody has paused its replay.
        record: its record of the database's history; of a standby, up to where it has replayed. None: it has none.
    """

    asked_s: float
    server: ServerId
    standby: bool
    position: Position
    replay_paused: bool = False
    record: HistoryRecord | None = None

    @property
    def history(self) -> History | None:
        """Return the history that it shows; None if it shows none."""
        return None if self.record is None else self.record.history

    def vouches_for(self, server: ServerId, opened_s: float) -> bool:
        """Tell whether a connection to *server*, open at *opened_s*, shows at least this position as long as it lives.

        If a process of a standby is killed, the standby recovers anew. It answers again 0.2 s later, from *behind*
        where it was, under the same start time. But that ends every connection. So a connection that was open before
        the question was sent, and still is, shows that this has not happened since.
        """
        return self.server == server and opened_s <= self.asked_s


@dataclass(slots=True, eq=False)
class Node:
    """One server of a shard, with what is known of it.

    Args:
        name: its name for people, "host:port".
        weight: its part of the reads, relative to the other replicas; 0: it gets none.
        max_lag_s: how many seconds it may be behind the primary; beyond that nothing is read from it.
        budget: how many connections this process may have to it.
        founding: whether the settings call it a primary, so that its word tells which cluster this is.
        view: what the last question has found; None if it found nothing, or if none was asked yet.
        lag_s: how many seconds it was behind the primary at that view.
        outstanding: how many reads of this process are under way on it.
        health: what is known of its failures.
        trouble: why the last question found nothing.
        barred: why nothing is read from it, whatever it answers, in words that follow its name; "": nothing bars it.
        followed: the timeline that it followed when it was last seen as a standby; 0: it was not.
    """

    name: str
    weight: float = 1.0
    max_lag_s: float = 10.0
    budget: int = 10
    founding: bool = False
    view: View | None = None
    lag_s: float = 0.0
    outstanding: int = 0
    health: Health = HEALTHY
    trouble: str = ""
    barred: str = ""
    followed: int = 0


class _Log:
    """Remember where the primary was at which time, to tell how old what a replica shows may be.

    So no clocks of different machines are compared. A full log drops points between others, and more of them the older
    they are: what happened long ago is still known, but less exactly.
    """

    def __init__(self) -> None:
        self._points: list[tuple[float, int]] = []

    def add(self, at_s: float, position: Position) -> None:
        # A primary that was promoted, or recovered from a crash, may go on from before what was seen last. No replica
        # will ever reach those points, and that is no lag.
        while self._points and self._points[-1][1] > position.lsn:
            self._points.pop()
        if not self._points or position.lsn > self._points[-1][1]:
            self._points.append((at_s, position.lsn))
        if len(self._points) > _MOST_POINTS:
            self._points = self._thinned(at_s)

    def _thinned(self, now_s: float) -> list[tuple[float, int]]:
        kept = self._points[:1]
        for point, after in pairwise(self._points[1:]):
            if after[0] - kept[-1][0] > (now_s - point[0]) * _EXACT:
                kept.append(point)
        return [*kept, self._points[-1]]

    def lag_s(self, position: Position, now_s: float) -> float:
        """Return how many seconds ago the primary was first seen past *position*; 0 if it has not been seen past it."""
        past = bisect_right(self._points, position.lsn, key=itemgetter(1))
        return max(0.0, now_s - self._points[past][0]) if past < len(self._points) else 0.0


class Topology:
    """Keep the nodes of one shard, and decide which is the primary.

    Many threads may use it. To read its fields needs no lock.

    Args:
        nodes: the first is taken for the primary until the nodes have been asked, and is a founding one.
        changed: is told when another node has become the primary: (before, now).
    """

    def __init__(self, nodes: Sequence[Node], changed: Callable[[Node, Node], None] = lambda _old, _new: None) -> None:
        self.nodes: tuple[Node, ...] = tuple(nodes)
        self.primary: Node = self.nodes[0]
        self.primary.founding = True
        self.system = ""
        """The system identifier of the cluster; "" until it is known."""
        self.timeline = 0
        """The highest timeline of a primary of this cluster. A primary with a lower one was demoted."""
        self.history: History | None = None
        """The history that the primary shows; None: it shows none."""
        self.demoted: frozenset[str] = frozenset()
        """When those servers were started that another one has replaced as the primary; in their own words."""
        self._started = ""
        self._named_by_founder = False
        self._log = _Log()
        self._changed = changed
        self._lock = threading.Lock()
        reset_after_fork(self._forked)

    @property
    def replicas(self) -> tuple[Node, ...]:
        """Return every node but the primary."""
        primary = self.primary
        return tuple(node for node in self.nodes if node is not primary)

    def node(self, name: str) -> Node | None:
        """Return the node called *name*; None if there is none."""
        return next((node for node in self.nodes if node.name == name), None)

    def add(self, node: Node) -> None:
        """Add a node that was discovered."""
        with self._lock:
            self.nodes = (*self.nodes, node)

    def remove(self, node: Node) -> None:
        """Remove a node that no longer exists. The primary stays until there is another one."""
        with self._lock:
            if node is not self.primary:
                self.nodes = tuple(other for other in self.nodes if other is not node)

    def observed(self, node: Node, view: View) -> None:
        """Take note of what *node* has answered."""
        with self._lock:
            before = self.primary
            if node not in self.nodes:  # it was removed while it was asked
                return
            self._name_cluster(node, view)
            if not view.standby:
                self._saw_primary(node, view)
            if view.standby:
                node.followed = view.position.timeline
            node.lag_s = self._log.lag_s(view.position, view.asked_s) if view.standby else 0.0
            node.view, node.trouble = view, ""
            self._name_cluster_without_founder()
        if self.primary is not before:
            self._changed(before, self.primary)

    def lost(self, node: Node, trouble: str) -> None:
        """Take note that *node* has not answered, and why."""
        with self._lock:
            before = self.primary
            node.view, node.trouble = None, trouble
            self._name_cluster_without_founder()
        if self.primary is not before:
            self._changed(before, self.primary)

    def _forked(self) -> None:
        self._lock = threading.Lock()

    def _saw_primary(self, node: Node, view: View) -> None:
        if view.server.system != self.system:
            return
        timeline = view.position.timeline
        restored = node is self.primary and self._is_newer(view)
        if timeline > self.timeline or restored or self._may_take_over(node, view):
            self._replace(node, view)
        elif timeline < self.timeline:
            return
        if node is self.primary:
            self.history, self._started = view.history, view.server.started
            self._log.add(view.asked_s, view.position)

    def _replace(self, node: Node, view: View) -> None:
        if node is not self.primary and self._started:
            self.demoted |= {self._started}
        self.demoted -= {view.server.started}
        self.primary, self.timeline = node, view.position.timeline

    def _is_newer(self, view: View) -> bool:
        """Tell whether a primary has a history of its own that is newer than that of the primary that was used last."""
        record, known = view.record, self.history
        own = record is not None and (record.timeline, record.started) == (view.position.timeline, view.server.started)
        return own and record is not None and known is not None and record.history.ordinal > known.ordinal

    def _may_take_over(self, node: Node, view: View) -> bool:
        """Tell whether *node* may become the primary although its timeline is not higher.

        The one that is used stays as long as it says that it is the primary. After it, one with a newer history may
        follow, whatever its timeline: it was promoted later, or restored. On the same timeline another founding one may
        follow, and a replica that was promoted by itself: it followed a lower timeline. A replica that has lost its
        ``standby.signal`` followed this one, and never becomes the primary.
        """
        seen = self.primary.view
        gone = seen is None or seen.standby
        if node is self.primary:
            return False
        if gone and self._is_newer(view):
            return True
        if view.position.timeline < self.timeline:
            return False
        if node.founding:
            return gone or not self.primary.founding
        follower = view.record is not None and view.record.timeline == view.position.timeline
        return gone and 0 < node.followed < view.position.timeline and not follower

    def _name_cluster(self, node: Node, view: View) -> None:
        """Learn which cluster this is: from the node that the settings call the primary, once it has answered."""
        system = view.server.system
        if self._named_by_founder or system == self.system:
            self._named_by_founder |= node.founding
        elif node.founding:
            if self.system:  # what was known so far was of another cluster
                self.timeline, self.primary, self._log, self.history = 0, node, _Log(), None
            self.system, self._named_by_founder = system, True

    def _name_cluster_without_founder(self) -> None:
        """Learn which cluster this is from a replica that was promoted, if the program was started after the failover.

        This is done only after every server was asked, and only if none contradicts it. A server on timeline 1 was
        never promoted.
        """
        if self.system or any(node.view is None and not node.trouble for node in self.nodes):
            return
        views = [(node, node.view) for node in self.nodes if node.view is not None]
        promoted = [(node, view) for node, view in views if not view.standby and view.position.timeline > 1]
        if promoted and len({view.server.system for _, view in views}) == 1:
            self.system = promoted[0][1].server.system
            for node, view in promoted:
                self._saw_primary(node, view)
