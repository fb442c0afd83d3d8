"""A small world of two shards: processes with maps that may be old, around the real sharding, read and commit paths.

A read is stale when what it returns lacks a commit that was visible on the primary of either shard as it began: so a
commit that went astray, where nobody looks for it any more, is found as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from simulation.one_shard_world import ANSWER, GUARD, SimRequest, SimStore, read_through
from simulation.replica_choice import SimRouter
from simulation.scheduler import Died
from simulation.servers import CommitLostError, SimHistories, SimPrimary
from simulation.shards import TENANT, Catalogue, SharingConnection, SimEngine, SimSession, SimulatedShard, map_of
from sqlalchemy.orm import sessionmaker

from tidegate.cache.marks import Root, RootState
from tidegate.cache.request import Answer
from tidegate.cache.root_recovery import RootRecovery
from tidegate.cache.store import Change
from tidegate.cache.untold import UntoldChanges
from tidegate.errors import StaleShardMap
from tidegate.proxy.call import Call, Method, Route
from tidegate.proxy.explanation import uncached
from tidegate.proxy.layers.routing import read_requirements
from tidegate.proxy.layers.sharding import Sharding
from tidegate.proxy.shards.primary import ShardedPrimary
from tidegate.proxy.shards.registry import Shard, Shards
from tidegate.proxy.shards.sessions import _checked_begins
from tidegate.proxy.writes.commit import IntentAndStamp
from tidegate.repositories.policies import Read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulation.replica_choice import Line
    from simulation.scheduler import Scheduler
    from simulation.servers import Action

    from tidegate.cache.request import ReadRequirement
    from tidegate.proxy.explanation import Explanation
    from tidegate.routing.sharding.shard_map import ShardMap

_ATTEMPTS: Final = 3
_POLICY: Final = Read(guard=GUARD)
_METHOD: Final = Method("get", "Plain.get", repr)
_MAKER: Final = sessionmaker()


@dataclass(frozen=True)
class ShardedShape:
    """How large a world is, how often each fault may strike, and how often the slot may change hands ("flip").

    Args:
        maps: the epochs that processes know as it begins; the slot has changed hands until the last of them.
        rooted: the epoch of a clean root that is there; 0: there is none.
        uncached: whether each reader's calls by turns are none of the cache's business.
        judged: whose reads must not be stale: of all, or of those processes alone that know the newest map.
    """

    writers: int = 1
    readers: int = 2
    reads: int = 1
    maps: tuple[int, ...] = (1, 1)
    faults: Mapping[str, int] = field(default_factory=lambda: {"flip": 1})
    replicas: int = 0
    rooted: int = 1
    uncached: bool = False
    judged: Literal["all", "newest"] = "all"


class SimMaps:
    """The map of one process."""

    def __init__(self, world: ShardedWorld, epoch: int) -> None:
        self._world = world
        self.map = map_of(epoch)

    def current(self) -> ShardMap:
        return self.map

    def refresh(self) -> bool:
        self._world.scheduler.step("asks the catalogue")
        if self._world.scheduler.fault(["catalogue away"], self._world.faults):
            return False
        self.take()
        return True

    def take(self) -> None:
        self.map = map_of(self._world.catalogue.epoch)


class SimRouting:
    """Answers calls on the nodes of one shard, for one process."""

    def __init__(self, shard: SimulatedShard, process: int) -> None:
        self._shard = shard
        self.router = SimRouter(shard, f"process {process}", self._begin)

    def _begin(self, line: Line) -> None:
        _checked_begins(None, None, SimSession(self._shard, line.node))  # type: ignore[arg-type]

    def __call__(self, call: Call) -> Answer:
        shard, required = self._shard, call.route.requirement
        assert required is not None
        if not required.primary and (answer := self.router.read(required.position)) is not None:
            return answer
        _checked_begins(None, None, SimSession(shard, shard.primary))  # type: ignore[arg-type]
        shard.scheduler.step(f"reads {shard.primary.name}")
        assert shard.primary.origin is not None
        return Answer(shard.primary.value, shard.primary.origin._replace(shard=shard.name))

    def explain(self, call: Call) -> Explanation:
        return uncached(call.shown())


class Process:
    """One process: its map, and the layers over both shards."""

    def __init__(self, world: ShardedWorld, number: int, epoch: int) -> None:
        self.number = number
        self.maps = SimMaps(world, epoch)
        self.shards = Shards(self.maps, lambda _name: None)
        self._store = world.store
        self.routings = {name: SimRouting(shard, number) for name, shard in world.shards.items()}
        primary = ShardedPrimary(self.shards)
        recovery = RootRecovery(world.store, primary, nonce=world.nonce, grace_ms=0)
        for name, shard in world.shards.items():
            self.shards.add(self._assembled(name, shard))
        requirements = read_requirements(world.store, recovery, UntoldChanges(), self.shards.asked)
        self.sharding = Sharding(self.shards, requirements.ask, 0.0)
        self.read_through = read_through(world, world.store, recovery, self.shards.asked)
        self.commits = {
            name: IntentAndStamp(
                world.store, None, shard=name, owned_units=partial(self.shards.ownerships_on, name), nonce=world.nonce
            )
            for name in world.shards
        }

    def _assembled(self, name: str, shard: SimulatedShard) -> Shard:
        nobody: Any = None
        parts: dict[str, Any] = {"engine": SimEngine(shard), "routing": self.routings[name], "nodes": shard}
        others: dict[str, Any] = dict.fromkeys(
            ("watch", "outbox", "applier", "all_writes", "unmarked_writes", "sessions"), nobody
        )
        histories = SimHistories(self._store, name, shard.primary)
        return Shard(name=name, primary=SimPrimary(shard, histories), histories=histories, **parts, **others)


class ShardedWorld:
    """Everything one run needs."""

    def __init__(self, shape: ShardedShape, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.faults = dict(shape.faults)
        self.now_ms = 1_000
        self.stale: list[str] = []
        self.refused: list[str] = []
        self.reads = self.flips = 0
        self._nonces = 0
        self.store = SimStore(self)
        lengths = {"a": 0, "b": 4}
        self.shards = {n: SimulatedShard(scheduler, self.faults, shape.replicas, n, at) for n, at in lengths.items()}
        self.catalogue = Catalogue(self.shards, self.faults)
        if shape.rooted == 1:
            self._root()
        while self.catalogue.epoch < max(shape.maps):
            self.catalogue.flip()
            self.faults["flip"] += 1
            if shape.rooted == self.catalogue.epoch:
                self._root()
        self.processes = [Process(self, number, epoch) for number, epoch in enumerate(shape.maps)]
        self._routers = [routing.router for each in self.processes for routing in each.routings.values()]
        for i in range(shape.writers):
            scheduler.add(f"w{i}", ShardedWriter(self, self._process(i), i).run)
        for i in range(shape.readers):
            scheduler.add(f"r{i}", ShardedReader(self, self._process(i), shape).run)

    def _process(self, number: int) -> Process:
        return self.processes[-1 - number % len(self.processes)]

    def _root(self) -> None:
        shard = self.catalogue.shard
        assert shard.primary.origin is not None
        origin = shard.primary.origin._replace(epoch=self.catalogue.epoch, shard=shard.name)
        self.store.roots[TENANT] = Root("first", origin, RootState.CLEAN, position=shard.primary.position)

    @property
    def visible(self) -> frozenset[int]:
        """What is committed, on whichever shard."""
        return self.shards["a"].primary.value | self.shards["b"].primary.value

    def sleep(self, _seconds: float) -> None:
        self.scheduler.step("waits")
        self.now_ms += 1

    def nonce(self) -> str:
        self._nonces += 1
        return f"n{self._nonces}"

    def actions(self) -> list[Action]:
        """What may happen between the steps of the actors."""
        possible = self.catalogue.actions()
        for process in self.processes:
            if process.maps.map.epoch < self.catalogue.epoch:
                possible.append((f"process {process.number} is told of the map", process.maps.take))
        for shard in self.shards.values():
            possible += shard.node_actions()
        for router in self._routers:
            possible += router.actions()
        if TENANT in self.store.roots and self.faults.get("lose", 0):
            possible.append(("the marks are lost", self._lose))
        return possible

    def _lose(self) -> None:
        self.faults["lose"] -= 1
        self.store.lose_marks(TENANT)


class ShardedWriter:
    """One transaction through the real commit path, tried again where the tenant has moved."""

    def __init__(self, world: ShardedWorld, process: Process, number: int) -> None:
        self._world = world
        self._process = process
        self._number = number

    def run(self) -> None:
        try:
            for _ in range(_ATTEMPTS):
                if not self._is_refused():
                    return
        except (Died, CommitLostError, StaleShardMap):
            return

    def _is_refused(self) -> bool:
        world, shards = self._world, self._process.shards
        ownership = shards.ownership(TENANT)
        connection, commit = SharingConnection(world.shards[ownership.shard]), self._process.commits[ownership.shard]
        try:
            connection.write()
            ticket = commit.before_commit(connection, [Change(TENANT, frozenset({GUARD, ANSWER}))])
        except StaleShardMap as refused:
            connection.end("aborted")
            shards.moved(TENANT, ownership, refused)
            return True
        except Exception:  # noqa: BLE001  # refused: the cache is away, and there is no outbox here
            connection.end("aborted")
            return False
        connection.commit(self._number)
        assert ticket is not None
        commit.after_commit(connection, ticket)
        return False


class ShardedRequest(SimRequest):
    """The one call that readers make, below the cache."""

    def __init__(self, process: Process) -> None:
        self._sharded = process

    def query(self, need: ReadRequirement | None) -> Answer:
        route = Route(requirement=need, wants_origin=True, home=_MAKER)
        return self._sharded.sharding(Call(self, _METHOD, _POLICY, {}, TENANT, None, route))


class ShardedReader:
    """Reads, one after the other, through the real read path."""

    def __init__(self, world: ShardedWorld, process: Process, shape: ShardedShape) -> None:
        self._world = world
        self._process = process
        self._shape = shape

    def run(self) -> None:
        world, request = self._world, ShardedRequest(self._process)
        for turn in range(self._shape.reads):
            world.scheduler.step("begins to read")
            floor = world.visible if self._is_judged() else frozenset()
            try:
                if self._shape.uncached and turn % 2 == 0:
                    value = request.query(None).value
                else:
                    value = self._process.read_through(request).value
            except StaleShardMap as refused:
                world.refused.append(str(refused))
                continue
            except Died:
                return
            world.reads += 1
            assert isinstance(value, frozenset)
            if not floor <= value:
                world.stale.append(f"read {set(value)} where {set(floor)} was visible")

    def _is_judged(self) -> bool:
        return self._shape.judged == "all" or self._process.maps.map.epoch == self._world.catalogue.epoch
