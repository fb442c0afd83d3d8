"""What a watched engine knows of a tracked model: its table, the columns that tags need, and its chain of parents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import (
    Column,
    Date,
    DateTime,
    FromClause,
    Table,
    TypeDecorator,
    case,
    column,
    inspect,
    literal_column,
    or_,
    type_coerce,
)
from sqlalchemy.sql.selectable import AliasedReturnsRows

from tidegate.cache.tags import UNKNOWN, template
from tidegate.errors import PolicyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement, Row

    from tidegate.repositories.policies import Tracked


class Parent(NamedTuple):
    """The parent of a tracked table.

    Args:
        field: the field of the child that names the parent's row.
        table: the parent's tracked table.
        joined: an alias of it, under which statements join it.
    """

    field: str
    table: TrackedTable
    joined: FromClause


class Chain(NamedTuple):
    """What selects rows of a table together with the rows of its parents: a FROM clause, and the columns."""

    source: FromClause
    columns: tuple[ColumnElement[Any], ...]


class TrackedTable:
    """Describe one tracked table. *fields* are the attributes that its tags, tenant, parent and primary key need.

    Args:
        tracked: the row of the policy table.
        parent: the field that names its parent, and the parent's table; None: it has no parent.

    Raises:
        PolicyError: the model's primary key is not one column, or *tracked* names a column that the model does not
            have.
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
        said = [*names, *(name for name, _ in tracked.names), *([tracked.identifies[0]] if tracked.identifies else [])]
        if unknown := sorted(set(said) - set(mapper.columns.keys())):
            raise PolicyError(f"{tracked.model.__name__} has no column {', '.join(unknown)}, which its row names")
        self.fields: Final[Mapping[str, Column[Any]]] = {name: mapper.columns[name] for name in dict.fromkeys(names)}
        self.dated: Final = tuple(
            name for name, found in self.fields.items() if _is_dated(found) and name not in (self.pk, self.tenant)
        )
        self.fields_by_column: Final = {found.name: name for name, found in self.fields.items()}
        self.changes_by_itself: Final = any(
            found.onupdate is not None or found.server_onupdate is not None or found.computed is not None
            for found in self.fields.values()
        )

    @property
    def compared(self) -> tuple[str, ...]:
        """Return the fields that tell tenants and tags by their text; a day in a tag is told by its date."""
        of_tags = [name for made in self.templates for name in made.fields if f"{{{name}}}" in made.text]
        named = (self.tenant, self.parent and self.parent.field, *of_tags)
        return tuple(dict.fromkeys(name for name in named if name))

    @property
    def key(self) -> tuple[str | None, str]:
        """Return schema and name: two mapped classes on the same table are the same table."""
        return self.table.schema, self.table.name

    @property
    def tenant_names(self) -> frozenset[str]:
        """Return the names that a parameter with the tenant may have."""
        if self.tenant is not None:
            return frozenset({self.tenant, self.fields[self.tenant].name})
        return self.parent.table.tenant_names if self.parent else frozenset()

    @property
    def pk_column(self) -> str:
        """Return the primary key's name in the database."""
        return self.fields[self.pk].name

    @property
    def owning(self) -> frozenset[str | None]:
        """Return the columns that decide the tenant of the rows that name a row of this table as their parent.

        None is one of them: it stands for a column that is not known. The set is empty if this table is nobody's
        parent.
        """
        if not self.is_parent:
            return frozenset()
        names = {name for name in (self.tenant, self.parent and self.parent.field) if name}
        return frozenset({None, *(self.fields[name].name for name in names)})

    def columns_of(self, source: FromClause) -> tuple[ColumnElement[Any], ...]:
        """Return the columns of :attr:`fields` on *source*: this table, an alias of it, or another model of it."""
        by_name: dict[str, Any] = {found.name: found for found in source.c}
        wanted = self.fields.values()
        return tuple(by_name[c.name] if c.name in by_name else _lightweight(source, c) for c in wanted)

    def selected_of(self, source: FromClause) -> list[ColumnElement[Any]]:
        """Return what :meth:`read` reads of one level: the fields, and for each date whether Python cannot hold it."""
        found = dict(zip(self.fields, self.columns_of(source), strict=True))
        unreadable = [_is_unreadable(found[name]) for name in self.dated]
        for name, flag in zip(self.dated, unreadable, strict=True):
            found[name] = type_coerce(case((flag, None), else_=found[name]), self.fields[name].type)
        return [*found.values(), *unreadable]

    def column_of(self, source: FromClause, field: str) -> ColumnElement[Any]:
        """Return the column of one field on *source*."""
        return self.columns_of(source)[list(self.fields).index(field)]

    def chain(self, source: FromClause | None = None) -> Chain:
        """Return what selects rows of *source* (by default this table), outer-joined with the rows of their parents."""
        here: FromClause = self.table if source is None else source
        joined, columns, level, below = here, self.selected_of(here), self, here
        while level.parent is not None:
            field, table, alias = level.parent
            on = table.column_of(alias, table.pk) == level.column_of(below, field)
            joined = joined.outerjoin(alias, on)
            columns += table.selected_of(alias)
            level, below = table, alias
        return Chain(joined, tuple(columns))

    def read(self, row: Row[Any] | Sequence[Any]) -> list[Mapping[str, Any] | None]:
        """Return the values of a row that :meth:`chain` selected, by field: first its own, then those of each parent.

        A parent that has no row is None. A date that Python cannot hold is UNKNOWN.
        """
        levels: list[Mapping[str, Any] | None] = []
        level: TrackedTable | None = self
        at = 0
        while level is not None:
            values = dict(zip(level.fields, row[at : at + len(level.fields)], strict=True))
            at += len(level.fields)
            flags = row[at : at + len(level.dated)]
            values |= {name: UNKNOWN for name, flag in zip(level.dated, flags, strict=True) if flag}
            levels.append(values if values[level.pk] is not None else None)
            at += len(level.dated)
            level = level.parent.table if level.parent else None
        return levels


def _is_dated(found: Column[Any]) -> bool:
    kind = found.type.impl if isinstance(found.type, TypeDecorator) else found.type
    return isinstance(kind, Date | DateTime)


def _is_unreadable(date: ColumnElement[Any]) -> ColumnElement[bool]:
    """Return whether a driver could not read *date*: infinity, BC, or past the year 9999, in any time zone."""
    earliest: Any = literal_column("'0001-01-03'")
    latest: Any = literal_column("'9999-12-30'")
    return or_(date < earliest, date >= latest)


def _lightweight(source: FromClause, known: Column[Any]) -> ColumnElement[Any]:
    found: Any = column(known.name, known.type, _selectable=source)
    return found  # type: ignore[no-any-return]


class Tables:
    """Keep the tracked tables of a watched engine, by schema and name."""

    def __init__(self, tracked: Iterable[Tracked]) -> None:
        self._rows: dict[type[Any], Tracked] = {}
        self._made: dict[tuple[str | None, str], TrackedTable] = {}
        self.names: frozenset[str] = frozenset()
        self.add(tracked)

    def add(self, tracked: Iterable[Tracked]) -> None:
        """Track more models. A model that is tracked already must be tracked in the same way.

        Raises:
            PolicyError: a row contradicts an earlier one, names an untracked parent, or is its own parent.
        """
        new = {row.model: row for row in tracked}
        for model, row in new.items():
            if self._rows.setdefault(model, row) != row:
                raise PolicyError(
                    f"{model.__name__} is tracked twice, in two different ways: {self._rows[model]} and {row}"
                )
        for model in new:
            self._make(model, ())
        self.names = frozenset(name for _, name in self._made)

    def _make(self, model: type[Any], children: tuple[type[Any], ...]) -> TrackedTable:
        row = self._rows.get(model)
        if row is None or model in children:
            raise PolicyError(
                f"{model.__name__} is the parent of a tracked model: it must be tracked too, and not be its own parent"
            )
        mapper: Any = inspect(model)
        key = (mapper.local_table.schema, mapper.local_table.name)
        made = self._made.get(key)
        if made is None:
            parent = row.parent and (row.parent[0], self._make(row.parent[1], (*children, model)))
            if parent is None and row.tenant is None:
                raise PolicyError(
                    f"{model.__name__} is tracked, and has neither a tenant nor a parent: name a tenant column, or a "
                    "parent that has one"
                )
            made = self._made[key] = TrackedTable(row, parent)
        if children:
            made.is_parent = True
        return made

    def __iter__(self) -> Iterator[TrackedTable]:
        """Yield every table."""
        return iter(tuple(self._made.values()))

    def of(self, source: Any) -> TrackedTable | None:
        """Return the tracked table that *source* is, or is an alias of; None if it is not tracked."""
        while isinstance(source, AliasedReturnsRows):
            source = source.element
        name = getattr(source, "name", None)
        if name is None:
            return None
        # A table of that name in another schema counts too, and so does one whose schema is written out: a table too
        # many is harmless.
        return self._made.get((getattr(source, "schema", None), name)) or self.named(name)

    def named(self, name: str) -> TrackedTable | None:
        """Return the tracked table of that name, in whatever schema; None if there is none."""
        return next((table for key, table in self._made.items() if key[1] == name), None)
