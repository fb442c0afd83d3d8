"""The servers of one shard in this process. Each has a monitor, and an engine that is made at its first read.

Nothing here decides anything: :mod:`tidegate.routing.replicas.topology` says which node is the primary, and
:mod:`tidegate.routing.replicas.choose` says which node answers.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Final

from tidegate.fork_hooks import reset_after_fork
from tidegate.proxy.database.origins import is_left, life_of
from tidegate.proxy.database.placement import state_table
from tidegate.proxy.nodes.connecting import IGNORED
from tidegate.proxy.nodes.engines import monitor_engine
from tidegate.proxy.nodes.monitor_connection import PostgresMonitorConnection
from tidegate.proxy.nodes.replica_engines import ReplicaEngines
from tidegate.routing.replicas.choose import worth_asking
from tidegate.routing.replicas.hang_guard import HangGuard
from tidegate.routing.replicas.monitor import Monitor, Pace
from tidegate.routing.replicas.sockets import ConnectionSockets
from tidegate.routing.replicas.topology import Node, Topology

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import URL
    from sqlalchemy.orm import Session, sessionmaker

    from tidegate.proxy.nodes.addresses import Address
    from tidegate.proxy.nodes.connecting import Connecting
    from tidegate.proxy.settings import RoutingSettings
    from tidegate.routing.replicas.attempt import Attempt
    from tidegate.routing.replicas.choose import ReplicaRequirement
    from tidegate.routing.replicas.patroni import Discovery
    from tidegate.routing.replicas.topology import View

_FIRST_S: Final = 4.0
"""How long a gate that is being made waits for its servers to say what they are, in seconds."""
_LOOK_S: Final = 0.02
"""How long a read waits to hear whether a replica has replayed further, before it goes to the primary, in seconds."""


class ShardNodes:
    """Keep the servers of one shard: their addresses, monitors, engines and session makers.

    Args:
        connecting: how the primary's engine connects.
        known: the servers, as the settings name them.
        routing: times and bounds.
        changed: is called when another node has become the primary, with the node before and the node now.
    """

    def __init__(
        self,
        connecting: Connecting,
        known: Sequence[Address],
        routing: RoutingSettings,
        changed: Callable[[Node, Node], None] = lambda _old, _new: None,
    ) -> None:
        self._routing = routing
        self._told = changed
        self._connecting = connecting
        self._pace = Pace(routing.poll_ms / 1000, routing.wanted_poll_ms / 1000, routing.answer_ms / 1000)
        self._lock = threading.Lock()
        self._news = threading.Condition()
        self._pid = 0
        self.addresses = {address.name: address for address in known}
        self.topology = Topology([address.node() for address in known], self._changed)
        self._engines = ReplicaEngines(self.addresses, self.topology, routing, connecting, self._state)
        self._monitors = {node.name: self._monitor(node) for node in self.topology.nodes}
        self._discovery: Discovery | None = None
        self._bar_ignored()
        connecting.ignored = self._bar_ignored
        most_s = routing.statement_timeout_ms / 1000
        self.cutter = HangGuard(self._watched, most_s=most_s + 1 if most_s else 0.0)
        self._lines = ConnectionSockets(connecting.engine)
        reset_after_fork(self._forked)

    def _state(self) -> str:
        return state_table(self._connecting.engine.dialect)

    def url_of(self, name: str) -> URL:
        """Return the URL of the node called *name*."""
        return self.addresses[name].url

    def most_lag_s(self) -> float:
        """Return how many seconds behind any replica may be and still be read from: the greatest of their bounds."""
        return max(address.max_lag_s for address in self.addresses.values())

    def find_primary(self) -> None:
        """Ask every server once what it is, and wait at most some seconds.

        The first server is asked before the others: it says which cluster this is. Then all others are asked at the
        same time.
        """
        pool = ThreadPoolExecutor(max_workers=min(8, len(self._monitors)), thread_name_prefix="tidegate-first")
        first, *others = self._monitors.values()
        try:
            asked = pool.submit(first.ask_now)
            wait([asked], timeout=_FIRST_S / 2)
            wait([asked, *(pool.submit(monitor.ask_now) for monitor in others)], timeout=_FIRST_S)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def look(self) -> None:
        """Ask the servers what they are, unless this process monitors them already."""
        if self._pid != os.getpid():
            self.find_primary()

    def ensure_started(self) -> None:
        """Start the monitors in this process, if they do not run."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self._news = threading.Condition()  # in a forked process the old one may be locked for ever
        for monitor in list(self._monitors.values()):
            monitor.ensure_started()
        self.cutter.ensure_started()
        if self._discovery is not None:
            self._discovery.ensure_started()

    def want(self) -> None:
        """Have replicas polled more often: a read went to the primary, because no replica had replayed far enough."""
        for node in self.topology.replicas:
            if (monitor := self._monitors.get(node.name)) is not None:  # None: the node has just been removed
                monitor.want()

    def look_again(self, wanted: ReplicaRequirement) -> bool:
        """Ask replicas that may have replayed further meanwhile, and tell whether one has now reached what is *wanted*.

        This waits for a short time, for the answers of their monitors. One question serves all reads that wait. A
        replica that does not answer costs no more than that time.
        """
        now_s = time.monotonic()
        nodes = worth_asking(self.topology, wanted, now_s, self._pace.least_s)
        if not nodes:
            return False
        for node in nodes:
            if (monitor := self._monitors.get(node.name)) is not None:
                monitor.ask_soon()

        def reached() -> bool:
            return any(node.view is not None and node.view.position.reached(wanted.position) for node in nodes)

        with self._news:
            self._news.wait_for(
                lambda: reached() or all(node.view is None or node.view.asked_s >= now_s for node in nodes), _LOOK_S
            )
        return reached()

    def enter(self, attempt: Attempt) -> bool:
        """Begin a read on its node. Return False if it must not begin there.

        That is so if the node was removed, or if other reads came between the choice of the node and this call and took
        its last place.
        """
        node = attempt.node
        with self._lock:
            if node not in self.topology.nodes or node.outstanding >= (1 if node.health.on_probation else node.budget):
                return False
            node.outstanding += 1
        self.cutter.add(attempt)
        return True

    def leave(self, attempt: Attempt) -> None:
        """End a read on its node."""
        self.cutter.discard(attempt)
        with self._lock:
            # A process that was forked during a read begins at 0, and that read ends in it too: so not below 0.
            attempt.node.outstanding = max(0, attempt.node.outstanding - 1)
        self._engines.left(attempt.node)

    def session_maker(self, node: Node, home: sessionmaker[Session]) -> sessionmaker[Session] | None:
        """Return a session maker like *home* that reads on *node*.

        Returns:
            The maker. None: the node was removed, or the sessions of *home* choose by themselves where they read.
        """
        return self._engines.session_maker(node, home)

    def add(self, address: Address) -> bool:
        """Add a server that was found. Tell whether it is a new one."""
        with self._lock:
            if address.name in self.addresses:
                return False
            self.addresses[address.name] = address
            node = address.node()
            monitor = self._monitors[node.name] = self._monitor(node)
            self.topology.add(node)
        self._bar_ignored()
        if self._pid == os.getpid():
            monitor.ensure_started()
        return True

    def remove(self, name: str) -> bool:
        """Remove a server that is gone, so that reads on it go elsewhere. Tell whether it is removed.

        A primary stays until there is another one.
        """
        with self._lock:
            node = self.topology.node(name)
            if node is None:
                return True
            self.topology.remove(node)
            if self.topology.node(name) is node:
                return False
            del self.addresses[name]
            monitor = self._monitors.pop(name)
        self._engines.drop(node)
        self.cutter.cut(node)  # nobody monitors the server any more, and it may never answer
        monitor.close()
        return True

    def discover(self, discovery: Discovery) -> None:
        """Run *discovery*, which adds and removes nodes, as long as the nodes are used; ask it once now."""
        self._discovery = discovery
        discovery.ask_now()

    def close(self) -> None:
        """End the monitors, and close the connections to replicas."""
        if self._discovery is not None:
            self._discovery.close()
        self.cutter.close()
        for monitor in self._monitors.values():
            monitor.close()
        self._engines.close()

    def _monitor(self, node: Node) -> Monitor:
        address = self.addresses[node.name]
        line = PostgresMonitorConnection(lambda: monitor_engine(address, self._connecting), self._state)

        def observed(view: View) -> None:
            self.topology.observed(node, view)
            self._tell_news()

        def lost(trouble: str) -> None:
            self.topology.lost(node, trouble)
            self._tell_news()

        return Monitor(node.name, line, observed, lost, self._pace)

    def _bar_ignored(self) -> None:
        """Have nothing read from servers to which the program's engine cannot be led."""
        if self._connecting.ignores:
            for node in self.topology.nodes:
                address = self.addresses.get(node.name)
                node.barred = "" if address is None or address.as_given else IGNORED

    def _tell_news(self) -> None:
        with self._news:
            self._news.notify_all()

    def _watched(self) -> list[tuple[Node, Monitor]]:
        monitors = self._monitors
        return [(node, monitor) for node in self.topology.nodes if (monitor := monitors.get(node.name)) is not None]

    def _changed(self, before: Node, now: Node) -> None:
        self._engines.drop(now)
        # What is under way on the node that was demoted would be lost with it, and might wait there for ever: cut it.
        timeline, demoted = self.topology.timeline, self.topology.demoted
        self._lines.cut(lambda info: is_left(life_of(info), timeline, demoted))
        self._told(before, now)

    def _forked(self) -> None:
        self._lock = threading.Lock()
        self._news = threading.Condition()
        for node in self.topology.nodes:  # the reads that are under way are the parent's
            node.outstanding = 0
