"""Two shards between which the tenant's slot changes hands, and the catalogue that says where it is.

What a shard owns is in its log, as its rows are: a replica may show an older state of both. A flip is three steps of
the world: the fence, which waits for writers that hold the ownership row; the grant, after the rows were copied; and
the publishing of the map. (Closing, which only keeps new writers from making the fence wait for ever, is left out.)
"""

from __future__ import annotations

from collections import namedtuple
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from simulation.servers import Node, Servers, SimConnection, _row

from tidegate.errors import StaleShardMap
from tidegate.proxy.database.ownership import not_held
from tidegate.proxy.database.placement import _found
from tidegate.routing.sharding.shard_map import FIRST_EPOCH, ShardMap, even_map
from tidegate.routing.sharding.slots import slot_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from simulation.scheduler import Scheduler
    from simulation.servers import Action, Value

TENANT: Final = "tenant"
SLOT: Final = slot_of(TENANT)
UNIT: Final = f"slot:{SLOT}"
FIRST: Final = even_map(["a", "b"]).with_slots_moved([SLOT], "a", FIRST_EPOCH)
_Row = namedtuple("_Row", "unit since owned")  # noqa: PYI024  # as untyped as a row


class Owned(NamedTuple):
    """A row of ``tidegate_ownership``, as the log has it."""

    since_epoch: int
    owned: bool


class _Postgres:
    """What stands for a dialect, whose tables lie in a schema that is known."""

    name = "postgresql"

    @property
    def identifier_preparer(self) -> _Postgres:
        return self

    def quote_identifier(self, name: str) -> str:
        return name


_POSTGRES: Any = _Postgres()
_found[_POSTGRES] = "public"
OLDEST: Final = 99
"""A commit of before all that a run does."""
NEVER: Final = Owned(0, owned=False)


@lru_cache(maxsize=16)
def map_of(epoch: int) -> ShardMap:
    """The slot begins on *a*, and each flip takes it to the other shard."""
    return FIRST if epoch == FIRST_EPOCH else FIRST.with_slots_moved([SLOT], shard_at(epoch), epoch)


def shard_at(epoch: int) -> str:
    """Where the slot is by that map."""
    return "ab"[(epoch - FIRST_EPOCH) % 2]


class ShardNode(Node):
    """A server that shows what its shard owns, too."""

    @property
    def value(self) -> Value:
        return frozenset(record for record in self.log[: self.shown] if type(record) is int)

    @property
    def row(self) -> Owned:
        shown = (record for record in reversed(self.log[: self.shown]) if type(record) is Owned)
        return next(shown, NEVER)


class SimulatedShard(Servers):
    """One shard. Its log begins at *length*, so that positions of two shards are not alike.

    Args:
        scheduler: of the run.
        faults: how often each fault may still strike.
        replicas: how many.
        name: "a" or "b".
        length: how many records its log begins with.
    """

    def __init__(self, scheduler: Scheduler, faults: dict[str, int], replicas: int, name: str, length: int) -> None:
        super().__init__(scheduler, faults, replicas, name, ShardNode)
        self.name = name
        self.sharers: set[str] = set()
        self.primary.log.extend([NEVER] * length)
        for node in (self.primary, *self.replicas):
            node.show_all()

    @property
    def row(self) -> Owned:
        assert isinstance(self.primary, ShardNode)
        return self.primary.row

    def write(self, *records: object) -> None:
        """At once visible on the primary."""
        self.primary.log.extend(records)
        self.primary.show_all()


@dataclass
class SimSession:
    """A transaction that reads, on one node; what the checks of real sessions take for a connection."""

    servers: Servers
    node: Node

    def execute(self, _statement: object, parameters: Mapping[str, Any]) -> list[Any]:
        self.servers.scheduler.step(f"asks {self.node.name} what it owns")
        assert parameters["units"] == [UNIT]
        assert isinstance(self.node, ShardNode)
        return [_Row(UNIT, *self.node.row)]

    @property
    def dialect(self) -> Any:
        return _POSTGRES

    def exec_driver_sql(self, _statement: str, _parameters: Any = None) -> Any:
        self.servers.scheduler.step(f"asks {self.node.name} for its position")
        return self

    def all(self) -> list[tuple[str, str, str, str | None]]:
        return [(*_row(self.node), self.node.record)]


@dataclass(frozen=True)
class SimEngine:
    """What the sharded primary reads with."""

    shard: SimulatedShard

    @contextmanager
    def connect(self) -> Iterator[SimSession]:
        yield SimSession(self.shard, self.shard.primary)


class SharingConnection(SimConnection):
    """A writer's, which holds the ownership row from its write to its end."""

    servers: SimulatedShard

    def __init__(self, shard: SimulatedShard) -> None:
        super().__init__(shard)
        self._held: dict[str, int] = {}

    def write(self) -> None:
        """What a trigger does as a row is written, of which the database that it is on knows the shard alone."""
        self.servers.scheduler.step(f"writes on {self.servers.name}")
        row = self.servers.row
        self.refuse(row)
        self.share()
        self._held[UNIT] = row.since_epoch

    def refuse(self, row: Owned) -> None:
        if not row.owned:
            raise StaleShardMap(f"{self.servers.name} does not own {UNIT}")

    def verify_ownership(self, ownerships: Any) -> None:
        assert not not_held(self._held, ownerships), "the trigger has checked all"

    def end(self, status: str) -> None:
        super().end(status)
        self.servers.sharers.discard(self.xid)

    def share(self) -> None:
        self.servers.sharers.add(self.xid)


class Catalogue:
    """Where the slot is, and on its way to: the world's part in a flip.

    Args:
        shards: by name.
        faults: "flip" says how often.
    """

    def __init__(self, shards: Mapping[str, SimulatedShard], faults: dict[str, int]) -> None:
        self._shards = shards
        self._faults = faults
        self._step = 0
        self.epoch = FIRST_EPOCH
        shards["a"].write(Owned(FIRST_EPOCH, owned=True), OLDEST)
        for replica in shards["a"].replicas:
            replica.show_all()

    @property
    def shard(self) -> SimulatedShard:
        """Who has the slot by the newest map."""
        return self._shards[shard_at(self.epoch)]

    def actions(self) -> list[Action]:
        """The next step of a flip, if it can be taken."""
        old = self.shard
        if self._step == 0 and self._faults.get("flip", 0) and not old.sharers:
            return [(f"{old.name} is fenced", self._fence)]
        if self._step == 1:
            return [("the other shard is granted the slot", self._grant)]
        return [("the map is published", self._publish)] if self._step else []

    def flip(self) -> None:
        """All of a flip at once."""
        for step in (self._fence, self._grant, self._publish):
            step()

    def _fence(self) -> None:
        self._faults["flip"] = self._faults.get("flip", 0) - 1
        self.shard.write(Owned(self.epoch + 1, owned=False))
        self._step = 1

    def _grant(self) -> None:
        new = self._shards[shard_at(self.epoch + 1)]
        copied = sorted(self.shard.primary.value - new.primary.value)
        new.write(*copied, Owned(self.epoch + 1, owned=True))
        self._step = 2

    def _publish(self) -> None:
        self.epoch += 1
        self._step = 0
