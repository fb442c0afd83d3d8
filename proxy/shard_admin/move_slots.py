"""Handing slots over as commands do: none whose tenants have rows, unless somebody says that those were copied."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.exc import OperationalError

from tidegate.errors import RoutingError, SettingsError
from tidegate.proxy.database.schema import missing_tables
from tidegate.proxy.shard_admin.check_ownership import newer_epoch, rebuilt, records
from tidegate.proxy.shard_admin.flip import Flipper
from tidegate.proxy.shard_admin.tenant_rows import WITH_TENANT, is_indexed, missing, tenants
from tidegate.routing.sharding.slots import SLOTS, slot_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from sqlalchemy import Connection, Engine

    from tidegate.proxy.shard_admin.databases import Databases
    from tidegate.proxy.shard_admin.progress import Progress
    from tidegate.proxy.shards.catalogue import Catalogue, FlipPlan
    from tidegate.routing.sharding.shard_map import ShardMap

_CANCELED: Final = "57014"
_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Move:
    """Slots that one shard would give to another."""

    from_shard: str
    to_shard: str
    slots: tuple[int, ...]


class SlotMoves:
    """Plans moves, sees that they leave no row behind, and carries them out, each as one flip.

    Args:
        databases: of the shards; their settings name a catalogue.
        report: shows how far it is.
        rows_copied: somebody has said that the rows of these slots' tenants were copied; they are not looked for.
        drain_s: see :class:`~tidegate.proxy.shard_admin.flip.Flipper`.

    Raises:
        SettingsError: there is no catalogue, so the settings are the map.
    """

    def __init__(
        self, databases: Databases, report: Progress, *, rows_copied: bool = False, drain_s: float = 5.0
    ) -> None:
        catalogue = databases.catalogue()
        if catalogue is None:
            raise SettingsError(
                "sharding.catalogue is not set, so these settings are the map of every gate and nothing can be handed "
                f"over: name the shard that shall keep the map ({', '.join(databases.names)})"
            )
        self._databases = databases
        self._catalogue: Catalogue = catalogue
        self._report = report
        self._rows_copied = rows_copied
        self._drain_s = drain_s

    def to(self, slots: Sequence[int], target: str) -> list[Move]:
        """The moves after which *target* has *slots*: one for each shard that has some; none where it has them all.

        Raises:
            SettingsError: the map does not know *target*.
        """
        shard_map = self._map()
        shard_map.with_slots_moved(slots, target)
        giving: dict[str, list[int]] = {}
        for slot in sorted(set(slots)):
            giving.setdefault(shard_map.slots[slot].shard, []).append(slot)
        return [Move(giver, target, tuple(given)) for giver, given in giving.items() if giver != target]

    def to_add(self, shard: str) -> list[Move]:
        """The moves after which a new shard has its share; what is left of them, where that was broken off.

        Raises:
            SettingsError: the settings have no database of that name, or it is not ready.
        """
        self._verify_ready(shard)
        shard_map = self._map()
        if not shard_map.slots_of(shard):
            shares = _without(shard_map, shard).slots_to_add(shard)
        else:
            shares = _rest(shard_map, shard)
        return [Move(giver, shard, tuple(slots)) for giver, slots in shares.items() if slots]

    def verify_empty(self, moves: Sequence[Move]) -> None:
        """See that no tenant of these slots has a row, where they are or where they shall go; reads no row twice.

        Raises:
            RoutingError: some have; names them.
        """
        if self._rows_copied:
            return
        slots = {slot for move in moves for slot in move.slots}
        pins = self._map().pins
        for shard in dict.fromkeys(name for move in moves for name in (move.from_shard, move.to_shard)):
            with self._databases.engine(shard).connect() as connection:
                if said := _rows_of(connection, shard, slots, pins, self._report, indexed_only=False):
                    raise RoutingError(f"{said}; nothing was changed")

    def make_known(self, shard: str) -> None:
        """Publish a map that knows *shard*, which holds nothing yet; nothing where it is known.

        Raises:
            RoutingError: somebody else has changed the map meanwhile, or a flip is under way.
        """
        entry = self._catalogue.load()
        if entry is None:
            raise SettingsError("the catalogue has no shard map yet: a gate with sharding.catalogue set publishes one")
        if shard not in entry.shard_map.shards:
            known = entry.shard_map.with_shard_known(shard, entry.next_epoch)
            self._catalogue.publish(known, entry.shard_map.epoch)

    def carry_out(self, moves: Sequence[Move], done: Callable[[Move], None]) -> ShardMap:
        """Flip one move after the other, tell *done* of each, and give the newest map.

        Raises:
            RoutingError: see :meth:`~tidegate.proxy.shard_admin.flip.Flipper.flip`; those before it are done.
        """
        flipper = self._flipper()
        for move in moves:
            self._report(move.from_shard, f"handing {len(move.slots)} slots to {move.to_shard}")
            flipper.flip(move.slots, move.from_shard, move.to_shard)
            self._report(move.from_shard, "")
            done(move)
        return self._map()

    def finish(self) -> tuple[FlipPlan | None, ShardMap]:
        """Finish the flip that is under way: which, if there was one, and the map.

        Raises:
            RoutingError: see :meth:`~tidegate.proxy.shard_admin.flip.Flipper.finish`.
        """
        entry = self._catalogue.load()
        return (None if entry is None else entry.flip), self._flipper().finish()

    def repair(self) -> ShardMap | None:
        """Publish a map of what the shards own, where the catalogue has lost its newest; None where it has not.

        Raises:
            SettingsError: a unit has no owner, or several.
            RoutingError: the catalogue has a flip under way: that one comes first.
        """
        known = self._databases.known()
        recorded = {name: records(self._databases.own_engine(name)) for name in self._all_shards(known.shard_map)}
        if newer_epoch(known, recorded) is None:
            return None
        if known.flip is not None:
            raise RoutingError("a flip is under way in the catalogue; run: tidegate shards finish, and this again")
        made = rebuilt(known, recorded)
        self._catalogue.publish(made, known.shard_map.epoch)
        return made

    def _map(self) -> ShardMap:
        return self._databases.known().shard_map

    def _all_shards(self, shard_map: ShardMap) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*shard_map.shards, *self._databases.names)))

    def _flipper(self) -> Flipper:
        engines = _Engines(self._databases)
        return Flipper(self._catalogue, engines, drain_s=self._drain_s, objection=self._objection)

    def _objection(self, connection: Connection, plan: FlipPlan) -> str | None:
        """Rows that came since :meth:`see_empty`; no more can come."""
        if self._rows_copied:
            return None
        try:
            slots, pins = set(plan.slots), self._map().pins
            return _rows_of(connection, plan.from_shard, slots, pins, self._report, indexed_only=True)
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != _CANCELED:
                raise
            return f"whether {plan.from_shard} has rows of these slots could not be told within {self._drain_s:g} s"

    def _verify_ready(self, shard: str) -> None:
        engine = self._databases.own_engine(shard)
        identity = self._databases.identity(shard)
        for other in self._databases.names:
            if other != shard and self._databases.identity(other) == identity:
                raise SettingsError(f"the URLs of {other} and {shard} lead to the same database; a shard has its own")
        if gone := missing_tables(engine):
            raise SettingsError(f"{shard} has no table {', '.join(gone)}: run tidegate init --url with its URL")
        with engine.connect() as connection:
            if gone := missing(connection):
                raise SettingsError(f"{shard} has no table {', '.join(gone)}: run the application's migrations there")


class _Engines(dict[str, "Engine"]):
    """Those that are asked for, found then: a shard that takes no part may be away."""

    def __init__(self, databases: Databases) -> None:
        super().__init__()
        self._databases = databases

    def __missing__(self, name: str) -> Engine:
        return self._databases.own_engine(name)

    def __contains__(self, name: object) -> bool:
        return name in self._databases.names

    def __iter__(self) -> Iterator[str]:
        return iter(self._databases.names)


def _without(shard_map: ShardMap, shard: str) -> ShardMap:
    """The map as it was before it knew a shard that holds nothing."""
    return replace(shard_map, shards=tuple(name for name in shard_map.shards if name != shard))


def _rest(shard_map: ShardMap, shard: str) -> dict[str, list[int]]:
    """What a shard lacks to its share, from those that have most: of an even map, those that have not given yet."""
    sizes = Counter({name: len(shard_map.slots_of(name)) for name in shard_map.shards if name != shard})
    taken: Counter[str] = Counter()
    for _ in range(SLOTS // len(shard_map.shards) - len(shard_map.slots_of(shard))):
        largest = max(sizes, key=lambda name: (sizes[name], name))
        sizes[largest] -= 1
        taken[largest] += 1
    return {name: shard_map.slots_of(name)[-count:] for name, count in sorted(taken.items())}


def _rows_of(
    connection: Connection,
    shard: str,
    slots: Collection[int],
    pins: Mapping[str, Any],
    report: Progress,
    *,
    indexed_only: bool,
) -> str | None:
    """Whose rows, of these slots, a shard has; None if it has none. Pinned tenants belong to no slot."""
    found: dict[str, str] = {}
    for one in WITH_TENANT:
        # A table whose tenants no index knows is read whole, which cannot be done while writes wait. Its rows come with
        # rows of their parents, which are found.
        if indexed_only and not is_indexed(connection, one):
            continue
        report(shard, f"looking for rows in {one.table.name}")
        for tenant in tenants(connection, one):
            if tenant not in pins and slot_of(tenant) in slots:
                found.setdefault(tenant, one.table.name)
                if len(found) > _NAMED:
                    break
    report(shard, "")
    if not found:
        return None
    some = ", ".join(f"{tenant} (slot {slot_of(tenant)}, {table})" for tenant, table in list(found.items())[:_NAMED])
    more = " and others" if len(found) > _NAMED else ""
    return (
        f"{shard} has rows of tenants in these slots: {some}{more}. A flip hands over slots; moving rows is not built, "
        "and these tenants would find nothing. Copy their rows to the new shard first, with their writers stopped, and "
        "say --rows-copied; or choose slots without rows"
    )
