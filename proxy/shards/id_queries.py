"""The statements that find whose an id is, made from what is tracked."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from sqlalchemy import inspect, select, union

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tidegate.repositories.policies import Tracked
    from tidegate.repositories.tenant_directory import Kind

Query: TypeAlias = "Callable[[Sequence[str]], Any]"
"""Makes a statement for ids in canonical form."""


class IdQueries(NamedTuple):
    """What finds ids, by their kind.

    Args:
        owners: each gives (id, tenant); one after the other, until all ids are found. First by the rows that have the
            id, then by the rows that only name it: those are left when its own row was deleted.
        orphans: gives the ids that rows without a tenant name; those rows are nobody's when their parents are gone.
    """

    owners: Mapping[Kind, Sequence[Query]]
    orphans: Mapping[Kind, Query]


def id_queries(tracked: Sequence[Tracked]) -> IdQueries:
    """Make the statements for what is tracked."""
    models = {row.model: row for row in tracked}
    having: dict[Kind, list[Query]] = defaultdict(list)
    naming: dict[Kind, list[Query]] = defaultdict(list)
    orphans: dict[Kind, list[Query]] = defaultdict(list)
    for row in tracked:
        if row.identifies is not None:
            column, kind = row.identifies
            having[kind].append(_with_tenant(row, column, models))
        if row.tenant is None and row.identifies is not None:
            orphans[row.identifies[1]].append(_alone(row, row.identifies[0]))
        for column, kind in _named(row, models):
            if row.tenant is None:
                orphans[kind].append(_alone(row, column))
            else:
                naming[kind].append(_with_tenant(row, column, models))
    owners = {kind: [_together(each) for each in (having[kind], naming[kind]) if each] for kind in having}
    return IdQueries(owners, {kind: _together(each) for kind, each in orphans.items()})


def _named(row: Tracked, models: Mapping[type[Any], Tracked]) -> Iterator[tuple[str, Kind]]:
    """Yield the columns of *row* that name ids of others; one of them is what names its parent."""
    yield from row.names
    parent = None if row.parent is None else models.get(row.parent[1])
    if row.parent is not None and parent is not None and parent.identifies is not None:
        column, kind = parent.identifies
        if column == _primary_key(parent.model):
            yield row.parent[0], kind


def _with_tenant(row: Tracked, column: str, models: Mapping[type[Any], Tracked]) -> Query:
    """Select (id, tenant) of rows of *row*; their parents tell the tenant where they have none."""
    key = getattr(row.model, column)
    joins, level = [], row
    while level.tenant is None and level.parent is not None:
        field, parent = level.parent
        joins.append((parent, getattr(parent, _primary_key(parent)) == getattr(level.model, field)))
        level = models[parent]
    tenant = getattr(level.model, level.tenant or "")

    def query(ids: Sequence[str]) -> Any:
        statement = select(key, tenant).where(key.in_(ids))
        for parent, on in joins:
            statement = statement.join(parent, on)
        return statement

    return query


def _alone(row: Tracked, column: str) -> Query:
    key = getattr(row.model, column)
    return lambda ids: select(key).where(key.in_(ids))


def _together(queries: Sequence[Query]) -> Query:
    if len(queries) == 1:
        return queries[0]
    return lambda ids: union(*(query(ids) for query in queries))


def _primary_key(model: type[Any]) -> str:
    mapper: Any = inspect(model)
    key: str = mapper.get_property_by_column(mapper.primary_key[0]).key
    return key
