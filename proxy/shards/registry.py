"""The shards of a gate, and which shard has a tenant: every layer that must know a shard asks here."""

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
"""How many tenants' ownerships are remembered while the map stays the same."""


P = TypeVar("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shard:
    """What a gate has of one shard; ``assemble_shard`` makes it.

    Args:
        name: the shard's name; "" where there is only one shard.
        engine: the primary's engine, which is watched.
        watch: the watch of that engine.
        outbox: takes the changes that the cache cannot be told of.
        applier: applies the outbox; None: this gate has no cache.
        primary: answers the questions of the root recovery.
        routing: runs a call on one of the shard's nodes.
        nodes: the shard's servers; None: there is one server, which nobody monitors.
        all_writes: positions of all writes of this process; None where there is one server.
        unmarked_writes: positions of the writes that the marks do not have; None where there is one server.
        sessions: makes sessions on the primary for no particular tenant.
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
        """Start the threads that this process needs."""
        if self.applier is not None:
            self.applier.ensure_started()

    def close(self) -> None:
        """End the threads that run beside the program, and close the connections to replicas."""
        if self.applier is not None:
            self.applier.close()
        if self.nodes is not None:
            self.nodes.close()


class Shards:
    """Keep all shards of a gate that has several.

    Args:
        maps: the source of the shard map.
        ready: is called with a shard's name before the shard is used. It raises what the database raises while that
            does not answer.
    """

    def __init__(self, maps: MapSource, ready: Callable[[str], None]) -> None:
        self._maps = maps
        self._ready = ready
        self._parts: dict[str, Shard] = {}
        self._found: tuple[ShardMap | None, dict[str, Ownership]] = (None, {})

    def add(self, parts: Shard) -> None:
        """Add one of the shards; all are added before the first call."""
        self._parts[parts.name] = parts

    @property
    def parts(self) -> Mapping[str, Shard]:
        """Return the shards by name."""
        return self._parts

    def keep_alive(self) -> None:
        """Start the threads that this process needs."""
        for parts in self._parts.values():
            parts.keep_alive()

    def names(self) -> tuple[str, ...]:
        """Return the names of the shards of the newest map that this process has.

        Raises:
            UnknownTenant: the shard map was never read.
        """
        return self._maps.current().shards

    def epoch(self) -> int:
        """Return the epoch of the newest map that this process has.

        Raises:
            UnknownTenant: the shard map was never read.
        """
        return self._maps.current().epoch

    def all(self) -> tuple[tuple[str, ...], int]:
        """Return the names of the shards and the epoch, both of the same map.

        Raises:
            UnknownTenant: the shard map was never read.
        """
        shard_map = self._maps.current()
        return shard_map.shards, shard_map.epoch

    def ownership(self, tenant: str) -> Ownership:
        """Return the unit of a tenant, and its shard, by the newest map that this process has.

        Raises:
            UnknownTenant: the shard map was never read.
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
        """Return the ownerships of *tenants*, which must all be on *shard*.

        Raises:
            StaleShardMap: by the newest map one of them is on another shard.
            UnknownTenant: the shard map was never read.
        """
        ownerships = [self.ownership(tenant) for tenant in tenants]
        for ownership in ownerships:
            if ownership.shard != shard:
                raise StaleShardMap(
                    f"{ownership.unit} is on the shard {ownership.shard}, and this transaction is on {shard}"
                )
        return ownerships

    def at(self, shard: str) -> Shard:
        """Return what the gate has of *shard*, after joining it if this process has not.

        Raises:
            NoNodeAvailable: the shard map has the shard, and this gate's settings do not; or the shard does not answer.
        """
        parts = self._parts.get(shard)
        if parts is None:
            raise NoNodeAvailable(
                f"the shard map names {shard!r}, and this gate's settings have no such shard: add it to them"
            )
        self._ready(shard)
        return parts

    def refresh(self) -> bool:
        """Read the map again. Tell whether its source answered."""
        return self._maps.refresh()

    def moved(self, tenant: str, ownership: Ownership, refused: StaleShardMap) -> bool:
        """Read the map again, after a shard has refused *ownership*.

        Returns:
            Whether the tenant's ownership is another one now. If it is not, nobody has written the tenant's rows
            elsewhere yet. A flip may be under way, and the rows that are where the map says are still the newest.

        Raises:
            StaleShardMap: *refused*, if nobody could say whether there is a newer map.
        """
        answered = self._maps.refresh()
        if self.ownership(tenant) != ownership:
            return True
        if not answered:
            raise refused
        return False


def with_newest_map(shards: Shards, split: Callable[[], P], checked: Callable[[P], T], plainly: Callable[[P], T]) -> T:
    """Run a read that touches rows of several tenants, again with a newer map as long as shards refuse it.

    Args:
        shards: the shards of the gate.
        split: splits the read by the map at hand. Two results are equal if the maps say the same of them.
        checked: runs the read; each shard first checks that it owns what its part is about.
        plainly: runs the read without that check.

    Raises:
        StaleShardMap: nobody could say whether there is a newer map, or tenants are flipped again and again.
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
        # Nobody has written these rows elsewhere: they are the newest, whatever the shards' own tables say by now.
        return plainly(parts)


def of_all_shards(shards: Shards, ask: Callable[[Sequence[str], int | None], T]) -> T:
    """Ask all shards for rows that belong to no known tenant, again with a newer map as long as shards refuse.

    Args:
        shards: the shards of the gate.
        ask: asks the shards of these names. Each checks first that it knows no later epoch than the one given; None: it
            does not check.

    Raises:
        StaleShardMap: as for :func:`with_newest_map`.
    """
    return with_newest_map(shards, shards.all, lambda every: ask(*every), lambda every: ask(every[0], None))


_NOTHING: Final[tuple[Sequence[Ownership], int | None]] = ((), None)
_to_check: ContextVar[tuple[Sequence[Ownership], int | None]] = ContextVar("tidegate_to_check", default=_NOTHING)


class ownership_checks:  # noqa: N801  # used as a function is; a generator in its place takes a microsecond of every read
    """Have the sessions of a shard that begin meanwhile check first that the shard owns these units.

    Sessions of such a block check these units only: the innermost block counts.

    Args:
        *ownerships: the units, and since which epoch each must be owned.
        epoch: check also that the shard knows no later epoch than this; None: it may.
    """

    __slots__ = ("_to_check", "_token")

    def __init__(self, *ownerships: Ownership, epoch: int | None = None) -> None:
        self._to_check = ownerships, epoch

    def __enter__(self) -> None:
        self._token = _to_check.set(self._to_check)

    def __exit__(self, *_: object) -> None:
        _to_check.reset(self._token)


def current_checks() -> tuple[Sequence[Ownership], int | None]:
    """Return what a session that begins now must check: ownerships, and an epoch or None."""
    return _to_check.get()


MOST_MOVES: Final = 5
"""How often one call follows a tenant that is flipped again and again."""
