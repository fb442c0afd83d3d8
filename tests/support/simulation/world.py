"""A small world around the real read and commit paths: one row, a primary, replicas, and a store, all with faults.

A node's value is the set of commits it shows. A commit is first in the log, where replicas may replay it, and visible
on the primary a step later, as in PostgreSQL. A read is stale when what it returns lacks a commit that was visible on
the primary as it began.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from simulation.router import SimRouter
from simulation.scheduler import Died, Scheduler

from tidegate.cache.keeper import Keeper
from tidegate.cache.lease import Flights
from tidegate.cache.marks import Root, State
from tidegate.cache.memory_store import MemoryStore
from tidegate.cache.read_through import ReadThrough
from tidegate.cache.request import Answer, Limits
from tidegate.cache.store import Change, StoreUnavailable
from tidegate.proxy.commit import Commit
from tidegate.repositories.position import Origin, Position

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from tidegate.cache.request import Need
    from tidegate.cache.store import Hit

TENANT, ENTRY, GUARD, ANSWER = "tenant", "entry", "guard", "answer"
Value = frozenset[int]


@dataclass(frozen=True)
class Shape:
    """How large a world is, and how often each fault may strike."""

    writers: int = 1
    readers: int = 2
    reads: int = 1
    processes: int = 2
    faults: Mapping[str, int] = field(default_factory=dict)
    replicas: int = 1
    rooted: bool = True


class CommitLostError(Exception):
    """The connection broke during COMMIT."""


@dataclass
class Node:
    """One database server: how much of the log it shows, and on which timeline."""

    name: str
    log: list[int]
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


class SimStore(MemoryStore):
    """The store, with a switch point before each call, and answers that get lost."""

    def __init__(self, world: World) -> None:
        super().__init__(now_ms=lambda: world.now_ms)
        self.world = world

    def __getattribute__(self, name: str) -> object:
        found = super().__getattribute__(name)
        if name not in _STORE_CALLS:
            return found
        world: World = super().__getattribute__("world")

        def call(*args: object, **kwargs: object) -> object:
            world.scheduler.step(name)
            kind = world.scheduler.fault(["store away", "store answer lost"], world.faults)
            if kind == "store away":
                raise StoreUnavailable(kind)
            answer = found(*args, **kwargs)
            if kind == "store answer lost":
                raise StoreUnavailable(kind)
            return answer

        return call


_STORE_CALLS = {
    *("lookup", "lease", "release", "fill", "check", "make_root", "complete_root", "end_quarantine"),
    *("open", "stamp", "resolve", "bump"),
}


class World:
    """Everything one run needs."""

    def __init__(self, shape: Shape, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.faults = dict(shape.faults)
        self.now_ms = 1_000
        self.log: list[int] = []
        self.primary = Node("primary", self.log)
        self.replicas = [Node(f"replica{i}", self.log) for i in range(shape.replicas)]
        self.transactions: dict[str, str] = {}
        self.stale: list[str] = []
        self.reads = 0
        self.tick = 0
        self._nonces = 0
        self._xids = 100
        self.outbox: list[Change] = []
        self.store = SimStore(self)
        if shape.rooted:
            self.store.roots[TENANT] = Root("first", self.primary.origin, State.CLEAN)
        self.keeper = Keeper(self.store, SimPrimary(self), nonce=self.nonce, grace_ms=0)
        self.routers = [SimRouter(self, f"process {i}") for i in range(shape.processes)]
        processes = [self._process() for _ in range(shape.processes)]
        for i in range(shape.writers):
            scheduler.add(f"w{i}", SimWriter(self, i).run)
        for i in range(shape.readers):
            at = i % len(processes)
            scheduler.add(f"r{i}", SimReader(self, processes[at], self.routers[at], shape.reads).run)

    def _process(self) -> ReadThrough:
        world = self

        class SimSignal:
            def __init__(self) -> None:
                self._is_set = False

            def set(self) -> None:
                self._is_set = True

            def wait(self, timeout: float) -> bool:
                world.sleep(timeout)
                return self._is_set

        limits = Limits(lease_ms=1_000, wait_ms=3, poll_ms=1, beta=0)
        return ReadThrough(
            self.store,
            self.keeper,
            flights=Flights(SimSignal),
            limits=limits,
            sleep=self.sleep,
            now_ms=lambda: self.now_ms,
        )

    def sleep(self, _seconds: float) -> None:
        self.scheduler.step("waits")
        self.now_ms += 1

    def next_tick(self) -> int:
        """A moment that is later than all before."""
        self.tick += 1
        return self.tick

    def nonce(self) -> str:
        self._nonces += 1
        return f"n{self._nonces}"

    def next_xid(self) -> str:
        self._xids += 1
        self.transactions[str(self._xids)] = "in progress"
        return str(self._xids)

    def oldest_running(self) -> int:
        running = [int(xid) for xid, status in self.transactions.items() if status == "in progress"]
        return min(running, default=self._xids + 1)

    def actions(self) -> list[tuple[str, Callable[[], None]]]:
        """What may happen between the steps of the actors."""
        possible: list[tuple[str, Callable[[], None]]] = []
        for node in self.replicas:
            if node.shown < len(node.log):
                possible.append((f"{node.name} replays", lambda n=node: _replay(n)))  # type: ignore[misc]
            if node.shown and self.faults.get("regress", 0):
                possible.append((f"{node.name} restarts behind", lambda n=node: self._regress(n)))  # type: ignore[misc]
            if self.faults.get("promote", 0):
                possible.append((f"{node.name} is promoted", lambda n=node: self._promote(n)))  # type: ignore[misc]
        possible += [action for router in self.routers for action in router.actions()]
        root = self.store.roots.get(TENANT)
        if root is not None and self.faults.get("lose", 0):
            possible.append(("the marks are lost", self._lose))
        if root is not None and self.faults.get("drop", 0):
            possible += [
                (f"{tag} is dropped", lambda t=tag: self._drop(t))  # type: ignore[misc]
                for tag, mark in root.tags.items()
                if not mark.intents
            ]
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
        for xid, status in self.transactions.items():
            if status == "in progress":
                self.transactions[xid] = "aborted"
        self.primary = node

    def _lose(self) -> None:
        self.faults["lose"] -= 1
        self.store.lose_marks(TENANT)

    def _drop(self, tag: str) -> None:
        self.faults["drop"] -= 1
        self.store.drop(TENANT, tag)


def _replay(node: Node) -> None:
    node.shown += 1


class SimPrimary:
    """What the keeper asks; each answer is one step."""

    def __init__(self, world: World) -> None:
        self._world = world

    def epoch(self, _tenant: str) -> int:
        return 0

    def origin(self, _tenant: str) -> Origin:
        return self._world.primary.origin

    def transaction(self, _tenant: str) -> tuple[str, Position]:
        self._world.scheduler.step("asks the primary for a transaction id")
        xid = self._world.next_xid()
        self._world.transactions[xid] = "committed"
        return xid, self._end()

    def oldest_running(self, _tenant: str) -> tuple[int, Position]:
        self._world.scheduler.step("asks the primary for the oldest transaction")
        oldest = self._world.oldest_running()
        self._world.scheduler.step("asks the primary for its position")
        return oldest, self._end()

    def ended(self, _tenant: str, xids: Collection[str]) -> tuple[Collection[str], Position]:
        self._world.scheduler.step("asks the primary how transactions ended")
        ended = [xid for xid in xids if self._world.transactions.get(xid) != "in progress"]
        self._world.scheduler.step("asks the primary for its position")
        return ended, self._end()

    def _end(self) -> Position:
        return Position(self._world.primary.timeline, len(self._world.log))


class SimConnection:
    """A writer's connection to what was the primary when it began."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.node = world.primary
        self.xid = world.next_xid()

    def transaction_id(self) -> tuple[str, Position]:
        self._world.scheduler.step("asks for its transaction id")
        return self.xid, Position(self.node.timeline, len(self.node.log))

    def position(self) -> Position:
        self._world.scheduler.step("asks for its position")
        return Position(self.node.timeline, len(self.node.log))

    def own(self, _holdings: object) -> None:
        raise AssertionError("there is one shard here")

    def execute(self, _statement: object, _parameters: object = None) -> None:
        raise AssertionError("there is no outbox here")

    def commit(self, number: int) -> None:
        world = self._world
        world.scheduler.step("sends COMMIT")
        kind = world.scheduler.fault(["dies before commit", "commit refused"], world.faults)
        if kind or self.node is not world.primary:
            if world.transactions[self.xid] == "in progress":
                world.transactions[self.xid] = "aborted"
            if kind == "dies before commit":
                raise Died
            raise CommitLostError
        self.node.log.append(number)
        world.scheduler.step("commit is in the log, not yet visible")
        if self.node is not world.primary:
            raise CommitLostError  # promoted meanwhile: it may have been replayed, or be lost
        self.node.shown = len(self.node.log)
        world.transactions[self.xid] = "committed"
        kind = world.scheduler.fault(["dies after commit", "commit answer lost"], world.faults)
        if kind == "dies after commit":
            raise Died
        if kind:
            raise CommitLostError


class SimWriter:
    """One transaction through the real commit path."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._number = number

    def run(self) -> None:
        world = self._world
        try:
            commit = Commit(world.store, None, nonce=world.nonce)
            connection = SimConnection(world)
            change = Change(TENANT, frozenset({GUARD, ANSWER}))
            try:
                ticket = commit.before_commit(connection, [change])
            except Exception:  # noqa: BLE001  # refused: the cache is away, and there is no outbox here
                if world.transactions[connection.xid] == "in progress":
                    world.transactions[connection.xid] = "aborted"
                return
            try:
                connection.commit(self._number)
            except CommitLostError:
                self.commit_failed(connection)
                return
            assert ticket is not None
            commit.after_commit(connection, ticket)
        except Died:
            return

    def commit_failed(self, connection: SimConnection) -> None:
        """Nothing: the intent is left to be resolved."""


class SimRequest:
    """The one call that readers make."""

    tenant, entry, guard = TENANT, ENTRY, GUARD

    def __init__(self, world: World, router: SimRouter) -> None:
        self._world = world
        self._router = router

    def query(self, need: Need) -> Answer:
        world = self._world
        if not need.primary and (answer := self._router.read(need.position)) is not None:
            return answer
        node = world.primary
        origin = node.origin
        world.scheduler.step("reads the primary")
        if node is not world.primary:  # demoted since; a router would not have it
            node = world.primary
            origin = node.origin
        return Answer(node.value, origin)

    def tags(self, _value: object) -> tuple[str, ...]:
        return (ANSWER,)

    def ttl_ms(self, _value: object) -> int:
        return 1_000_000

    def freeze(self, value: object) -> tuple[bytes, Mapping[str, bytes]]:
        assert isinstance(value, frozenset)
        return bytes(sorted(value)), {}

    def thaw(self, body: bytes, _hit: Hit | None) -> object:
        return frozenset(body)


class SimReader:
    """Reads, one after the other, through the real read path."""

    def __init__(self, world: World, read: ReadThrough, router: SimRouter, reads: int) -> None:
        self._world = world
        self._router = router
        self._read = read
        self._reads = reads

    def run(self) -> None:
        world = self._world
        try:
            for _ in range(self._reads):
                world.scheduler.step("begins to read")
                floor, primary = world.primary.value, world.primary
                value = self._read(SimRequest(world, self._router))
                world.reads += 1
                assert isinstance(value, frozenset)
                if primary is world.primary and not floor <= value:
                    world.stale.append(f"read {set(value)} where {set(floor)} was visible")
        except Died:
            return
