"""The statements that find whose an id is, made from what is tracked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from uuid import UUID

from sqlalchemy import Table, and_, select, union

from tidegate.errors import PolicyError
from tidegate.proxy.tracking.model_tables import ModelTables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from tidegate.repositories.policies import Model, Tracked
    from tidegate.repositories.tenant_directory import Kind

Query: TypeAlias = "Callable[[Sequence[str]], Any]"
"""Makes a statement for ids in canonical form."""


class IdQueries(NamedTuple):
    """What finds ids of one kind.

    Args:
        column: the column of the rows that have the id.
        tenant: the column of their tenant; None: their parents tell it.
        owners: each gives (id, tenant); one after the other, until all ids are found. First by the rows that are the
            thing itself, then by the rows that only name it: those are left when its own row was deleted.
        orphans: gives the ids that rows without a tenant name; those rows are nobody's when their parents are gone.
            None: there are no such rows.
    """

    column: str
    tenant: str | None
    owners: Sequence[Query]
    orphans: Query | None


class TrackedIds:
    """Know what is tracked, as far as it says whose ids are whose; it grows with what a program wraps.

    Args:
        tracked: the models that are tracked from the beginning.
    """

    def __init__(self, tracked: Iterable[Tracked] = ()) -> None:
        self._rows: dict[Model, Tracked] = {}
        self._queries: Mapping[Kind, IdQueries] = {}
        self.kinds_by_tag: Mapping[str, Kind] = {}
        """The kind of an id by the name of the tag with which a row names itself: "run:{id}" gives {"run": "run"}."""
        self.add(tracked)

    def add(self, tracked: Iterable[Tracked]) -> None:
        """Track more models; of a model that is tracked already, what was said first stays."""
        for row in tracked:
            self._rows.setdefault(row.model, row)
        self._queries = {kind: self._made(row, kind) for row, _, kind in self._themselves()}
        self.kinds_by_tag = {
            tag.partition(":")[0]: kind
            for row, column, kind in self._themselves()
            for tag in row.tags
            if tag.partition(":")[2] == f"{{{column}}}"
        }

    def queries(self, kind: Kind) -> IdQueries:
        """Return what finds ids of *kind*.

        Raises:
            PolicyError: no tracked model has such ids; the message says which kinds there are.
        """
        found = self._queries.get(kind)
        if found is None:
            raise PolicyError(
                f"nobody knows whose an id of the kind {kind!r} is: no tracked model has identifies=(column, "
                f"{kind!r}); "
                f"known are {', '.join(sorted(self._queries)) or 'none'}"
            )
        return found

    def named(self, kind: Kind, item: Any) -> tuple[Any, str | None]:
        """Return the id of *item*, which is an id or a row with one, and its tenant, if it says so."""
        if isinstance(item, (str, UUID)):
            return item, None
        column, tenant, *_ = self.queries(kind)
        return getattr(item, column, item), None if tenant is None else getattr(item, tenant, None)

    def _themselves(self) -> Iterator[tuple[Tracked, str, Kind]]:
        """Yield the models whose rows are the thing itself, as their primary key is the id; that column; the kind."""
        for row in self._rows.values():
            if row.identifies is not None and (row.identifies[0],) == _primary_key(row.model):
                yield (row, *row.identifies)

    def _made(self, row: Tracked, kind: Kind) -> IdQueries:
        (key,) = _primary_key(row.model)
        naming: list[Query] = []
        orphans: list[Query] = [] if row.tenant is not None else [_alone(row, key)]
        for other in self._rows.values():
            for column in _columns_with(other, kind, self._rows):
                if other is row and column == key:
                    continue
                if other.tenant is None:
                    orphans.append(_alone(other, column))
                else:
                    naming.append(_with_tenant(other, column, self._rows))
        owners = [_with_tenant(row, key, self._rows), *([_together(naming)] if naming else [])]
        return IdQueries(key, row.tenant, owners, _together(orphans) if orphans else None)


def _columns_with(row: Tracked, kind: Kind, models: Mapping[Model, Tracked]) -> Iterator[str]:
    """Yield the columns of *row* that hold ids of *kind*; one of them may be what names its parent."""
    if row.identifies is not None and row.identifies[1] == kind:
        yield row.identifies[0]
    yield from (column for column, other in row.names if other == kind)
    parent = None if row.parent is None else models.get(row.parent[1])
    key = () if parent is None else _primary_key(parent.model)
    if parent is not None and len(key) == 1 and parent.identifies == (*key, kind):
        yield from row.parent_columns


def _with_tenant(row: Tracked, column: str, models: Mapping[Model, Tracked]) -> Query:
    """Select (id, tenant) of rows of *row*; their parents tell the tenant where they have none."""
    key = _column(row.model, column)
    joins, level = [], row
    while level.tenant is None and level.parent is not None:
        parent = level.parent[1]
        pairs = zip(_primary_key(parent), level.parent_columns, strict=True)
        joins.append((parent, and_(*(_column(parent, key) == _column(level.model, name) for key, name in pairs))))
        level = models[parent]
    tenant = _column(level.model, level.tenant or "")

    def query(ids: Sequence[str]) -> Any:
        statement = select(key, tenant).where(key.in_(ids))
        for parent, on in joins:
            statement = statement.join(parent, on)
        return statement

    return query


def _alone(row: Tracked, column: str) -> Query:
    key = _column(row.model, column)
    return lambda ids: select(key).where(key.in_(ids))


def _together(queries: Sequence[Query]) -> Query:
    if len(queries) == 1:
        return queries[0]
    return lambda ids: union(*(query(ids) for query in queries))


def _primary_key(model: Model) -> tuple[str, ...]:
    return ModelTables(model).pk


def _column(model: Model, name: str) -> Any:
    return model.columns[name] if isinstance(model, Table) else getattr(model, name)
