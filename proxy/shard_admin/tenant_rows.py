"""What rows a shard has: of which tenants, how many, how large, and which tenants have most of the new ones."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import Table, distinct, func, inspect, literal, over, select, text

from tidegate.repositories.columns import naive_utc_now
from tidegate.repositories.models import WorkflowRun
from tidegate.repositories.policies import name_of
from tidegate.repositories.tracked import TRACKED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Column, Connection, ScalarSelect, Select

    from tidegate.repositories.policies import Tracked

_PAGE: Final = 1000
_COUNTED_BYTES: Final = 16 * 1024 * 1024
_SIZES: Final = text(
    "SELECT reltuples, pg_relation_size(oid) AS heap, pg_total_relation_size(oid) AS total"
    " FROM pg_class WHERE oid = to_regclass(:table)"
)
_DISTINCT: Final = text(
    "SELECT s.n_distinct FROM pg_stats s JOIN pg_class c ON c.relname = s.tablename"
    " JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = s.schemaname"
    " WHERE c.oid = to_regclass(:table) AND s.attname = :column"
)
_INDEXED: Final = text(
    "SELECT EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam"
    " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]"
    " WHERE i.indrelid = to_regclass(:table) AND i.indisvalid AND i.indpred IS NULL AND m.amname = 'btree'"
    " AND a.attname = :column)"
)


class TenantTable(NamedTuple):
    """A tracked table that has the tenant in a column."""

    table: Table
    tenant: Column[Any]


class ParentTable(NamedTuple):
    """A tracked table without a tenant: its *field* names the key of a row of *parent*, whose tenant is its own too."""

    table: Table
    key: Column[Any]
    field: Column[Any]
    parent: Column[Any]


class Size(NamedTuple):
    """The size of one table: rows and tenants, exact or estimated (None: not known), and bytes with indexes and all."""

    table: str
    rows: int | None
    tenants: int | None
    exact: bool
    total_bytes: int


class Busy(NamedTuple):
    """A tenant, its number of runs, and that of all tenants of the shard, in the time that was asked for."""

    tenant: str
    runs: int
    of_all: int


def _tables() -> tuple[tuple[TenantTable, ...], tuple[ParentTable, ...]]:
    having, without = [], []
    for tracked in TRACKED:
        mapper: Any = inspect(tracked.model)
        if tracked.tenant is not None:
            having.append(TenantTable(mapper.local_table, mapper.columns[tracked.tenant]))
        else:
            without.append(_of_parent(tracked, mapper))
    return tuple(having), tuple(without)


def _of_parent(tracked: Tracked, mapper: Any) -> ParentTable:
    if tracked.parent is None:
        raise TypeError(f"{name_of(tracked.model)} has neither a tenant nor a parent that has one")
    (field,) = tracked.parent_columns
    above: Any = inspect(tracked.parent[1])
    return ParentTable(mapper.local_table, mapper.primary_key[0], mapper.columns[field], above.primary_key[0])


WITH_TENANT, WITHOUT_TENANT = _tables()
TABLES: Final = (*(one.table for one in WITH_TENANT), *(one.table for one in WITHOUT_TENANT))


def missing(connection: Connection) -> list[str]:
    """Return the names of the tracked tables that are not there."""
    there = set(inspect(connection).get_table_names())
    return [table.name for table in TABLES if table.name not in there]


def is_indexed(connection: Connection, one: TenantTable) -> bool:
    """Tell whether an index begins with the table's tenant, so that its tenants are found without reading all of it."""
    return bool(connection.scalar(_INDEXED, {"table": one.table.name, "column": one.tenant.name}))


def tenants(connection: Connection, one: TenantTable) -> Iterator[str]:
    """Yield each tenant that has a row in a table, in order, streamed.

    Where an index begins with the tenant, it is searched once for each tenant, however many rows that tenant has; one
    statement brings 1,000 tenants. Where none does, the table is read once.
    """
    if not is_indexed(connection, one):
        every = select(one.tenant).distinct().order_by(one.tenant)
        yield from connection.execution_options(yield_per=_PAGE).scalars(every)
        return
    last: str | None = None
    while True:
        page = connection.scalars(_page(one.tenant, last)).all()
        found = [tenant for tenant in page if tenant is not None]
        yield from found
        if len(found) < _PAGE:
            return
        last = found[-1]


def _page(tenant: Column[Any], after: str | None) -> Select[Any]:
    """Return the statement for the next tenants after one: each is the least above the last, found by one search."""
    start = select(_least(tenant, after).label("tenant"), literal(1).label("number"))
    found = start.cte("found", recursive=True)
    following = select(_least(tenant, found.c.tenant), found.c.number + 1)
    going_on = following.where(found.c.tenant.is_not(None), found.c.number < _PAGE)
    return select(found.union_all(going_on).c.tenant)


def _least(tenant: Column[Any], above: Any) -> ScalarSelect[Any]:
    here = tenant.table.alias()
    least = select(here.c[tenant.name]).order_by(here.c[tenant.name]).limit(1)
    return (least if above is None else least.where(here.c[tenant.name] > above)).scalar_subquery()


def sizes(connection: Connection) -> Iterator[Size]:
    """Yield the size of each tracked table that is there.

    Tables of up to 16 MiB are counted; for larger ones the statistics are used.
    """
    having = {one.table.name: one.tenant for one in WITH_TENANT}
    for table in TABLES:
        row = connection.execute(_SIZES, {"table": table.name}).one_or_none()
        if row is None:
            continue
        tenant = having.get(table.name)
        exact = row.heap <= _COUNTED_BYTES
        rows, number = _counted(connection, table, tenant) if exact else _estimated(connection, row, table, tenant)
        yield Size(table.name, rows, number, exact, row.total)


def _counted(connection: Connection, table: Table, tenant: Column[Any] | None) -> tuple[int, int | None]:
    counted = [func.count()] + ([] if tenant is None else [func.count(distinct(tenant))])
    rows, *number = connection.execute(select(*counted).select_from(table)).one()
    return rows, number[0] if number else None


def _estimated(
    connection: Connection, row: Any, table: Table, tenant: Column[Any] | None
) -> tuple[int | None, int | None]:
    if row.reltuples < 0:  # the table was never vacuumed or analyzed
        return None, None
    rows = int(row.reltuples)
    found = None
    if tenant is not None:
        found = connection.scalar(_DISTINCT, {"table": table.name, "column": tenant.name})
    if found is None:
        return rows, None
    return rows, round(-found * rows if found < 0 else found)  # a negative number is a share of the rows


def busiest(connection: Connection, *, hours: float, most: int) -> list[Busy]:
    """Return the tenants with the most runs that were created in the last *hours*, at most *most* of them.

    It uses the index on created_at that comes with the table, so it reads the runs of that time and no others.
    """
    return [Busy(*row) for row in connection.execute(busiest_statement(hours, most))]


def busiest_statement(hours: float, most: int) -> Select[str, int, int]:
    """Return the statement of :func:`busiest`."""
    runs = func.count()
    all_runs = over(func.sum(runs))
    return (
        select(WorkflowRun.tenant_id, runs, all_runs)
        .where(WorkflowRun.created_at >= naive_utc_now() - timedelta(hours=hours))
        .group_by(WorkflowRun.tenant_id)
        .order_by(runs.desc(), WorkflowRun.tenant_id)
        .limit(most)
    )
