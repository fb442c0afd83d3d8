"""What ``tidegate shards`` shows: the map, and of each shard its slots, tables and busiest tenants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import SQLAlchemyError

from tidegate.error_text import first_line
from tidegate.errors import TidegateError
from tidegate.proxy.shard_admin.tenant_rows import busiest, sizes
from tidegate.repositories.models import WorkflowRun
from tidegate.routing.sharding.slots import SLOTS, slot_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tidegate.proxy.shard_admin.databases import Databases, Known
    from tidegate.proxy.shard_admin.progress import Progress
    from tidegate.proxy.shard_admin.tenant_rows import Busy, Size
    from tidegate.routing.sharding.shard_map import ShardMap

_UNITS: Final = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True, slots=True)
class Seen:
    """What one shard answered.

    Args:
        name: the shard's name.
        where: the address of its primary; or why it did not answer.
        answers: whether it answered.
        sizes: the sizes of its tables.
        busiest: its tenants with the most runs.
    """

    name: str
    where: str
    answers: bool
    sizes: Sequence[Size] = ()
    busiest: Sequence[Busy] = ()


def look(databases: Databases, name: str, report: Progress, *, hours: float, most: int) -> Seen:
    """Ask one shard. That it does not answer is part of what is shown, and raises nothing.

    Args:
        databases: the databases of the shards.
        name: the shard's name.
        report: is told what is being done.
        hours: runs of the last so many hours count.
        most: how many of the busiest tenants to return; 0: none.
    """
    found: list[Size] = []
    try:
        engine = databases.engine(name)
        with engine.connect() as connection:
            for size in sizes(connection):
                found.append(size)
                report(name, f"{size.table} is sized")
            has_runs = any(size.table == WorkflowRun.__tablename__ for size in found)
            report(name, f"counting runs of {hours:g} h")
            busy = busiest(connection, hours=hours, most=most) if most and has_runs else []
    except (TidegateError, SQLAlchemyError) as error:
        return Seen(name, first_line(error), answers=False)
    report(name, "done")
    url = engine.url
    return Seen(
        name, f"{url.host or 'localhost'}:{url.port or 5432}/{url.database}", answers=True, sizes=found, busiest=busy
    )


def map_lines(known: Known, names: Sequence[str]) -> Iterator[str]:
    """Yield the lines that show the map; *names* are the shards that the settings have databases for."""
    shard_map = known.shard_map
    yield f"epoch {shard_map.epoch} of {known.where}"
    yield from aligned([("slots", "shard", "since epoch"), *_stretches(shard_map)])
    for tenant, held in sorted(shard_map.pins.items()):
        yield f"pinned: tenant {tenant} to {held.shard}, since epoch {held.since_epoch}"
    if known.flip is not None:
        flip = known.flip
        yield (
            f"flip under way: {_number(len(flip.slots), 'slot')} ({slots_text(flip.slots)}) from {flip.from_shard} to "
            f"{flip.to_shard}, at epoch {flip.since_epoch}; if no process works on it any more, run: tidegate shards "
            "finish"
        )
    for name in names:
        if name not in shard_map.shards:
            yield f"the shard {name} has a database, but is not in the map; run: tidegate shards add {name}"


def shard_lines(seen: Seen, shard_map: ShardMap, hours: float) -> Iterator[str]:
    """Yield the lines that show one shard."""
    slots = len(shard_map.slots_of(seen.name))
    pins = sum(held.shard == seen.name for held in shard_map.pins.values())
    yield f"shard {seen.name}: {_number(slots, 'slot')} ({slots / SLOTS:.1%}), {_number(pins, 'pinned tenant')}"
    if not seen.answers:
        yield f"  {seen.where}"
        return
    yield f"  {seen.where}"
    rows = [("table", "rows", "tenants", "size"), *(_size(size) for size in seen.sizes)]
    yield from (f"  {line}" for line in aligned(rows))
    if seen.busiest:
        busy = [(f"busiest, {hours:g} h", "runs", "share", "slot"), *(_busy(one) for one in seen.busiest)]
        yield from (f"  {line}" for line in aligned(busy))


def slots_text(slots: Sequence[int]) -> str:
    """Return slots, which are in order, as a person writes them: "5-7, 9"."""
    parts: list[list[int]] = []
    for slot in slots:
        if parts and slot == parts[-1][1] + 1:
            parts[-1][1] = slot
        else:
            parts.append([slot, slot])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows as lines: the first column is aligned to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for first, *others in rows:
        cells = [first.ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        yield "  ".join(cells).rstrip()


def _stretches(shard_map: ShardMap) -> Iterator[tuple[str, str, str]]:
    for first, last, shard, since in shard_map.stretches():
        yield (str(first) if first == last else f"{first}-{last}", shard, str(since))


def _size(size: Size) -> tuple[str, str, str, str]:
    return size.table, _estimate(size.rows, size.exact), _estimate(size.tenants, size.exact), _bytes(size.total_bytes)


def _estimate(number: int | None, exact: bool) -> str:
    return "-" if number is None else f"{'' if exact else '~'}{number:,}"


def _busy(one: Busy) -> tuple[str, str, str, str]:
    return one.tenant, f"{one.runs:,}", f"{one.runs / one.of_all:.1%}", str(slot_of(one.tenant))


def _number(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _bytes(number: float) -> str:
    for unit in _UNITS[:-1]:
        if number < 1000:  # noqa: PLR2004  # what the units differ by
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} {_UNITS[-1]}"
