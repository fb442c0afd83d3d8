"""The shard map: which shard holds which slots and pinned tenants, and since when. Pure data.

A *unit* is what a shard owns as a whole, and what changes hands at once: a slot, or a tenant that is pinned. The map
has an epoch, which is its revision. A unit carries the epoch at which it last changed hands, its *since*. So a change
of a few units says nothing about the others, and what is cached of their tenants stays good.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tidegate.errors import SettingsError
from tidegate.routing.sharding.slots import SLOTS, canonical_tenant, slot_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

FIRST_EPOCH: Final = 1
_FORMAT: Final = 1
_SLOT_UNITS: Final = tuple(f"slot:{slot}" for slot in range(SLOTS))


class Owner(NamedTuple):
    """The shard that holds something, and the epoch since which it does."""

    shard: str
    since_epoch: int = FIRST_EPOCH


class Ownership(NamedTuple):
    """A unit ("slot:17" or "tenant:4c0f..."), the shard that holds it, and the epoch since which it does."""

    unit: str
    shard: str
    since_epoch: int


class Stretch(NamedTuple):
    """The slots from *first* to *last*, both included, that a shard has held since one epoch."""

    first: int
    last: int
    shard: str
    since_epoch: int


@dataclass(frozen=True, slots=True)
class ShardMap:
    """Which shard holds what; made by :func:`even_map`, :func:`map_of_ranges` or :meth:`of_text`.

    Args:
        epoch: the revision, from 1 (0 of :func:`one_shard_map`); no unit's *since_epoch* is above it.
        shards: the names of all shards, also of those without slots.
        slots: the owner of each slot, in order, 4096 of them.
        pins: the owner of each pinned tenant, by canonical id.
    """

    epoch: int
    shards: tuple[str, ...]
    slots: tuple[Owner, ...]
    pins: Mapping[str, Owner] = field(default_factory=dict)

    def ownership(self, tenant: str) -> Ownership:
        """Return the unit that a tenant belongs to, whatever the spelling of its id, and the shard that holds it."""
        canonical = canonical_tenant(tenant)
        if (pin := self.pins.get(canonical)) is not None:
            return Ownership(tenant_unit(canonical), *pin)
        slot = slot_of(canonical)
        shard, since = self.slots[slot]
        return Ownership(slot_unit(slot), shard, since)

    def owned_units(self, shard: str) -> list[Ownership]:
        """Return all units that *shard* holds."""
        slots = [Ownership(slot_unit(i), *held) for i, held in enumerate(self.slots) if held.shard == shard]
        return slots + [Ownership(tenant_unit(t), *held) for t, held in self.pins.items() if held.shard == shard]

    def slots_of(self, shard: str) -> list[int]:
        """Return the slots of *shard*, in order."""
        return [i for i, held in enumerate(self.slots) if held.shard == shard]

    def stretches(self) -> list[Stretch]:
        """Return the slots in order, in as few stretches as possible."""
        found = []
        for held, group in groupby(enumerate(self.slots), key=lambda item: item[1]):
            numbers = [slot for slot, _ in group]
            found.append(Stretch(numbers[0], numbers[-1], *held))
        return found

    def with_slots_moved(self, slots: Iterable[int], shard: str, epoch: int | None = None) -> ShardMap:
        """Return a later map, in which *shard* holds *slots*.

        Args:
            slots: the slots that move.
            shard: the shard that they move to.
            epoch: the epoch of the new map; None: the next one.

        Raises:
            SettingsError: *shard* is not one of the map's, or one of *slots* is no slot.
        """
        _known("the target", shard, self.shards)
        moved = {_checked_slot("the slots to move", slot) for slot in slots}
        epoch = epoch or self.epoch + 1
        held = tuple(Owner(shard, epoch) if i in moved else before for i, before in enumerate(self.slots))
        return replace(self, epoch=epoch, slots=held)

    def with_shard_known(self, shard: str, epoch: int | None = None) -> ShardMap:
        """Return a later map, with a shard that holds nothing yet; this map if it knows the shard already."""
        if shard in self.shards:
            return self
        return replace(self, epoch=epoch or self.epoch + 1, shards=(*self.shards, shard))

    def slots_to_add(self, shard: str) -> dict[str, list[int]]:
        """Return which slots each shard would give to a new one: its last ones, so that stretches stay long.

        Raises:
            SettingsError: the map has a shard of that name.
        """
        if shard in self.shards:
            raise SettingsError(f"the shard {shard!r} is in the map already; give a new one another name")
        owned = {name: self.slots_of(name) for name in self.shards}
        shares = _in_proportion({name: len(slots) for name, slots in owned.items()}, SLOTS // (len(self.shards) + 1))
        return {name: owned[name][len(owned[name]) - count :] for name, count in shares.items()}

    def as_text(self) -> str:
        """Return the map as JSON, which :meth:`of_text` reads."""
        data = {
            "format": _FORMAT,
            "epoch": self.epoch,
            "shards": self.shards,
            "slots": self.stretches(),
            "pins": dict(sorted(self.pins.items())),
        }
        return json.dumps(data, separators=(",", ":"))

    @classmethod
    def of_text(cls, text: str) -> ShardMap:
        """Return the map that :meth:`as_text` wrote.

        Raises:
            SettingsError: *text* is no shard map, or one of another release; the message says where it breaks off.
        """
        try:
            data = json.loads(text)
            if data["format"] != _FORMAT:
                raise SettingsError(f"the shard map has format {data['format']}; this release reads {_FORMAT}")
            stretches = [Stretch(*row) for row in data["slots"]]
            shards, epoch = tuple(data["shards"]), int(data["epoch"])
            ranges = [(row.shard, row.first, row.last) for row in stretches]
            by_range = _slots(ranges, shards, "slots")
            since = {slot: row.since_epoch for row in stretches for slot in range(row.first, row.last + 1)}
            slots = tuple(Owner(shard, since[i]) for i, shard in enumerate(by_range))
            pins = {tenant: Owner(*held) for tenant, held in data["pins"].items()}
            for tenant, held in pins.items():
                _known(f"pins: tenant {tenant!r}", held.shard, shards)
            return cls(epoch, shards, slots, pins)
        except (KeyError, TypeError, ValueError) as error:
            raise SettingsError(f"this is no shard map ({error!r}): {text[:80]!r}") from error


def slot_unit(slot: int) -> str:
    """Return the name of a slot as a unit."""
    return _SLOT_UNITS[slot]


def tenant_unit(tenant: str) -> str:
    """Return the name of a pinned tenant as a unit; its id must be in canonical form."""
    return f"tenant:{tenant}"


def even_map(shards: Sequence[str], pins: Mapping[str, str] | None = None) -> ShardMap:
    """Return the first map of *shards*: one range for each, of equal size.

    If some slots are left over, some ranges have one more.

    Raises:
        SettingsError: there is no shard, two have one name, a pin names an unknown one, or a tenant is pinned twice.
    """
    names = _distinct(shards)
    bounds = [SLOTS * i // len(names) for i in range(len(names) + 1)]
    ranges = {name: [(bounds[i], bounds[i + 1] - 1)] for i, name in enumerate(names)}
    return map_of_ranges(names, ranges, pins)


def one_shard_map(shard: str) -> ShardMap:
    """Return the map in which one shard has every slot. It is never replaced, and its epoch is 0."""
    return ShardMap(0, (shard,), (Owner(shard, 0),) * SLOTS)


def map_of_ranges(
    shards: Sequence[str], ranges: Mapping[str, Sequence[tuple[int, int]]], pins: Mapping[str, str] | None = None
) -> ShardMap:
    """Return the first map of *shards*, as settings say it.

    Args:
        shards: the names of the shards.
        ranges: by shard, the slots that it holds, as (first, last), both included.
        pins: shards by tenant, in any spelling.

    Raises:
        SettingsError: there is no shard, two have one name, a range or pin names an unknown one, ranges overlap, leave
            a gap or leave 0 to 4095, or a tenant is pinned twice. The message names it.
    """
    names = _distinct(shards)
    for name in ranges:
        _known("sharding.ranges", name, names)
    of_all = [(name, first, last) for name, given in ranges.items() for first, last in given]
    owners = {name: Owner(name) for name in names}
    slots = tuple(owners[name] for name in _slots(of_all, names, "sharding.ranges"))
    return ShardMap(FIRST_EPOCH, names, slots, _pins(pins or {}, names))


def _slots(ranges: Iterable[tuple[str, int, int]], shards: Sequence[str], where: str) -> list[str]:
    """Return the shard of each slot."""
    owners: list[str | None] = [None] * SLOTS
    for name, first, last in ranges:
        _known(where, name, shards)
        this = f"{where}: {name} has {first}-{last}"
        if _checked_slot(this, first) > _checked_slot(this, last):
            raise SettingsError(f"{this}, which ends before it begins")
        for slot in range(first, last + 1):
            if owners[slot] is not None:
                raise SettingsError(f"{this}, but slot {slot} belongs to {owners[slot]} already")
            owners[slot] = name
    if None in owners:
        first = last = owners.index(None)
        while last + 1 < SLOTS and owners[last + 1] is None:
            last += 1
        raise SettingsError(
            f"{where}: no shard has the slots {first}-{last}; every one from 0 to {SLOTS - 1} needs one"
        )
    return [owner for owner in owners if owner is not None]


def _pins(pins: Mapping[str, str], shards: Sequence[str]) -> dict[str, Owner]:
    found: dict[str, Owner] = {}
    spelt: dict[str, str] = {}
    for tenant, shard in pins.items():
        _known(f"sharding.pins: tenant {tenant!r}", shard, shards)
        canonical = canonical_tenant(tenant)
        if canonical in found:
            raise SettingsError(f"sharding.pins: {spelt[canonical]!r} and {tenant!r} are the same tenant; pin it once")
        found[canonical], spelt[canonical] = Owner(shard), tenant
    return found


def _distinct(shards: Sequence[str]) -> tuple[str, ...]:
    if not shards:
        raise SettingsError("shards: there is none, and a shard map needs at least one")
    name, times = Counter(shards).most_common(1)[0]
    if times > 1:
        raise SettingsError(f"shards: {times} are called {name!r}; each needs a name of its own")
    return tuple(shards)


def _known(where: str, shard: str, shards: Sequence[str]) -> None:
    if shard not in shards:
        raise SettingsError(f"{where} names the shard {shard!r}; known are {', '.join(shards)}")


def _checked_slot(where: str, slot: Any) -> int:
    if isinstance(slot, bool) or not isinstance(slot, int) or not 0 <= slot < SLOTS:
        raise SettingsError(f"{where}: slots are whole numbers from 0 to {SLOTS - 1}, not {slot!r}")
    return slot


def _in_proportion(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Divide *total* into whole shares, each in proportion to its size. The largest remainders are rounded up."""
    exact = {name: size * total / SLOTS for name, size in sizes.items()}
    shares = {name: int(share) for name, share in exact.items()}
    over = total - sum(shares.values())
    for name in sorted(exact, key=lambda name: (shares[name] - exact[name], name))[:over]:
        shares[name] += 1
    return shares
