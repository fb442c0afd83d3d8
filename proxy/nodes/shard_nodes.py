"""The servers of one shard in this process: for each a monitor, and an engine made when it is first read from.

Nothing here decides anything: who is the primary is :mod:`tidegate.routing.replicas.topology`'s to say, and which node
answers :mod:`tidegate.routing.replicas.choose`'s.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy.orm import Session, sessionmaker

from tidegate.proxy.database.origins import timeline_of
from tidegate.proxy.nodes.engines import ConnectArguments, monitor_engine, replica_engine
from tidegate.proxy.nodes.monitor_connection import PostgresMonitorConnection
from tidegate.routing.replicas.choose import worth_asking
from tidegate.routing.replicas.hang_guard import HangGuard
from tidegate.routing.replicas.monitor import Monitor, Pace
from tidegate.routing.replicas.sockets import ConnectionSockets
from tidegate.routing.replicas.topology import Node, Topology
from tidegate.routing.threads.fork_hooks import reset_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import URL, Engine

    from tidegate.proxy.nodes.addresses import Address
    from tidegate.proxy.settings import RoutingSettings
    from tidegate.routing.replicas.attempt import Attempt
    from tidegate.routing.replicas.choose import ReplicaRequirement
    from tidegate.routing.replicas.patroni import Discovery
    from tidegate.routing.replicas.topology import View

_FIRST_S: Final = 4.0
"""How long a gate that is being made waits for its servers to say who they are."""
_LOOK_S: Final = 0.02
"""How long a read waits to hear whether a replica has replayed further, before it goes to the primary."""


class ShardNodes:
    """One shard's servers.

    Args:
        engine: the primary's.
        known: the servers, as the settings name them.
        routing: times and bounds.
        changed: told when another node has become the primary: (before, now).
    """

    def __init__(
        self,
        engine: Engine,
        known: Sequence[Address],
        routing: RoutingSettings,
        changed: Callable[[Node, Node], None] = lambda _old, _new: None,
    ) -> None:
        self._engine = engine
        self._routing = routing
        self._told = changed
        self._like = ConnectArguments(engine)
        self._pace = Pace(routing.poll_ms / 1000, routing.wanted_poll_ms / 1000, routing.answer_ms / 1000)
        self._lock = threading.Lock()
        self._news = threading.Condition()
        self._pid = 0
        self.addresses = {address.name: address for address in known}
        self.topology = Topology([address.node() for address in known], self._changed)
        self._engines: dict[str, Engine] = {}
        self._leaving: dict[Node, Engine] = {}
        self._makers: dict[str, WeakKeyDictionary[sessionmaker[Session], sessionmaker[Session] | None]] = {}
        self._monitors = {node.name: self._monitor(node) for node in self.topology.nodes}
        self._discovery: Discovery | None = None
        most_s = routing.statement_timeout_ms / 1000
        self.cutter = HangGuard(self._watched, most_s=most_s + 1 if most_s else 0.0)
        self._lines = ConnectionSockets(engine)
        reset_after_fork(self._forked)

    def url_of(self, name: str) -> URL:
        """Where the node called *name* is."""
        return self.addresses[name].url

    def primary_url(self) -> URL:
        """Where the primary is now."""
        return self.url_of(self.topology.primary.name)

    def most_lag_s(self) -> float:
        """How far behind any replica may be and still be read from."""
        return max(address.max_lag_s for address in self.addresses.values())

    def find_primary(self) -> None:
        """Ask every server once who it is: first the one that is to say which cluster this is, then all at a time."""
        pool = ThreadPoolExecutor(max_workers=min(8, len(self._monitors)), thread_name_prefix="tidegate-first")
        first, *others = self._monitors.values()
        try:
            asked = pool.submit(first.ask_now)
            wait([asked], timeout=_FIRST_S / 2)
            wait([asked, *(pool.submit(monitor.ask_now) for monitor in others)], timeout=_FIRST_S)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def look(self) -> None:
        """See to it that something is known of the servers, also where nobody has read from them yet."""
        if self._pid != os.getpid():
            self.find_primary()

    def learn(self) -> None:
        """Note what the primary's engine gives its driver."""
        self._like.learn(self._engine)

    def ensure_started(self) -> None:
        """Have this process watch the servers."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self._news = threading.Condition()  # in a process that was forked off, nobody would let it go
        for monitor in list(self._monitors.values()):
            monitor.ensure_started()
        self.cutter.ensure_started()
        if self._discovery is not None:
            self._discovery.ensure_started()

    def want(self) -> None:
        """A read went to the primary that a replica would have answered, had it been further."""
        for node in self.topology.replicas:
            if (monitor := self._monitors.get(node.name)) is not None:  # else it has just been removed
                monitor.want()

    def look_again(self, wanted: ReplicaRequirement) -> bool:
        """Have replicas asked that may have replayed further meanwhile; whether any has come to what is *wanted*.

        Waits for a short time, and for their monitors, which one question serves all who wait: a replica that says
        nothing costs no more than that.
        """
        now_s = time.monotonic()
        asked = worth_asking(self.topology, wanted, now_s, self._pace.least_s)
        if not asked:
            return False
        for node in asked:
            if (monitor := self._monitors.get(node.name)) is not None:
                monitor.ask_soon()

        def reached() -> bool:
            return any(node.view is not None and node.view.position.reached(wanted.position) for node in asked)

        with self._news:
            self._news.wait_for(
                lambda: reached() or all(node.view is None or node.view.asked_s >= now_s for node in asked), _LOOK_S
            )
        return reached()

    def enter(self, attempt: Attempt) -> bool:
        """A read begins; False: it must not, since others came between the choice of the node and this."""
        node = attempt.node
        with self._lock:
            if node not in self.topology.nodes or node.outstanding >= (1 if node.health.on_probation else node.budget):
                return False
            node.outstanding += 1
        self.cutter.add(attempt)
        return True

    def leave(self, attempt: Attempt) -> None:
        """It has ended."""
        self.cutter.discard(attempt)
        with self._lock:
            attempt.node.outstanding = max(0, attempt.node.outstanding - 1)  # a child begins at 0 in the middle of one
            left = None if attempt.node.outstanding else self._leaving.pop(attempt.node, None)
        if left is not None:
            left.dispose()

    def session_maker(self, node: Node, home: sessionmaker[Session]) -> sessionmaker[Session] | None:
        """One like *home* that reads on *node*; None if what *home* makes decides for itself where it reads."""
        makers = self._makers.get(node.name)
        if makers is None:
            makers = self._makers.setdefault(node.name, WeakKeyDictionary())
        if home in makers:
            return makers[home]
        engine = self._engine_of(node)
        if engine is None:
            return None
        made = makers[home] = _made_like(home, engine)
        if node not in self.topology.nodes:  # removed meanwhile: another one may come under its name
            self._makers.pop(node.name, None)
        return made

    def add(self, address: Address) -> bool:
        """A server that was found; whether it is a new one."""
        with self._lock:
            if address.name in self.addresses:
                return False
            self.addresses[address.name] = address
            node = address.node()
            monitor = self._monitors[node.name] = self._monitor(node)
            self.topology.add(node)
        if self._pid == os.getpid():
            monitor.ensure_started()
        return True

    def remove(self, name: str) -> bool:
        """A server that is no more; the primary stays until there is another: whether it is gone.

        Reads on it go elsewhere.
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
        self._drop_engine(node)
        self.cutter.cut(node)  # nobody watches the server any more: it may never answer
        monitor.close()
        return True

    def discover(self, discovery: Discovery) -> None:
        """Have *discovery*, which adds and removes, run as long as the nodes are used; asks it once."""
        self._discovery = discovery
        discovery.ask_now()

    def close(self) -> None:
        """End monitors, and close connections to replicas."""
        if self._discovery is not None:
            self._discovery.close()
        self.cutter.close()
        for monitor in self._monitors.values():
            monitor.close()
        for engine in (*self._engines.values(), *self._leaving.values()):
            engine.dispose()

    def _engine_of(self, node: Node) -> Engine | None:
        """None where it has been removed."""
        with self._lock:
            engine = self._engines.get(node.name)
            address = self.addresses.get(node.name)
            if engine is None and address is not None:
                engine = replica_engine(address.url, address.pool, self._routing, self._like)
                self._engines[node.name] = engine
            return engine

    def _drop_engine(self, node: Node) -> None:
        """Close the connections for reads on a node: those in use as the last read leaves."""
        with self._lock:
            self._makers.pop(node.name, None)
            engine = self._engines.pop(node.name, None)
            if engine is not None and node.outstanding:
                self._leaving[node], engine = engine, None
        if engine is not None:
            engine.dispose()

    def _monitor(self, node: Node) -> Monitor:
        line = PostgresMonitorConnection(monitor_engine(self.addresses[node.name].url, self._like))

        def seen(view: View) -> None:
            self.topology.seen(node, view)
            self._tell_news()

        def lost(trouble: str) -> None:
            self.topology.lost(node, trouble)
            self._tell_news()

        return Monitor(node.name, line, seen, lost, self._pace)

    def _tell_news(self) -> None:
        with self._news:
            self._news.notify_all()

    def _watched(self) -> list[tuple[Node, Monitor]]:
        monitors = self._monitors
        return [(node, monitor) for node in self.topology.nodes if (monitor := monitors.get(node.name)) is not None]

    def _changed(self, before: Node, now: Node) -> None:
        self._drop_engine(now)
        # What is under way on the one that was demoted would be lost with it, and may wait there for ever.
        timeline = self.topology.timeline
        self._lines.cut(lambda info: (timeline_of(info) or 0) < timeline)
        self._told(before, now)

    def _forked(self) -> None:
        self._lock = threading.Lock()
        self._news = threading.Condition()
        for node in self.topology.nodes:  # what is under way is the parent's
            node.outstanding = 0


def _made_like(home: sessionmaker[Session], engine: Engine) -> sessionmaker[Session] | None:
    bind: Any = home.kw.get("bind")
    if home.class_.get_bind is not Session.get_bind or home.kw.get("binds") or bind is None:
        return None
    if options := bind.get_execution_options():
        engine = engine.execution_options(**options)
    return sessionmaker(class_=home.class_, **{**home.kw, "bind": engine})
