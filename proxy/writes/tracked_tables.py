"""What a watched engine knows of a tracked model: its table, the columns that tags need, and its parents' chain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import Column, FromClause, Table, column, inspect
from sqlalchemy.sql.selectable import AliasedReturnsRows

from tidegate.cache.tags import template
from tidegate.errors import PolicyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import ColumnElement, Row

    from tidegate.repositories.policies import Tracked


class Parent(NamedTuple):
    """The field that names a parent's row, its table, and an alias under which statements join it."""

    field: str
    table: TrackedTable
    joined: FromClause


class Chain(NamedTuple):
    """What selects rows of a table together with those of its parents."""

    source: FromClause
    columns: tuple[ColumnElement[Any], ...]


class TrackedTable:
    """One tracked table. *fields* are the attributes that tags, tenant, parent and primary key need.

    Args:
        tracked: the policy's row.
        parent: its parent's field and table.

    Raises:
        PolicyError: the row names what the model does not have.
    """

    def __init__(self, tracked: Tracked, parent: tuple[str, TrackedTable] | None = None) -> None:
        mapper: Any = inspect(tracked.model)
        if len(mapper.primary_key) != 1:
            raise PolicyError(f"{tracked.model.__name__} cannot be tracked: its primary key must be one column")
        self.model: Final = tracked.model
        self.table: Final[Table] = mapper.local_table
        self.templates: Final = tuple(template(text) for text in tracked.tags)
        self.tenant: Final = tracked.tenant
        self.pk: Final[str] = mapper.get_property_by_column(mapper.primary_key[0]).key
        self.parent: Final = parent and Parent(*parent, parent[1].table.alias())
        self.is_parent = False
        names = [self.pk, *(name for made in self.templates for name in made.fields)]
        names += [name for name in (self.tenant, parent and parent[0]) if name]
        if unknown := sorted(set(names) - set(mapper.columns.keys())):
            raise PolicyError(f"{tracked.model.__name__} has no column {', '.join(unknown)}, which its tags need")
        self.fields: Final[Mapping[str, Column[Any]]] = {name: mapper.columns[name] for name in dict.fromkeys(names)}
        self.fields_by_column: Final = {found.name: name for name, found in self.fields.items()}
        self.changes_by_itself: Final = any(
            found.onupdate is not None or found.server_onupdate is not None or found.computed is not None
            for found in self.fields.values()
        )

    @property
    def key(self) -> tuple[str | None, str]:
        """Schema and name: two mapped classes on the same table are the same table."""
        return self.table.schema, self.table.name

    @property
    def tenant_names(self) -> frozenset[str]:
        """How a parameter that names the tenant may be called."""
        if self.tenant is not None:
            return frozenset({self.tenant, self.fields[self.tenant].name})
        return self.parent.table.tenant_names if self.parent else frozenset()

    @property
    def pk_column(self) -> str:
        """The primary key's name in the database."""
        return self.fields[self.pk].name

    @property
    def owning(self) -> frozenset[str | None]:
        """The columns that say whose the rows are that name a row of this table as their parent; None: any unknown."""
        if not self.is_parent:
            return frozenset()
        names = {name for name in (self.tenant, self.parent and self.parent.field) if name}
        return frozenset({None, *(self.fields[name].name for name in names)})

    def columns_of(self, source: FromClause) -> tuple[ColumnElement[Any], ...]:
        """The columns of :attr:`fields` on *source*: this table, an alias, or somebody else's model of it."""
        by_name: dict[str, Any] = {found.name: found for found in source.c}
        wanted = self.fields.values()
        return tuple(by_name[c.name] if c.name in by_name else _lightweight(source, c) for c in wanted)

    def column_of(self, source: FromClause, field: str) -> ColumnElement[Any]:
        """The column of one field on *source*."""
        return self.columns_of(source)[list(self.fields).index(field)]

    def chain(self, source: FromClause | None = None) -> Chain:
        """Rows of *source* (this table by default), outer-joined with those of their parents."""
        here: FromClause = self.table if source is None else source
        joined, columns, level, below = here, list(self.columns_of(here)), self, here
        while level.parent is not None:
            field, table, alias = level.parent
            on = table.column_of(alias, table.pk) == level.column_of(below, field)
            joined = joined.outerjoin(alias, on)
            columns += table.columns_of(alias)
            level, below = table, alias
        return Chain(joined, tuple(columns))

    def read(self, row: Row[Any] | Sequence[Any]) -> list[Mapping[str, Any] | None]:
        """Values by field of a row that :meth:`chain` selected: its own, then its parents'; None for no row."""
        levels: list[Mapping[str, Any] | None] = []
        level: TrackedTable | None = self
        at = 0
        while level is not None:
            values = dict(zip(level.fields, row[at : at + len(level.fields)], strict=True))
            levels.append(values if values[level.pk] is not None else None)
            at += len(level.fields)
            level = level.parent.table if level.parent else None
        return levels


def _lightweight(source: FromClause, known: Column[Any]) -> ColumnElement[Any]:
    found: Any = column(known.name, known.type, _selectable=source)
    return found  # type: ignore[no-any-return]


class Tables:
    """The tracked tables of a watch, by schema and name."""

    def __init__(self, tracked: Iterable[Tracked]) -> None:
        self._rows: dict[type[Any], Tracked] = {}
        self._made: dict[tuple[str | None, str], TrackedTable] = {}
        self.names: frozenset[str] = frozenset()
        self.add(tracked)

    def add(self, tracked: Iterable[Tracked]) -> None:
        """Track more models; those that are tracked already must be tracked alike.

        Raises:
            PolicyError: a row contradicts an earlier one, names an untracked parent, or is its own parent.
        """
        new = {row.model: row for row in tracked}
        for model, row in new.items():
            if self._rows.setdefault(model, row) != row:
                raise PolicyError(f"{model.__name__} is tracked twice, and not alike: {self._rows[model]} and {row}")
        for model in new:
            self._make(model, ())
        self.names = frozenset(name for _, name in self._made)

    def _make(self, model: type[Any], children: tuple[type[Any], ...]) -> TrackedTable:
        row = self._rows.get(model)
        if row is None or model in children:
            raise PolicyError(f"{model.__name__} is a parent, and must be tracked itself, and not be its own parent")
        mapper: Any = inspect(model)
        key = (mapper.local_table.schema, mapper.local_table.name)
        made = self._made.get(key)
        if made is None:
            parent = row.parent and (row.parent[0], self._make(row.parent[1], (*children, model)))
            if parent is None and row.tenant is None:
                raise PolicyError(f"{model.__name__} is tracked without a tenant, and without a parent that has one")
            made = self._made[key] = TrackedTable(row, parent)
        if children:
            made.is_parent = True
        return made

    def of(self, source: Any) -> TrackedTable | None:
        """The tracked table that *source* (a table, an alias of one) is; None if it is not tracked."""
        while isinstance(source, AliasedReturnsRows):
            source = source.element
        name = getattr(source, "name", None)
        if name is None:
            return None
        # A table of that name in another schema, or one whose schema is spelt out, counts too: too much is harmless.
        return self._made.get((getattr(source, "schema", None), name)) or self.named(name)

    def named(self, name: str) -> TrackedTable | None:
        """The tracked table of that name, in whatever schema."""
        return next((table for key, table in self._made.items() if key[1] == name), None)
