"""Flipping slots as the commands do it: none whose tenants have rows, unless somebody says that these were copied."""

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
    """The slots that one shard gives to another."""

    from_shard: str
    to_shard: str
    slots: tuple[int, ...]


class SlotMoves:
    """Plan moves, check that they leave no row behind, and carry them out, each as one flip.

    Args:
        databases: the databases of the shards; their settings name a catalogue.
        report: is told what is being done.
        rows_copied: somebody has said that the rows of these slots' tenants were copied, so no rows are looked for.
        drain_s: how long writes that had begun may take to end, in seconds; new ones are refused meanwhile.

    Raises:
        SettingsError: there is no catalogue, so the settings are the map.
    """

    def __init__(
        self, databases: Databases, report: Progress, *, rows_copied: bool = False, drain_s: float = 5.0
    ) -> None:
        catalogue = databases.catalogue()
        if catalogue is None:
            raise SettingsError(
                "sharding.catalogue is not set, so these settings are the map of every gate and no slot can be "
                f"flipped: set it to the shard that shall keep the map ({', '.join(databases.names)})"
            )
        self._databases = databases
        self._catalogue: Catalogue = catalogue
        self._report = report
        self._rows_copied = rows_copied
        self._drain_s = drain_s

    def to(self, slots: Sequence[int], target: str) -> list[Move]:
        """Return the moves after which *target* has *slots*: one for each other shard that has some of them.

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
        """Return the moves after which a new shard has its share, or the rest of them after an interruption.

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
        """Check that no tenant of these slots has a row, on the shards that give them and on those that get them.

        Each shard is read once.

        Raises:
            RoutingError: some tenants have rows; the message names some of them.
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
        """Publish a map that knows *shard*, which owns nothing yet; do nothing if the map knows it.

        Raises:
            SettingsError: the catalogue has no map yet.
            RoutingError: somebody else has changed the map meanwhile, or a flip is under way.
        """
        entry = self._catalogue.load()
        if entry is None:
            raise SettingsError("the catalogue has no shard map yet: a gate with sharding.catalogue set publishes one")
        if shard not in entry.shard_map.shards:
            known = entry.shard_map.with_shard_known(shard, entry.next_epoch)
            self._catalogue.publish(known, entry.shard_map.epoch)

    def carry_out(self, moves: Sequence[Move], done: Callable[[Move], None]) -> ShardMap:
        """Flip one move after the other, call *done* after each, and return the newest map.

        Raises:
            RoutingError: as for :meth:`~tidegate.proxy.shard_admin.flip.Flipper.flip`. The moves before it are done.
        """
        flipper = self._flipper()
        for move in moves:
            self._report(move.from_shard, f"flipping {len(move.slots)} slots to {move.to_shard}")
            flipper.flip(move.slots, move.from_shard, move.to_shard)
            self._report(move.from_shard, "")
            done(move)
        return self._map()

    def finish(self) -> tuple[FlipPlan | None, ShardMap]:
        """Finish the flip that is under way. Return that flip, or None if there was none, and the map.

        Raises:
            RoutingError: as for :meth:`~tidegate.proxy.shard_admin.flip.Flipper.finish`.
        """
        entry = self._catalogue.load()
        return (None if entry is None else entry.flip), self._flipper().finish()

    def repair(self) -> ShardMap | None:
        """Publish a map of what the shards own, if the catalogue has lost its newest map; return None if it has not.

        Raises:
            SettingsError: a unit has no owner, or several.
            RoutingError: a flip is under way in the catalogue, and must be finished first.
        """
        known = self._databases.known()
        recorded = {name: records(self._databases.own_engine(name)) for name in self._all_shards(known.shard_map)}
        if newer_epoch(known, recorded) is None:
            return None
        if known.flip is not None:
            raise RoutingError("a flip is under way in the catalogue; run: tidegate shards finish, then run this again")
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
        """Return which rows came since :meth:`verify_empty`, or None; no more can come."""
        if self._rows_copied:
            return None
        try:
            slots, pins = set(plan.slots), self._map().pins
            return _rows_of(connection, plan.from_shard, slots, pins, self._report, indexed_only=True)
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != _CANCELED:
                raise
            return f"{plan.from_shard} could not be searched for rows of these slots within {self._drain_s:g} s"

    def _verify_ready(self, shard: str) -> None:
        engine = self._databases.own_engine(shard)
        identity = self._databases.identity(shard)
        for other in self._databases.names:
            if other != shard and self._databases.identity(other) == identity:
                raise SettingsError(
                    f"the URLs of {other} and {shard} lead to the same database; each shard needs a database of its own"
                )
        if gone := missing_tables(engine):
            raise SettingsError(f"{shard} has no table {', '.join(gone)}: run tidegate init --url with its URL")
        with engine.connect() as connection:
            if gone := missing(connection):
                raise SettingsError(f"{shard} has no table {', '.join(gone)}: run the application's migrations there")


class _Engines(dict[str, "Engine"]):
    """Find the engines of those shards that are asked for, when they are: a shard that takes no part may be away."""

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
    """Return the map as it was before it knew a shard that owns nothing."""
    return replace(shard_map, shards=tuple(name for name in shard_map.shards if name != shard))


def _rest(shard_map: ShardMap, shard: str) -> dict[str, list[int]]:
    """Return the slots that a shard still lacks of its share, taken from the shards that have most.

    In an even map these are the shards that have not given yet.
    """
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
    """Return a sentence that names tenants of these slots with rows on a shard; None if there are none.

    Pinned tenants belong to no slot.
    """
    found: dict[str, str] = {}
    for one in WITH_TENANT:
        # A table without an index on the tenant must be read whole, which takes too long while writes wait. It can be
        # left out: its rows come together with rows of their parents, and those are found.
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
        f"{shard} has rows of tenants in these slots: {some}{more}. A flip changes the owner of slots and copies no "
        "rows (moving rows is not built), so these tenants would find nothing. Stop their writers, copy their rows to "
        "the new shard, and add --rows-copied; or choose slots without rows"
    )
