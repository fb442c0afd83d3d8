"""The engines for reads on the nodes of one shard, and session makers on them: made at a node's first read."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sqlalchemy.orm import Session, sessionmaker

from tidegate.proxy.nodes.engines import replica_engine
from tidegate.routing.threads.fork_hooks import reset_after_fork

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Engine

    from tidegate.proxy.nodes.addresses import Address
    from tidegate.proxy.nodes.engines import ConnectArguments
    from tidegate.proxy.settings import RoutingSettings
    from tidegate.routing.replicas.topology import Node, Topology


class ReplicaEngines:
    """Keep an engine for each node that is read from, and its session makers.

    Args:
        addresses: the servers by name, as they are now; whoever removes one calls :meth:`drop` after that.
        topology: the nodes, as they are now.
        routing: times and bounds.
        like: what the primary's engine gives its driver.
    """

    def __init__(
        self, addresses: Mapping[str, Address], topology: Topology, routing: RoutingSettings, like: ConnectArguments
    ) -> None:
        self._addresses = addresses
        self._topology = topology
        self._routing = routing
        self._like = like
        self._lock = threading.Lock()
        self._engines: dict[str, Engine] = {}
        self._leaving: dict[Node, Engine] = {}
        self._makers: dict[str, WeakKeyDictionary[sessionmaker[Session], sessionmaker[Session] | None]] = {}
        reset_after_fork(self._forked)

    def session_maker(self, node: Node, home: sessionmaker[Session]) -> sessionmaker[Session] | None:
        """Return a session maker like *home* that reads on *node*.

        Returns:
            The maker. None: the node was removed, or the sessions of *home* choose by themselves where they read.
        """
        makers = self._makers.get(node.name)
        if makers is None:
            makers = self._makers.setdefault(node.name, WeakKeyDictionary())
        if home in makers:
            return makers[home]
        engine = self._engine_of(node)
        if engine is None:
            return None
        made = makers[home] = _made_like(home, engine)
        if node not in self._topology.nodes:  # it was removed meanwhile, and another node may get its name
            self._makers.pop(node.name, None)
        return made

    def _engine_of(self, node: Node) -> Engine | None:
        """Return the engine for reads on *node*, made at its first read; None if the node was removed."""
        with self._lock:
            engine = self._engines.get(node.name)
            address = self._addresses.get(node.name)
            if engine is None and address is not None:
                engine = replica_engine(address.url, address.pool, self._routing, self._like)
                self._engines[node.name] = engine
            return engine

    def drop(self, node: Node) -> None:
        """Close the connections for reads on a node; those in use are closed when the last read leaves."""
        with self._lock:
            self._makers.pop(node.name, None)
            engine = self._engines.pop(node.name, None)
            if engine is not None and node.outstanding:
                self._leaving[node], engine = engine, None
        if engine is not None:
            engine.dispose()

    def left(self, node: Node) -> None:
        """Close what :meth:`drop` left for a read that has ended, if it was the last one; call it after it has ended.

        The lock is taken before the look, or the engine would stay open:

            drop: outstanding is 1 |                            | keeps the engine
            read:                  | ends; nothing is kept yet  |
        """
        with self._lock:
            engine = None if node.outstanding else self._leaving.pop(node, None)
        if engine is not None:
            engine.dispose()

    def close(self) -> None:
        """Close all connections."""
        for engine in (*self._engines.values(), *self._leaving.values()):
            engine.dispose()

    def _forked(self) -> None:
        self._lock = threading.Lock()  # a new one: the parent's lock may have been held at the fork


def _made_like(home: sessionmaker[Session], engine: Engine) -> sessionmaker[Session] | None:
    bind: Any = home.kw.get("bind")
    if home.class_.get_bind is not Session.get_bind or home.kw.get("binds") or bind is None:
        return None
    if options := bind.get_execution_options():
        engine = engine.execution_options(**options)
    return sessionmaker(class_=home.class_, **{**home.kw, "bind": engine})
