"""The shards of a gate, and which of them has a tenant: what every layer that must know a shard asks."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from tidegate.errors import NoNodeAvailable, StaleShardMap

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Engine
    from sqlalchemy.orm import Session, sessionmaker

    from tidegate.proxy.database.primary import ClockPrimary, PostgresPrimary
    from tidegate.proxy.layers.routing import PrimaryOnly, Routing
    from tidegate.proxy.nodes.shard_nodes import ShardNodes
    from tidegate.proxy.shards.catalogue import MapSource
    from tidegate.proxy.writes.outbox import Applier, Outbox
    from tidegate.proxy.writes.watch import Watch
    from tidegate.routing.replicas.own_writes import OwnWrites
    from tidegate.routing.sharding.shard_map import Ownership, ShardMap

_MOST_FOUND: Final = 16_384
"""Of tenants whose ownership is remembered while the map is the same."""


P = TypeVar("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shard:
    """What a gate has of one shard; see ``build``.

    Args:
        name: the shard's; "" where it is the only one.
        engine: the primary's, watched.
        watch: of that engine.
        outbox: where changes go that the cache cannot be told of.
        applier: takes them out again; None: this gate has no cache.
        primary: what the root recovery asks.
        routing: runs a call on one of its nodes.
        nodes: its servers; None: there is one, and nobody watches it.
        all_writes: positions of all writes of this process; None where there is one server.
        unmarked_writes: those that the marks do not have.
        sessions: makes sessions of no tenant on its primary.
    """

    name: str
    engine: Engine
    watch: Watch
    outbox: Outbox
    applier: Applier | None
    primary: PostgresPrimary | ClockPrimary
    routing: Routing | PrimaryOnly
    nodes: ShardNodes | None
    all_writes: OwnWrites | None
    unmarked_writes: OwnWrites | None
    sessions: sessionmaker[Session]

    def keep_alive(self) -> None:
        """Start what this process has to run for itself."""
        if self.applier is not None:
            self.applier.ensure_started()

    def close(self) -> None:
        """End what runs beside the program."""
        if self.applier is not None:
            self.applier.close()
        if self.nodes is not None:
            self.nodes.close()


class Shards:
    """All shards of a gate that has several.

    Args:
        maps: where the shard map comes from.
        ready: called before a shard is used, with its name; raises what its database raises while that is away.
    """

    def __init__(self, maps: MapSource, ready: Callable[[str], None]) -> None:
        self._maps = maps
        self._ready = ready
        self._parts: dict[str, Shard] = {}
        self._found: tuple[ShardMap | None, dict[str, Ownership]] = (None, {})

    def add(self, parts: Shard) -> None:
        """One of the shards; all are added before the first call."""
        self._parts[parts.name] = parts

    @property
    def parts(self) -> Mapping[str, Shard]:
        """By name."""
        return self._parts

    def keep_alive(self) -> None:
        """Start what this process has to run for itself."""
        for parts in self._parts.values():
            parts.keep_alive()

    def names(self) -> tuple[str, ...]:
        """The shards of the newest map."""
        return self._maps.current().shards

    def epoch(self) -> int:
        """That map's."""
        return self._maps.current().epoch

    def all(self) -> tuple[tuple[str, ...], int]:
        """The same, and that map's epoch."""
        shard_map = self._maps.current()
        return shard_map.shards, shard_map.epoch

    def ownership(self, tenant: str) -> Ownership:
        """Who has a tenant by the newest map that this process has.

        Raises:
            UnknownTenant: it never had one.
        """
        shard_map = self._maps.current()
        found_by, found = self._found
        if found_by is not shard_map or len(found) > _MOST_FOUND:
            found = {}
            self._found = shard_map, found
        ownership = found.get(tenant)
        if ownership is None:
            ownership = found[tenant] = shard_map.ownership(tenant)
        return ownership

    def ownerships_on(self, shard: str, tenants: Sequence[str]) -> Sequence[Ownership]:
        """The units of *tenants*, which are all on *shard*.

        Raises:
            StaleShardMap: by the newest map one of them is on another shard.
        """
        ownerships = [self.ownership(tenant) for tenant in tenants]
        for ownership in ownerships:
            if ownership.shard != shard:
                raise StaleShardMap(f"{ownership.unit} is on {ownership.shard}, and this transaction on {shard}")
        return ownerships

    def at(self, shard: str) -> Shard:
        """The parts of a shard, once it can be used.

        Raises:
            NoNodeAvailable: the shard map has it, and this gate's settings have not.
        """
        parts = self._parts.get(shard)
        if parts is None:
            raise NoNodeAvailable(f"the shard map names {shard!r}, and these settings have no such shard: add it")
        self._ready(shard)
        return parts

    def refresh(self) -> bool:
        """Read the map again; whether where it comes from has answered."""
        return self._maps.refresh()

    def moved(self, tenant: str, ownership: Ownership, refused: StaleShardMap) -> bool:
        """Read the map again, after a shard has refused *ownership*.

        Returns:
            Whether the tenant is held otherwise now. If not, nobody has written elsewhere yet: a flip may be under way,
            and what lies where the map says is still the newest.

        Raises:
            StaleShardMap: *refused*, where nobody could say that there is no newer map.
        """
        answered = self._maps.refresh()
        if self.ownership(tenant) != ownership:
            return True
        if not answered:
            raise refused
        return False


def with_newest_map(shards: Shards, split: Callable[[], P], checked: Callable[[P], T], plainly: Callable[[P], T]) -> T:
    """What shards answer that are asked for rows of several tenants.

    Args:
        shards: all of them.
        split: the parts by the map at hand; equal where the map says the same of them.
        checked: reads the parts, where each shard sees first that it owns what its part is about.
        plainly: reads them as they are.

    Raises:
        StaleShardMap: nobody could say that there is no newer map, or tenants change hands all the time.
    """
    moves = 0
    while True:
        parts = split()
        try:
            return checked(parts)
        except StaleShardMap:
            moves += 1
            answered = shards.refresh()
            if split() != parts and moves < MOST_MOVES:
                continue
            if split() != parts or not answered:
                raise
        # Nobody has written elsewhere: what lies there is the newest, whatever the shards' tables say by now.
        return plainly(parts)


def of_all_shards(shards: Shards, ask: Callable[[Sequence[str], int | None], T]) -> T:
    """What all shards answer that are asked for rows of nobody in particular, or of somebody nobody knows.

    Args:
        shards: all of them.
        ask: asks those of these names, where each sees that it knows of no later epoch than this; None: of any.

    Raises:
        StaleShardMap: see :func:`with_newest_map`.
    """
    return with_newest_map(shards, shards.all, lambda every: ask(*every), lambda every: ask(every[0], None))


_NOTHING: Final[tuple[Sequence[Ownership], int | None]] = ((), None)
_to_check: ContextVar[tuple[Sequence[Ownership], int | None]] = ContextVar("tidegate_to_check", default=_NOTHING)


class ownership_checks:  # noqa: N801  # used as a function is; a generator in its place takes a microsecond of every read
    """Have the sessions of a shard that begin meanwhile see first that it owns these units, and nothing else.

    Args:
        ownerships: the units, and since when.
        epoch: that the shard must know of no later one; None: it may.
    """

    __slots__ = ("_to_check", "_token")

    def __init__(self, *ownerships: Ownership, epoch: int | None = None) -> None:
        self._to_check = ownerships, epoch

    def __enter__(self) -> None:
        self._token = _to_check.set(self._to_check)

    def __exit__(self, *_: object) -> None:
        _to_check.reset(self._token)


def current_checks() -> tuple[Sequence[Ownership], int | None]:
    """What a session that begins now has to check: units, and the epoch."""
    return _to_check.get()


MOST_MOVES: Final = 5
"""How often one call follows a tenant that changes hands all the time."""
