"""A small world around the real read and commit paths: one row, a primary, replicas, and a store, all with faults.

A read is stale when what it returns lacks a commit that was visible on the primary as it began.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from simulation.replica_choice import SimRouter
from simulation.scheduler import Died
from simulation.servers import CommitLostError, Servers, SimConnection, SimPrimary

from tidegate.cache.marks import Root, RootState
from tidegate.cache.memory_store import MemoryStore
from tidegate.cache.read_through import ReadThrough
from tidegate.cache.request import Answer, Limits
from tidegate.cache.root_recovery import RootRecovery
from tidegate.cache.single_flight import Flights
from tidegate.cache.store import Change, StoreUnavailable
from tidegate.proxy.writes.commit import IntentAndStamp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from simulation.scheduler import Scheduler
    from simulation.servers import Action

    from tidegate.cache.request import ReadRequirement
    from tidegate.cache.store import Hit

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

    def __getattribute__(self, name: str) -> object:
        found = super().__getattribute__(name)
        if name not in _STORE_CALLS:
            return found
        world: Sleeping = super().__getattribute__("world")

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
    *("lookup", "lease", "holder", "release", "fill", "check", "make_root", "complete_root", "end_quarantine"),
    *("open", "stamp", "resolve", "bump"),
}


class Sleeping(Protocol):
    """A world in which one can wait."""

    scheduler: Scheduler
    now_ms: int
    faults: dict[str, int]

    def sleep(self, seconds: float, /) -> None: ...


def read_through(
    world: Sleeping, store: SimStore, recovery: RootRecovery, epoch: Callable[[str], int] | None = None
) -> ReadThrough:
    """The read path of one process."""

    class SimSignal:
        def __init__(self) -> None:
            self._is_set = False

        def set(self) -> None:
            self._is_set = True

        def wait(self, timeout: float) -> bool:
            world.sleep(timeout)
            return self._is_set

    return ReadThrough(
        store,
        recovery,
        flights=Flights(SimSignal),
        limits=Limits(lease_ms=1_000, wait_ms=3, longest_ms=3, poll_ms=1, beta=0),
        epoch=epoch,
        sleep=world.sleep,
        now_ms=lambda: world.now_ms,
    )


class World(Servers):
    """Everything one run needs."""

    def __init__(self, shape: Shape, scheduler: Scheduler) -> None:
        super().__init__(scheduler, dict(shape.faults), shape.replicas)
        self.now_ms = 1_000
        self.stale: list[str] = []
        self.reads = 0
        self._nonces = 0
        self.store = SimStore(self)
        if shape.rooted:
            self.store.roots[TENANT] = Root("first", self.primary.origin, RootState.CLEAN)
        self.recovery = RootRecovery(self.store, SimPrimary(self), nonce=self.nonce, grace_ms=0)
        self.routers = [SimRouter(self, f"process {i}") for i in range(shape.processes)]
        processes = [read_through(self, self.store, self.recovery) for _ in range(shape.processes)]
        for i in range(shape.writers):
            scheduler.add(f"w{i}", SimWriter(self, i).run)
        for i in range(shape.readers):
            at = i % len(processes)
            scheduler.add(f"r{i}", SimReader(self, processes[at], self.routers[at], shape.reads).run)

    def sleep(self, _seconds: float) -> None:
        self.scheduler.step("waits")
        self.now_ms += 1

    def nonce(self) -> str:
        self._nonces += 1
        return f"n{self._nonces}"

    def actions(self) -> list[Action]:
        """What may happen between the steps of the actors."""
        possible = self.node_actions()
        possible += [action for router in self.routers for action in router.actions()]
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

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._number = number

    def run(self) -> None:
        world = self._world
        try:
            commit = IntentAndStamp(world.store, None, nonce=world.nonce)
            connection = SimConnection(world)
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

    def __init__(self, world: World, router: SimRouter) -> None:
        self._world = world
        self._router = router

    def query(self, need: ReadRequirement) -> Answer:
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
                value = self._read(SimRequest(world, self._router)).value
                world.reads += 1
                assert isinstance(value, frozenset)
                if primary is world.primary and not floor <= value:
                    world.stale.append(f"read {set(value)} where {set(floor)} was visible")
        except Died:
            return
