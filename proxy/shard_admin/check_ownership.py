"""Whether the shards own, by their own tables, what the shard map says; and a map of what they own, where not."""

from __future__ import annotations

from itertools import chain, groupby
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import inspect, select

from tidegate.errors import SettingsError
from tidegate.proxy.database.placement import own, schema_of
from tidegate.proxy.database.schema import CLOSING, OWNERSHIP
from tidegate.routing.sharding.shard_map import Owner, ShardMap, slot_unit, tenant_unit
from tidegate.routing.sharding.slots import SLOTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sqlalchemy import Engine

    from tidegate.proxy.shard_admin.databases import Known
    from tidegate.proxy.shards.catalogue import FlipPlan

# A gate may have a map that was lost and flipped nothing, so that no shard knows its epoch. It follows no map with an
# older epoch than that. So the new map's epoch must be above all of these.
_EPOCHS_LOST_AT_MOST = 1000


class Records(NamedTuple):
    """What a shard's own tables say of units: which it owns, gave away, or is closing, and since which epoch."""

    owned: Mapping[str, int]
    gone: Mapping[str, int]
    closing: Mapping[str, int]

    @property
    def last_epoch(self) -> int:
        """Return the last epoch that the shard knows; 0 if it knows none."""
        return max(chain(self.owned.values(), self.gone.values(), self.closing.values()), default=0)


def records(engine: Engine) -> Records:
    """Read the records of one shard, in one snapshot; they are empty where it has no such tables yet."""
    with own(engine).connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        if not inspect(connection).has_table(OWNERSHIP.name, schema_of(connection)):
            return Records({}, {}, {})
        rows = connection.execute(select(OWNERSHIP.c.unit, OWNERSHIP.c.since, OWNERSHIP.c.owned)).all()
        closed = connection.execute(select(CLOSING.c.unit, CLOSING.c.since).where(CLOSING.c.closed)).all()
    owned = {row.unit: row.since for row in rows if row.owned}
    gone = {row.unit: row.since for row in rows if not row.owned}
    closing = {row.unit: row.since for row in closed if row.since > owned.get(row.unit, 0)}
    return Records(owned, gone, closing)


def disagreements(known: Known, recorded: Mapping[str, Records]) -> list[str]:
    """Return where the map and the shards differ, one line for each range of slots and each pin that differ alike.

    Args:
        known: the map, and the flip that is under way. The slots of that flip may be at any of its steps.
        recorded: the records of the shards that answer. A unit that only another shard can own is left out.
    """
    found = [(unit, _told(unit, known, recorded)) for unit in _units(known.shard_map, recorded)]
    found += [
        (unit, f"{shard} refuses writes for a flip at epoch {since} that is not under way: flip them again")
        for shard, of_shard in recorded.items()
        for unit, since in of_shard.closing.items()
        if known.flip is None or unit not in _flipped(known.flip)
    ]
    return list(_lines((unit, text) for unit, text in found if text))


def newer_epoch(known: Known, recorded: Mapping[str, Records]) -> int | None:
    """Return the last epoch that a shard knows, if it is later than all that the map's source has given; else None."""
    last = max((of_shard.last_epoch for of_shard in recorded.values()), default=0)
    return last if last > known.last_epoch else None


def rebuilt(known: Known, recorded: Mapping[str, Records]) -> ShardMap:
    """Make the map that says what the shards own, with an epoch that no gate can have had.

    Raises:
        SettingsError: a unit has no owner, or several; the message names the first such unit.
    """
    owners: dict[str, list[Owner]] = {}
    for shard, of_shard in recorded.items():
        for unit, since in of_shard.owned.items():
            owners.setdefault(unit, []).append(Owner(shard, since))
    for unit in (slot_unit(slot) for slot in range(SLOTS)):
        owners.setdefault(unit, [])
    for unit, held in owners.items():
        if len(held) != 1:
            raise SettingsError(f"no map can be made of what the shards own: {unit} is owned by {_owners(held)}")
    last = max(known.last_epoch, *(of_shard.last_epoch for of_shard in recorded.values()))
    pinned = tenant_unit("")
    return ShardMap(
        epoch=last + _EPOCHS_LOST_AT_MOST,
        shards=tuple(dict.fromkeys((*known.shard_map.shards, *(held[0].shard for held in owners.values())))),
        slots=tuple(owners[slot_unit(slot)][0] for slot in range(SLOTS)),
        pins={unit.removeprefix(pinned): held[0] for unit, held in owners.items() if unit.startswith(pinned)},
    )


def _units(shard_map: ShardMap, recorded: Mapping[str, Records]) -> list[str]:
    """Return all units: first the slots in order, then the pinned tenants."""
    slots = [slot_unit(slot) for slot in range(SLOTS)]
    pins = {tenant_unit(tenant) for tenant in shard_map.pins}
    for of_shard in recorded.values():
        pins.update(of_shard.owned)
    return slots + sorted(pins.difference(slots))


def _told(unit: str, known: Known, recorded: Mapping[str, Records]) -> str | None:
    """Return what is wrong with a unit; None if nothing is."""
    owners = [Owner(shard, found.owned[unit]) for shard, found in recorded.items() if unit in found.owned]
    held = _held(unit, known.shard_map)
    if held is None:
        return f"the map knows no such unit; owned by {_owners(owners)}"
    if owners == [held] or (not owners and held.shard not in recorded):
        return None
    if known.flip is not None and unit in _flipped(known.flip) and _on_its_way(owners, held, known.flip):
        return None
    return f"the map says {held.shard} since epoch {held.since_epoch}; owned by {_owners(owners)}"


def _held(unit: str, shard_map: ShardMap) -> Owner | None:
    kind, _, name = unit.partition(":")
    if kind == "slot":
        return shard_map.slots[int(name)] if name.isdigit() and int(name) < SLOTS else None
    return shard_map.pins.get(name)


def _on_its_way(owners: list[Owner], held: Owner, flip: FlipPlan) -> bool:
    """Tell whether a unit is between two steps of *flip*.

    Until it is fenced, it is owned as the map says. Then nobody owns it, and then *to_shard* does, by this attempt or
    an earlier one.
    """
    return len(owners) <= 1 and all(
        o.shard == flip.to_shard and held.since_epoch < o.since_epoch <= flip.since_epoch for o in owners
    )


def _flipped(flip: FlipPlan) -> set[str]:
    return {slot_unit(slot) for slot in flip.slots}


def _owners(owners: list[Owner]) -> str:
    return " and ".join(f"{held.shard} since epoch {held.since_epoch}" for held in owners) or "nobody"


def _lines(found: Iterable[tuple[str, str]]) -> Iterator[str]:
    number = 0

    def together(item: tuple[str, str]) -> tuple[str, int | str]:
        # For slots that follow each other, the slot's number minus its place in this list stays the same.
        nonlocal number
        number += 1
        unit, text = item
        kind, _, name = unit.partition(":")
        return text, int(name) - number if kind == "slot" and name.isdigit() else unit

    for (text, _), group in groupby(found, key=together):
        units = [unit for unit, _ in group]
        first, last = units[0].partition(":")[2], units[-1].partition(":")[2]
        name = units[0].replace(":", " ") if len(units) == 1 else f"slots {first}-{last}"
        yield f"{name}: {text}"
