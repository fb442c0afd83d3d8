"""The database servers of a small world: primaries, replicas, and the transactions of each.

A node's value is the set of commits it shows. A commit is first in the log, where replicas may replay it, and visible
on the primary a step later, as in PostgreSQL. The record of the history is in the log too, as it is a row: a replica
shows it up to where it has replayed, and a promotion may lose it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from simulation.scheduler import Died

from tidegate.cache.root_recovery import Ended, OldestRunning, Transaction
from tidegate.position import History, HistoryRecord, Origin, Position
from tidegate.proxy.database import history_record
from tidegate.proxy.database.histories import Histories
from tidegate.proxy.database.history_record import Asked

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from simulation.scheduler import Scheduler

    from tidegate.cache.store import Store
    from tidegate.position import AskedFor
    from tidegate.proxy.database.history_record import Here

Value = frozenset[int]
Action: TypeAlias = "tuple[str, Callable[[], None]]"
DATABASE = "d1"


class CommitLostError(Exception):
    """The connection broke during COMMIT."""


@dataclass(eq=False)
class Node:
    """One database server: how much of the log it shows, and on which timeline; as a primary, its transactions."""

    name: str
    log: list[Any]
    shown: int = 0
    timeline: int = 1
    life: int = 0
    started: str = "0"
    counts_since: str = "0"
    transactions: dict[str, str] = field(default_factory=dict)
    next_xid: int = 101
    successor: Node | None = None
    """What it was started anew as; None: it runs."""

    @property
    def now(self) -> Node:
        return self if self.successor is None else self.successor.now

    @property
    def value(self) -> Value:
        return frozenset([record for record in self.log[: self.shown] if type(record) is int])

    @property
    def written(self) -> Value:
        """All commits that are in its log, visible or not."""
        return frozenset([record for record in self.log if type(record) is int])

    @property
    def record(self) -> str | None:
        log = self.log  # without a generator or a copy: this is asked more often than all else
        for at in range(self.shown - 1, -1, -1):
            if type(log[at]) is str:
                return str(log[at])
        return None

    @property
    def position(self) -> Position:
        return Position(self.timeline, self.shown)

    @property
    def here(self) -> Here:
        """What a question to a primary brings of its history, with the end of its log."""
        return _here(history_record.here_of, len(self.log), self.timeline, self.started, self.record)

    @property
    def origin(self) -> Origin | None:
        history = self.here.history
        return None if history is None else Origin(0, history, "")

    def show_all(self) -> None:
        self.shown = len(self.log)

    def replay(self) -> None:
        self.shown += 1

    def begin(self) -> str:
        xid, self.next_xid = str(self.next_xid), self.next_xid + 1
        self.transactions[xid] = "in progress"
        return xid

    def ended(self, xid: str, status: str) -> None:
        """A transaction has ended, if it had not."""
        if self.transactions.get(xid) == "in progress":
            self.transactions[xid] = status

    def oldest_running(self) -> int:
        running = [int(xid) for xid, status in self.transactions.items() if status == "in progress"]
        return min(running, default=self.next_xid)


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
        first = HistoryRecord(History(1, "aa"), 1, "0", "0", DATABASE).text()
        self.primary = node(f"{name}primary", [first], 1)
        # No two servers are started at one moment: by that they are told apart.
        self.replicas = [
            node(f"{name}replica{i}", self.primary.log, 1, started=str(100 * (i + 1))) for i in range(replicas)
        ]
        self.tick = 0

    def promote(self, node: Node) -> None:
        """Promote a replica; the others follow it."""
        self._promote(node, "promote")

    def next_tick(self) -> int:
        """A moment that is later than all before."""
        self.tick += 1
        return self.tick

    def node_actions(self) -> list[Action]:
        """What may happen to the servers between the steps of the actors."""
        possible: list[Action] = []
        for node in self.replicas:
            if node.shown < len(node.log):
                possible.append((f"{node.name} replays", node.replay))
            if node.shown > 1 and self.faults.get("regress", 0):
                possible.append((f"{node.name} restarts behind", lambda n=node: self._regress(n)))  # type: ignore[misc]
            possible += [
                (f"{node.name}: {fault}", lambda n=node, f=fault: self._promote(n, f))  # type: ignore[misc]
                for fault in ("promote", "promote beside")
                if self.faults.get(fault, 0)
            ]
        if self.faults.get("restore", 0):
            possible.append(("the primary's volume goes back", self._restore))
        if self.faults.get("crash", 0):
            possible.append(("the primary gets over a crash", self._crash))
        if self.faults.get("renew", 0):
            possible.append(("somebody makes a new history on the primary", self._renew))
        return possible

    def _regress(self, node: Node) -> None:
        self.faults["regress"] -= 1
        node.shown -= 1
        node.life += 1

    def _promote(self, node: Node, fault: str) -> None:
        """Asynchronous: what it had not replayed is lost, and the old primary goes on answering.

        With "promote beside" the other replicas do not follow it: the next one begins a timeline of the same number.
        """
        self.faults[fault] = self.faults.get(fault, 0) - 1
        self.replicas.remove(node)
        old = self.primary
        node.log = node.log[: node.shown]
        node.timeline += 1
        # The ids that were given out are known by the log, more or less; so the same may be given out on both.
        node.next_xid, node.transactions = old.next_xid, dict.fromkeys(old.transactions, "aborted")
        if fault == "promote":
            for other in self.replicas:
                other.log, other.shown, other.life = node.log, min(other.shown, node.shown), other.life + 1
                other.timeline = node.timeline
        self.primary = node

    def _restore(self) -> None:
        """The server goes down, and comes back with an older copy of its data; its connections end."""
        self.faults["restore"] -= 1
        self.primary.successor = self._restarted(self.primary)
        self.primary = self.primary.successor

    def _crash(self) -> None:
        """The server loses its last record and its connections; it has the same start time."""
        self.faults["crash"] -= 1
        restarted = self._restarted(self.primary)
        restarted.started, restarted.counts_since = self.primary.started, f"{self.primary.life + 1}"
        self.primary.successor = restarted
        self.primary = restarted

    def _renew(self) -> None:
        """As an operator may, or a gate that has found the log to go back; the server runs on."""
        self.faults["renew"] -= 1
        record = HistoryRecord.of_text(self.primary.record)
        if record is not None:
            newer = History(record.history.ordinal + 1, "ff")
            self.primary.log.append(record._replace(history=newer, timeline=self.primary.timeline).text())
            self.primary.show_all()

    def _restarted(self, node: Node) -> Node:
        kept = max(1, len(node.log) - 1)
        log = node.log[:kept]
        return type(node)(node.name, log, len(log), node.timeline, node.life + 1, f"{int(node.started) + 1}")


class _Postgres:
    name = "postgresql"


_POSTGRES: Any = _Postgres()


class SimHistories(Histories):
    """What one process knows of the history, by the real rules; the node is asked in place of a connection.

    Args:
        store: where histories are named.
        first: what it knows as the run begins.
    """

    def __init__(self, store: Store, shard: str, first: Node) -> None:
        super().__init__(_POSTGRES, shard)
        self.join(DATABASE)
        self.use(store)
        self.note(first.here)

    def _warn(self, what: str) -> None:
        """Nothing: nobody reads it."""

    def _ask_once(self, raw: Any) -> Any:
        node: Node = raw.node
        standby = False
        return Asked(standby, *_row(node), node.record, f"{DATABASE} here", "here", node.counts_since)

    def _write(self, raw: Any, instead_of: str | None, text: str) -> str | None:
        node: Node = raw.node
        if node.record == instead_of:
            node.log.append(text)
            node.show_all()
        return node.record


@lru_cache(maxsize=1_000)
def _here(here_of: Callable[[Any], Here], end: int, timeline: int, started: str, record: str | None) -> Here:
    """What *here_of*, which a test may have replaced, makes of a row: schedules bring the same ones again and again."""
    return here_of((*_columns(end, timeline, started), record))


def _row(node: Node) -> tuple[str, str, str]:
    return _columns(len(node.log), node.timeline, node.started)


def _columns(end: int, timeline: int, started: str) -> tuple[str, str, str]:
    return f"0/{end:X}", f"{timeline:08X}", started


@dataclass
class Raw:
    """What stands for a driver's connection, on which no transaction is open."""

    node: Node
    transaction_status: int = 0

    @property
    def info(self) -> Raw:
        return self

    def rollback(self) -> None:
        pass


class SimPrimary:
    """What the root recovery asks; each answer is one step.

    Args:
        servers: the servers.
        histories: what this process knows.
        at: which node this process takes for the primary.
    """

    def __init__(self, servers: Servers, histories: SimHistories, at: Callable[[], Node] | None = None) -> None:
        self._servers = servers
        self._histories = histories
        self._at = at or (lambda: servers.primary)

    def asked(self, _tenant: str) -> AskedFor:
        return self._histories.asked

    def origin(self, _tenant: str) -> Origin | None:
        history = self.here().history
        return None if history is None else Origin(0, history, "")

    def here(self) -> Here:
        self._servers.scheduler.step("asks the primary which history it has")
        found = self._histories.ask(Raw(self._at()))
        assert found is not None
        return found

    def transaction(self, _tenant: str) -> Transaction:
        self._servers.scheduler.step("asks the primary for a transaction id")
        node = self._at()
        xid = node.begin()
        node.ended(xid, "committed")
        return Transaction(xid, *self._noted(node))

    def oldest_running(self, _tenant: str) -> OldestRunning:
        self._servers.scheduler.step("asks the primary for the oldest transaction")
        node = self._at()
        oldest = node.oldest_running()
        self._servers.scheduler.step("asks the primary for its position")
        return OldestRunning(oldest, *self._noted(node))

    def ended(self, _tenant: str, xids: Collection[str]) -> Ended:
        self._servers.scheduler.step("asks the primary how transactions ended")
        node = self._at()
        ended = [xid for xid in xids if node.transactions.get(xid) != "in progress"]
        self._servers.scheduler.step("asks the primary for its position")
        return Ended(ended, *self._noted(node))

    def renew(self, _tenant: str, than: History) -> None:
        self._servers.scheduler.step("makes a newer history")
        self._histories.make_newer(Raw(self._at()), than)

    def _noted(self, node: Node) -> tuple[Position, History | None]:
        return node.here.position, self._histories.note(node.here)


class SimConnection:
    """A writer's connection to what was the primary when it began."""

    def __init__(self, servers: Servers, at: Callable[[], Node] | None = None) -> None:
        self.servers = servers
        self._at = at or (lambda: servers.primary)
        self.node = self._at()
        self.xid = self.node.begin()

    def transaction_id(self) -> Transaction:
        self.servers.scheduler.step("asks for its transaction id")
        return Transaction(self.xid, self.node.here.position, self.node.here.history)

    def position(self) -> tuple[Position, History | None]:
        self.servers.scheduler.step("asks for its position")
        return self.node.here.position, self.node.here.history

    def verify_ownership(self, _ownerships: Any) -> None:
        raise AssertionError("there is one shard here")

    def execute(self, _statement: object, _parameters: Any = None) -> Any:
        raise AssertionError("there is no outbox here")

    def end(self, status: str) -> None:
        self.node.ended(self.xid, status)

    def is_alive(self) -> bool:
        """Whether it is still open: a process that follows another primary cuts what it has to the old one."""
        return self.node is self._at()

    def commit(self, number: int) -> None:
        servers = self.servers
        scheduler, faults = servers.scheduler, servers.faults
        scheduler.step("sends COMMIT")
        kind = scheduler.fault(["dies before commit", "commit refused"], faults)
        if kind or not self.is_alive():
            self.end("aborted")
            if kind == "dies before commit":
                raise Died
            raise CommitLostError
        self.node.log.append(number)
        scheduler.step("commit is in the log, not yet visible")
        if not self.is_alive():
            raise CommitLostError  # promoted meanwhile: it may have been replayed, or be lost
        self.node.show_all()
        self.end("committed")
        kind = scheduler.fault(["dies after commit", "commit answer lost"], faults)
        if kind == "dies after commit":
            raise Died
        if kind:
            raise CommitLostError
