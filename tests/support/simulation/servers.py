"""The database servers of a small world: a primary, its replicas, and the transactions of that primary.

A node's value is the set of commits it shows. A commit is first in the log, where replicas may replay it, and visible
on the primary a step later, as in PostgreSQL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from simulation.scheduler import Died

from tidegate.position import Origin, Position

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from simulation.scheduler import Scheduler

Value = frozenset[int]
Action: TypeAlias = "tuple[str, Callable[[], None]]"


class CommitLostError(Exception):
    """The connection broke during COMMIT."""


@dataclass
class Node:
    """One database server: how much of the log it shows, and on which timeline."""

    name: str
    log: list[Any]
    shown: int = 0
    timeline: int = 1
    life: int = 0

    @property
    def value(self) -> Value:
        return frozenset(self.log[: self.shown])

    @property
    def position(self) -> Position:
        return Position(self.timeline, self.shown)

    @property
    def origin(self) -> Origin:
        return Origin(0, self.timeline, "")

    def show_all(self) -> None:
        self.shown = len(self.log)

    def replay(self) -> None:
        self.shown += 1


class Servers:
    """The servers of one shard.

    Args:
        scheduler: of the run.
        faults: how often each fault may still strike.
        replicas: how many.
        name: of the shard, to tell its nodes' names apart.
        node: what its servers are.
    """

    def __init__(
        self, scheduler: Scheduler, faults: dict[str, int], replicas: int, name: str = "", node: type[Node] = Node
    ) -> None:
        self.scheduler = scheduler
        self.faults = faults
        self.log: list[Any] = []
        self.primary = node(f"{name}primary", self.log)
        self.replicas = [node(f"{name}replica{i}", self.log) for i in range(replicas)]
        self.transactions: dict[str, str] = {}
        self.tick = 0
        self._xids = 100

    def next_tick(self) -> int:
        """A moment that is later than all before."""
        self.tick += 1
        return self.tick

    def next_xid(self) -> str:
        self._xids += 1
        self.transactions[str(self._xids)] = "in progress"
        return str(self._xids)

    def oldest_running(self) -> int:
        running = [int(xid) for xid, status in self.transactions.items() if status == "in progress"]
        return min(running, default=self._xids + 1)

    def ended(self, xid: str, status: str) -> None:
        """A transaction has ended, if it had not."""
        if self.transactions[xid] == "in progress":
            self.transactions[xid] = status

    def node_actions(self) -> list[Action]:
        """What may happen to the servers between the steps of the actors."""
        possible: list[Action] = []
        for node in self.replicas:
            if node.shown < len(node.log):
                possible.append((f"{node.name} replays", node.replay))
            if node.shown and self.faults.get("regress", 0):
                possible.append((f"{node.name} restarts behind", lambda n=node: self._regress(n)))  # type: ignore[misc]
            if self.faults.get("promote", 0):
                possible.append((f"{node.name} is promoted", lambda n=node: self._promote(n)))  # type: ignore[misc]
        return possible

    def _regress(self, node: Node) -> None:
        self.faults["regress"] -= 1
        node.shown -= 1
        node.life += 1

    def _promote(self, node: Node) -> None:
        """Asynchronous: what it had not replayed is lost, and the old primary goes on answering."""
        self.faults["promote"] -= 1
        self.replicas.remove(node)
        node.log = self.log = node.log[: node.shown]
        node.timeline = self.primary.timeline + 1
        for other in self.replicas:
            other.log, other.shown, other.life = node.log, min(other.shown, node.shown), other.life + 1
        for xid in self.transactions:
            self.ended(xid, "aborted")
        self.primary = node


class SimPrimary:
    """What the root recovery asks; each answer is one step."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    def epoch(self, _tenant: str) -> int:
        return 0

    def origin(self, _tenant: str) -> Origin:
        return self._servers.primary.origin

    def transaction(self, _tenant: str) -> tuple[str, Position]:
        self._servers.scheduler.step("asks the primary for a transaction id")
        xid = self._servers.next_xid()
        self._servers.ended(xid, "committed")
        return xid, self._end()

    def oldest_running(self, _tenant: str) -> tuple[int, Position]:
        self._servers.scheduler.step("asks the primary for the oldest transaction")
        oldest = self._servers.oldest_running()
        self._servers.scheduler.step("asks the primary for its position")
        return oldest, self._end()

    def ended(self, _tenant: str, xids: Collection[str]) -> tuple[Collection[str], Position]:
        self._servers.scheduler.step("asks the primary how transactions ended")
        ended = [xid for xid in xids if self._servers.transactions.get(xid) != "in progress"]
        self._servers.scheduler.step("asks the primary for its position")
        return ended, self._end()

    def _end(self) -> Position:
        return Position(self._servers.primary.timeline, len(self._servers.log))


class SimConnection:
    """A writer's connection to what was the primary when it began."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.node = servers.primary
        self.xid = servers.next_xid()

    def transaction_id(self) -> tuple[str, Position]:
        self.servers.scheduler.step("asks for its transaction id")
        return self.xid, Position(self.node.timeline, len(self.node.log))

    def position(self) -> Position:
        self.servers.scheduler.step("asks for its position")
        return Position(self.node.timeline, len(self.node.log))

    def verify_ownership(self, _ownerships: Any) -> None:
        raise AssertionError("there is one shard here")

    def execute(self, _statement: object, _parameters: Any = None) -> Any:
        raise AssertionError("there is no outbox here")

    def end(self, status: str) -> None:
        self.servers.ended(self.xid, status)

    def commit(self, number: int) -> None:
        servers = self.servers
        scheduler, faults = servers.scheduler, servers.faults
        scheduler.step("sends COMMIT")
        kind = scheduler.fault(["dies before commit", "commit refused"], faults)
        if kind or self.node is not servers.primary:
            self.end("aborted")
            if kind == "dies before commit":
                raise Died
            raise CommitLostError
        self.node.log.append(number)
        scheduler.step("commit is in the log, not yet visible")
        if self.node is not servers.primary:
            raise CommitLostError  # promoted meanwhile: it may have been replayed, or be lost
        self.node.show_all()
        self.end("committed")
        kind = scheduler.fault(["dies after commit", "commit answer lost"], faults)
        if kind == "dies after commit":
            raise Died
        if kind:
            raise CommitLostError
