"""How a process of the small world finds a replica: by the real choice and the real check of connections.

A monitor's question is one step, whenever the schedule lets it come; what it finds may be old when it is used. The
pool is one connection to each replica, opened anew when it broke: newer than what the monitor knows, then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from tidegate.cache.request import Answer
from tidegate.position import HistoryRecord, Origin, Position
from tidegate.routing.replicas.attempt import _OPENED, _STATE, Attempt, ConnectionLost, NotReached
from tidegate.routing.replicas.choose import ReplicaRequirement, choose
from tidegate.routing.replicas.topology import Node as KnownNode
from tidegate.routing.replicas.topology import ServerId, Topology, View

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulation.servers import Node, Servers

_FOR_EVER: Final = float("inf")


class BrokenError(Exception):
    """The server has restarted since the connection was opened."""


@dataclass
class Line:
    """A connection, as far as an attempt looks at it."""

    node: Node
    world: Servers
    life: int
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def connection(self) -> Line:
        return self

    @property
    def dbapi_connection(self) -> Driver:
        return Driver(self)

    def invalidate(self, error: BaseException) -> None:
        # A mistake of this stand-in would otherwise be a server that never answers, and no rule of it would be needed.
        assert isinstance(error, BrokenError), error
        self.life = -1

    def use(self, what: str) -> None:
        self.world.scheduler.step(what)
        if self.life != self.node.life:
            raise BrokenError


@dataclass
class Driver:
    """The driver's connection, which is its own cursor and its own info; no transaction is open on it."""

    line: Line
    transaction_status: int = 0

    @property
    def info(self) -> Driver:
        return self

    def cursor(self) -> Driver:
        return self

    def execute(self, _sql: str) -> None:
        self.line.use(f"asks {self.line.node.name} where it is")

    def fetchone(self) -> tuple[bool, str, str, str | None]:
        node = self.line.node
        return node in self.line.world.replicas, f"0/{node.shown:X}", "read committed", node.record

    def close(self) -> None:
        pass

    def rollback(self) -> None:
        pass


class SimRouter:
    """One process's.

    Args:
        world: its servers.
        name: of the process.
        begin: called with the connection before it is read from.
    """

    def __init__(self, world: Servers, name: str, begin: Callable[[Line], None] = lambda _line: None) -> None:
        self._world = world
        self._name = name
        self._begin = begin
        self._servers = {node.name: node for node in (world.primary, *world.replicas)}
        self._lines: dict[str, Line] = {}
        self.topology = Topology([KnownNode(name, max_lag_s=_FOR_EVER) for name in self._servers])
        for node in self.topology.nodes:
            self._ask(node)

    def actions(self) -> list[tuple[str, Callable[[], None]]]:
        """Questions that would find something new."""
        if len(self._servers) == 1:
            return []
        return [
            (f"{self._name} asks {node.name}", lambda n=node: self._ask(n))  # type: ignore[misc]
            for node in self.topology.nodes
            if node.view is not None and self._has_moved(node)
        ]

    def _has_moved(self, node: KnownNode) -> bool:
        server, view = self._servers[node.name], node.view
        if view is None or node is self.topology.primary:
            return False
        position = view.position
        return (
            (position.timeline, position.lsn) != (server.timeline, server.shown)
            or view.standby is not (server in self._world.replicas)
            or view.record != _record_of(server.record)
        )

    def _ask(self, node: KnownNode) -> None:
        self.topology.observed(node, self._view(self._servers[node.name]))

    def _view(self, server: Node) -> View:
        # A standby that recovers from a crash has the same start time as before.
        started, standby = ServerId("1", server.started), server in self._world.replicas
        return View(self._world.next_tick(), started, standby, server.position, record=_record_of(server.record))

    def read(self, position: Position) -> Answer | None:
        """What a replica that has reached *position* answers; None if none does."""
        passed: list[KnownNode] = []
        wanted = ReplicaRequirement(position, _FOR_EVER)
        while (node := choose(self.topology, wanted, self._world.tick, self._chance, passed)) is not None:
            if self._world.scheduler.choices.choose(2):  # all its connections are in use
                return None
            try:
                return self._on_replica(node, wanted)
            except (BrokenError, ConnectionLost):
                self._lines.pop(node.name, None)  # another reader of this process may have dropped it already
                passed.append(node)
            except NotReached:
                passed.append(node)
        return None

    def _chance(self) -> float:
        return self._world.scheduler.choices.choose(2) / 2

    def _on_replica(self, node: KnownNode, wanted: ReplicaRequirement) -> Answer:
        view = node.view
        assert view is not None
        line = self._line(node.name)
        attempt = Attempt(node, view, wanted.position, 0.0)
        attempt.check(line)  # type: ignore[arg-type]
        self._begin(line)
        line.use(f"reads {node.name}")
        return Answer(line.node.value, attempt.history and Origin(0, attempt.history, ""))

    def _line(self, name: str) -> Line:
        line = self._lines.get(name)
        if line is None:
            server = self._servers[name]
            self._world.scheduler.step(f"connects to {name}")
            line = self._lines.setdefault(name, Line(server, self._world, server.life))
            line.info.setdefault(_OPENED, self._view(server))
            line.info[_STATE] = ""
        return line


_record_of: Final = lru_cache(maxsize=1_000)(HistoryRecord.of_text)
