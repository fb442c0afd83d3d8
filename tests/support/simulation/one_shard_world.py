"""A small world around the real read and commit paths: one row, a primary, replicas, and a store, all with faults.

A read is stale when what it returns lacks a commit that was visible on the primary as it began.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Protocol

from simulation.replica_choice import SimRouter
from simulation.scheduler import Died
from simulation.servers import CommitLostError, Raw, Servers, SimConnection, SimHistories, SimPrimary

from tidegate.cache.marks import Root, RootState
from tidegate.cache.memory_store import MemoryStore
from tidegate.cache.read_through import ReadThrough
from tidegate.cache.request import Answer, Limits
from tidegate.cache.root_recovery import RootRecovery
from tidegate.cache.single_flight import Flights
from tidegate.cache.store import Change, StoreUnavailable
from tidegate.position import Origin
from tidegate.proxy.writes.commit import IntentAndStamp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from simulation.scheduler import Scheduler
    from simulation.servers import Action, Node

    from tidegate.cache.request import ReadRequirement
    from tidegate.cache.store import Hit, Lookup, Store
    from tidegate.position import AskedFor, History

TENANT, ENTRY, GUARD, ANSWER = "tenant", "entry", "guard", "answer"


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
    promoted: bool = False
    """Whether a replica has just been promoted, and no process knows."""
    plain: bool = False
    """Whether look-ups are plain commands, not a script."""


class SimStore(MemoryStore):
    """The store, with a switch point before each call, and answers that get lost."""

    def __init__(self, world: Sleeping) -> None:
        super().__init__(now_ms=lambda: world.now_ms)
        self.world = world

    @property
    def leased(self) -> bool:
        return bool(self._leases)

    def end_leases(self) -> None:
        self._leases.clear()


def _at_switch_point(name: str) -> Callable[..., object]:
    def call(self: SimStore, *args: object, **kwargs: object) -> object:
        world = self.world
        world.scheduler.step(name)
        kind = world.scheduler.fault(["store away", "store answer lost"], world.faults)
        if kind == "store away":
            raise StoreUnavailable(kind)
        answer = getattr(super(SimStore, self), name)(*args, **kwargs)  # found now: a test may have replaced it
        if kind == "store answer lost":
            raise StoreUnavailable(kind)
        return answer

    return call


_STORE_CALLS = (
    *("lookup", "lease", "holder", "release", "fill", "check", "make_root", "complete_root", "end_quarantine"),
    *("open", "stamp", "resolve", "bump"),
)
for _name in _STORE_CALLS:
    setattr(SimStore, _name, _at_switch_point(_name))
_judged = _at_switch_point("judged")


class PlainSimStore(SimStore):
    """The store that is asked by plain commands: others may act between the entry and the marks."""

    def lookup(self, tenant: str, entry: str, guard: str, asked: AskedFor, *, refresh: bool = False) -> Lookup:
        if refresh:
            return super().lookup(tenant, entry, guard, asked, refresh=True)
        self.world.scheduler.step("entry")
        return _judged(self, tenant, self.kept(tenant, entry), guard, asked)  # type: ignore[return-value]


class Sleeping(Protocol):
    """A world in which one can wait."""

    scheduler: Scheduler
    now_ms: int
    faults: dict[str, int]

    def sleep(self, seconds: float, /) -> None: ...


class SimSignal:
    """What stands for an event that threads wait for."""

    def __init__(self, world: Sleeping) -> None:
        self._world = world
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def wait(self, timeout: float) -> bool:
        self._world.sleep(timeout)
        return self._is_set


def read_through(
    world: Sleeping, store: Store, recovery: RootRecovery, asked: Callable[[str], AskedFor]
) -> ReadThrough:
    """The read path of one process."""

    return ReadThrough(
        store,
        recovery,
        asked,
        flights=Flights(partial(SimSignal, world)),
        limits=Limits(lease_ms=1_000, wait_ms=3, longest_ms=3, poll_ms=1, beta=0),
        sleep=world.sleep,
        now_ms=lambda: world.now_ms,
    )


class Process:
    """One process with a gate: which node it takes for the primary, and what it knows of the history."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self.number = number
        self.store = world.store_of(number)
        self._at = self._line = world.primary
        self.histories = SimHistories(self.store, "", world.primary)
        self.primary = SimPrimary(world, self.histories, self.connect)
        ticks = count(step=10)
        self.recovery = RootRecovery(
            self.store, self.primary, nonce=world.nonce, grace_ms=0, clock=lambda: float(next(ticks))
        )
        self.router = SimRouter(world, f"process {number}")
        self.read = read_through(world, self.store, self.recovery, self.primary.asked)

    @property
    def at(self) -> Node:
        return self._at.now

    @property
    def knows(self) -> bool:
        """Whether it knows of which history its primary is."""
        return self._line is self.at and self.histories.asked.history == self.at.here.history

    def connect(self) -> Node:
        """Its primary, which was asked, as each connection is that opens."""
        if self._line is not self.at:
            self._line = self.at
            self.histories.ask(Raw(self._line))
        return self._line

    def actions(self, newest: History | None) -> list[Action]:
        """What it may learn between the steps of its readers and writers, the *newest* history there is being this."""
        possible = self.router.actions()
        if self.at is not self._world.primary:
            possible.append((f"process {self.number} follows {self._world.primary.name}", self._follow))
        if not self.knows or newest not in (None, self.histories.asked.history):
            possible.append((f"process {self.number} looks", self._look))
        return possible

    def _follow(self) -> None:
        self._at = self._world.primary
        self.histories.forget()

    def _look(self) -> None:
        """What the thread of the outbox does four times a second."""
        self.histories.ask(Raw(self.connect()))
        rival = self.histories.meet()
        if rival is not None:
            self.histories.make_newer(Raw(self.at), rival)


class World(Servers):
    """Everything one run needs."""

    def __init__(self, shape: Shape, scheduler: Scheduler) -> None:
        super().__init__(scheduler, dict(shape.faults), shape.replicas)
        self.now_ms = 1_000
        self.stale: list[str] = []
        self.reads = 0
        self._nonces = 0
        self.store = (PlainSimStore if shape.plain else SimStore)(self)
        if shape.rooted:
            assert self.primary.origin is not None
            self.store.roots[TENANT] = Root("first", self.primary.origin, RootState.CLEAN)
        self.processes = [Process(self, i) for i in range(shape.processes)]
        if shape.promoted:
            self.promote(self.replicas[0])
        for i in range(shape.writers):
            scheduler.add(f"w{i}", SimWriter(self, self.processes[-1 - i % shape.processes], i).run)
        for i in range(shape.readers):
            scheduler.add(f"r{i}", SimReader(self, self.processes[i % shape.processes], shape.reads).run)

    def store_of(self, _process: int) -> Store:
        """What a process finds under the cache's URL."""
        return self.store

    def sleep(self, _seconds: float) -> None:
        self.scheduler.step("waits")
        self.now_ms += 1

    def nonce(self) -> str:
        self._nonces += 1
        return f"n{self._nonces}"

    def actions(self) -> list[Action]:
        """What may happen between the steps of the actors."""
        possible = self.node_actions()
        newest = self.store.newest_history("")  # the world's: no step
        for process in self.processes:
            possible += process.actions(newest)
        if self.faults.get("lease ends", 0) and self.store.leased:
            possible.append(("the lease ends", self._end_lease))
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

    def _end_lease(self) -> None:
        self.faults["lease ends"] -= 1
        self.store.end_leases()

    def _lose(self) -> None:
        self.faults["lose"] -= 1
        self.store.lose_marks(TENANT)

    def _drop(self, tag: str) -> None:
        self.faults["drop"] -= 1
        self.store.drop(TENANT, tag)


class SimWriter:
    """One transaction through the real commit path."""

    def __init__(self, world: World, process: Process, number: int) -> None:
        self._world = world
        self._process = process
        self._number = number

    def run(self) -> None:
        world, process = self._world, self._process
        try:
            commit = IntentAndStamp(process.store, None, nonce=world.nonce, knows=process.histories.knows)
            process.connect()
            connection = SimConnection(world, lambda: process.at)
            change = Change(TENANT, frozenset({GUARD, ANSWER}))
            try:
                ticket = commit.before_commit(connection, [change])
            except Exception:  # noqa: BLE001  # refused: the cache is away, and there is no outbox here
                connection.end("aborted")
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

    def __init__(self, process: Process) -> None:
        self._process = process

    def query(self, need: ReadRequirement) -> Answer:
        process, world = self._process, self._process._world
        # Who reads from replicas of another primary than it writes to would not see its own writes.
        follows = process.router.topology.primary.name == process.at.name
        if not need.primary and follows and (answer := process.router.read(need.position)) is not None:
            return answer
        process.connect()
        world.scheduler.step("reads the primary")
        node = process.connect()  # anew, if it was cut
        history = process.histories.of(node.here.life)
        return Answer(node.value, None if history is None else Origin(0, history, ""))

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

    def __init__(self, world: World, process: Process, reads: int) -> None:
        self._world = world
        self._process = process
        self._reads = reads

    def run(self) -> None:
        world, process = self._world, self._process
        try:
            for _ in range(self._reads):
                world.scheduler.step("begins to read")
                node = process.at
                floor, knew = node.value, process.knows
                value = process.read(SimRequest(process)).value
                world.reads += 1
                assert isinstance(value, frozenset)
                if node is not process.at:
                    continue
                if not floor <= value:
                    world.stale.append(f"read {set(value)} where {set(floor)} was visible")
                if knew and not value <= node.written:
                    world.stale.append(f"read {set(value)}, and {set(value - node.written)} was lost")
        except Died:
            return
