"""The engines for reads on the nodes of one shard, and session makers on them: made at a node's first read."""

from __future__ import annotations

import logging
import threading
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from tidegate.fork_hooks import reset_after_fork
from tidegate.proxy.database.sibling_engine import all_listeners, inherit, listeners_of, root_of
from tidegate.proxy.nodes.engines import replica_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tidegate.proxy.nodes.addresses import Address
    from tidegate.proxy.nodes.connecting import Connecting
    from tidegate.proxy.settings import RoutingSettings
    from tidegate.routing.replicas.topology import Node, Topology

_log: Final = logging.getLogger(__name__)


class _Made(NamedTuple):
    """What was made for a node, and everything that listened to its model then.

    Args:
        sessions: a session maker for reads on the node.
        listened: as :func:`tidegate.proxy.database.sibling_engine.all_listeners` gives it.
    """

    sessions: sessionmaker[Session]
    listened: list[tuple[Any, ...]]


class ReplicaEngines:
    """Keep an engine for each node that is read from, and its session makers.

    Args:
        addresses: the servers by name, as they are now; whoever removes one calls :meth:`drop` after that.
        topology: the nodes, as they are now.
        routing: times and bounds.
        connecting: how the primary's engine connects.
        state: returns the name of the table of named facts.
    """

    def __init__(
        self,
        addresses: Mapping[str, Address],
        topology: Topology,
        routing: RoutingSettings,
        connecting: Connecting,
        state: Callable[[], str],
    ) -> None:
        self._state = state
        self._addresses = addresses
        self._topology = topology
        self._routing = routing
        self._connecting = connecting
        self._lock = threading.Lock()
        self._engines: dict[str, Engine] = {}
        self._listened: dict[str, list[tuple[Any, ...]]] = {}
        self._said: WeakSet[sessionmaker[Session]] = WeakSet()
        self._leaving: dict[Node, list[Engine]] = {}
        self._makers: dict[str, WeakKeyDictionary[sessionmaker[Session], _Made]] = {}
        reset_after_fork(self._forked)

    def session_maker(self, node: Node, home: sessionmaker[Session]) -> sessionmaker[Session] | None:
        """Return a session maker like *home* that reads on *node*.

        Returns:
            The maker. None: the node was removed, or the sessions of *home* choose by themselves where they read.
            That is said once, in the log.
        """
        bind = _bind_of(home, self._connecting.engine)
        if bind is None:
            self._say_not_read(home)
            return None
        listened = all_listeners(bind)
        makers = self._makers.get(node.name)
        found = None if makers is None else makers.get(home)
        if found is not None and found.listened == listened:
            return found.sessions
        engine = self._engine_of(node)
        if engine is None:
            return None
        sessions = _made_like(home, bind, engine)
        self._makers.setdefault(node.name, WeakKeyDictionary())[home] = _Made(sessions, listened)
        if node not in self._topology.nodes:  # it was removed meanwhile, and another node may get its name
            self._makers.pop(node.name, None)
        return sessions

    def _engine_of(self, node: Node) -> Engine | None:
        """Return the engine for reads on *node*; None if the node was removed.

        It is made at the first read, and made anew once the program has added or removed a listener: that may say which
        rows are read.
        """
        stale = None
        with self._lock:
            listened = all_listeners(root_of(self._connecting.engine))
            engine = self._engines.get(node.name)
            if engine is not None and self._listened[node.name] != listened:
                stale = self._popped(node)
                engine = None
            address = self._addresses.get(node.name)
            if engine is None and address is not None:
                engine = replica_engine(address, self._routing, self._connecting, self._state)
                self._engines[node.name], self._listened[node.name] = engine, listened
        if stale is not None:
            stale.dispose()
        return engine

    def drop(self, node: Node) -> None:
        """Close the connections for reads on a node; those in use are closed when the last read leaves."""
        with self._lock:
            engine = self._popped(node)
        if engine is not None:
            engine.dispose()

    def _popped(self, node: Node) -> Engine | None:
        """Forget the engine of *node*; return it, if no read uses it any more."""
        self._makers.pop(node.name, None)
        engine = self._engines.pop(node.name, None)
        if engine is not None and node.outstanding:
            self._leaving.setdefault(node, []).append(engine)
            return None
        return engine

    def left(self, node: Node) -> None:
        """Close what :meth:`drop` left for a read that has ended, if it was the last one; call it after it has ended.

        The lock is taken before the look, or the engine would stay open:

            drop: outstanding is 1 |                            | keeps the engine
            read:                  | ends; nothing is kept yet  |
        """
        with self._lock:
            engines = [] if node.outstanding else self._leaving.pop(node, [])
        for engine in engines:
            engine.dispose()

    def close(self) -> None:
        """Close all connections."""
        for engine in (*self._engines.values(), *chain.from_iterable(self._leaving.values())):
            engine.dispose()

    def _say_not_read(self, home: sessionmaker[Session]) -> None:
        if home not in self._said:
            self._said.add(home)
            _log.warning(
                "reads of %r stay on the primary: its sessions choose their connections by themselves (get_bind, "
                "binds), or it is not bound to the gate's engine",
                home,
            )

    def _forked(self) -> None:
        self._lock = threading.Lock()  # a new one: the parent's lock may have been held at the fork


def _bind_of(home: sessionmaker[Session], program: Engine) -> Engine | None:
    """Return the engine of the sessions of *home*; None if they use others, or nobody can tell which."""
    bind: Any = home.kw.get("bind")
    chooses = home.class_.get_bind is not Session.get_bind or home.kw.get("binds")
    return None if chooses or not isinstance(bind, Engine) or bind.pool is not program.pool else bind


def _made_like(home: sessionmaker[Session], bind: Engine, engine: Engine) -> sessionmaker[Session]:
    root = root_of(bind)
    if bind is not root or bind.get_execution_options() != engine.get_execution_options():
        engine = engine.execution_options(**bind.get_execution_options())
        known = listeners_of(root)
        inherit(engine, [found for found in listeners_of(bind) if found not in known])
    return sessionmaker(class_=home.class_, **{**home.kw, "bind": engine})
