"""Whether every row is on the shard that owns its tenant.

In a table with a tenant, each distinct tenant is looked up in the map. A row without a tenant belongs to the row that
it names (a pause to its run), so it must find that row on its own shard; the tenant of that row is checked with its own
table. A row whose parent is on no shard belongs to nobody any more: it is counted, and is not wrong.

Tenants and ids are streamed, a thousand at a time. Of the wrong rows some are named, and the others are counted.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import exists, func, select

from tidegate.proxy.shard_admin.tenant_rows import WITH_TENANT, WITHOUT_TENANT, missing, tenants
from tidegate.routing.sharding.slots import slot_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection, Engine, Select

    from tidegate.proxy.shard_admin.progress import Progress
    from tidegate.proxy.shard_admin.tenant_rows import ParentTable, TenantTable
    from tidegate.routing.sharding.shard_map import ShardMap

_PAGE: Final = 1000
_COUNTED: Final = 10_000
_NAMED: Final = 10


@dataclass(slots=True)
class Found:
    """What the check found; several threads may add to it.

    Args:
        wrong: lines that say what is on a wrong shard.
        tenants: how many tenants were looked up; each counts once for every shard and table that it has rows in.
        by_parent: how many rows without a tenant were checked.
        orphans: how many of these name a row that is on no shard.
    """

    wrong: list[str] = field(default_factory=list)
    tenants: int = 0
    by_parent: int = 0
    orphans: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, wrong: Sequence[str] = (), tenants: int = 0, by_parent: int = 0, orphans: int = 0) -> None:
        """Add what was found on one shard in one table."""
        with self._lock:
            self.wrong += wrong
            self.tenants += tenants
            self.by_parent += by_parent
            self.orphans += orphans


def check_rows(shard: str, engines: Mapping[str, Engine], shard_map: ShardMap, found: Found, report: Progress) -> None:
    """Check all tracked tables of one shard, and add the result to *found*.

    Args:
        shard: the shard whose rows are checked.
        engines: the engines of all shards that answer. The parents of rows are looked for there if they are not on
            *shard*.
        shard_map: says which shard owns which tenant.
        found: takes the result.
        report: is told what is being done.
    """
    with engines[shard].connect() as connection:
        gone = missing(connection)
        # A shard that is not in the map yet need not have these tables.
        if gone and shard in shard_map.shards:
            found.add(
                [f"{shard} has no table {', '.join(gone)}: check that its URL leads to the application's database"]
            )
        for one in WITH_TENANT:
            if one.table.name not in gone:
                _check_tenants(connection, one, shard, shard_map, found, report)
        for child in WITHOUT_TENANT:
            if child.table.name not in gone and child.parent.table.name not in gone:
                _check_children(connection, child, shard, engines, found, report)
    report(shard, "done")


def _check_tenants(
    connection: Connection, one: TenantTable, shard: str, shard_map: ShardMap, found: Found, report: Progress
) -> None:
    name, number, misplaced = one.table.name, 0, _Named(f"{shard}.{one.table.name}", "tenants")
    report(shard, name)
    for number, tenant in enumerate(tenants(connection, one), 1):
        if number % _PAGE == 0:
            report(shard, f"{name}, {number:,} tenants")
        ownership = shard_map.ownership(tenant)
        if ownership.shard != shard:
            misplaced.add(tenant, f"(slot {slot_of(tenant)}), which {ownership.shard} owns")
    # Count the rows only now: above, this connection was still streaming the tenants.
    lines = misplaced.lines(lambda tenant: f"{_rows(connection, one, tenant)} of tenant")
    found.add(lines, tenants=number)


def _check_children(
    connection: Connection,
    child: ParentTable,
    shard: str,
    engines: Mapping[str, Engine],
    found: Found,
    report: Progress,
) -> None:
    name, parents = child.table.name, child.parent.table.name
    done, orphans, last, misplaced = 0, 0, None, _Named(f"{shard}.{name}", "rows")
    while page := connection.execute(_children(child, last)).all():
        done, last = done + len(page), page[-1].key
        report(shard, f"{name}, {done:,} rows")
        without = {row.key: row.parent for row in page if not row.there}
        elsewhere = _elsewhere(child, set(without.values()), shard, engines) if without else {}
        for key, parent in without.items():
            if parent in elsewhere:
                misplaced.add(key, f"belongs to {parent} of {parents}, which lies on {elsewhere[parent]}")
            else:
                orphans += 1
    found.add(misplaced.lines(lambda _key: "the row"), by_parent=done, orphans=orphans)


def _children(child: ParentTable, after: str | None) -> Select[Any]:
    """Return the statement for the next rows, what they name, and whether that is there; all in one snapshot."""
    above = [] if after is None else [child.key > after]
    page = select(child.key.label("key"), child.field.label("parent")).where(*above).order_by(child.key).limit(_PAGE)
    rows = page.subquery()
    there = exists().where(child.parent == rows.c.parent).label("there")
    return select(rows.c.key, rows.c.parent, there).order_by(rows.c.key)


def _elsewhere(child: ParentTable, parents: set[str], shard: str, engines: Mapping[str, Engine]) -> dict[str, str]:
    """Return, for those of *parents* that are on another shard, which shard that is."""
    statement = select(child.parent).where(child.parent.in_(parents))
    found: dict[str, str] = {}
    for other, engine in engines.items():
        if other != shard:
            with engine.connect() as connection:
                found |= dict.fromkeys(connection.scalars(statement), other)
    return found


def _rows(connection: Connection, one: TenantTable, tenant: str) -> str:
    some = select(one.tenant).where(one.tenant == tenant).limit(_COUNTED + 1).subquery()
    number = connection.scalar(select(func.count()).select_from(some)) or 0
    return f"more than {_COUNTED:,} rows" if number > _COUNTED else f"{number:,} row{'' if number == 1 else 's'}"


class _Named:
    """Name some wrong things, and count the others."""

    def __init__(self, where: str, what: str) -> None:
        self._where = where
        self._what = what
        self._some: list[tuple[str, str]] = []
        self._others = 0

    def add(self, name: str, why: str) -> None:
        if len(self._some) < _NAMED:
            self._some.append((name, why))
        else:
            self._others += 1

    def lines(self, before: Any) -> list[str]:
        lines = [f"{self._where}: {before(name)} {name} {why}" for name, why in self._some]
        return lines + ([f"{self._where}: and {self._others:,} more {self._what}"] if self._others else [])
