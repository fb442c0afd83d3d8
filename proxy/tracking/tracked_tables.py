"""What a gate knows of a tracked model: its table, the columns that tags need, and its chain of parents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import Column, Date, DateTime, Enum, Table, TypeDecorator, inspect

from tidegate.cache.tags import as_text, template
from tidegate.errors import PolicyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tidegate.repositories.policies import Tracked


class Parent(NamedTuple):
    """The parent of a tracked table.

    Args:
        field: the field of the child that names the parent's row.
        table: the parent's tracked table.
    """

    field: str
    table: TrackedTable


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
        self.parent: Final = parent and Parent(*parent)
        self.is_parent = False
        names = [self.pk, *(name for made in self.templates for name in made.fields)]
        names += [name for name in (self.tenant, parent and parent[0]) if name]
        said = [*names, *(name for name, _ in tracked.names), *([tracked.identifies[0]] if tracked.identifies else [])]
        if unknown := sorted(set(said) - set(mapper.columns.keys())):
            raise PolicyError(f"{tracked.model.__name__} has no column {', '.join(unknown)}, which its row names")
        self.fields: Final[Mapping[str, Column[Any]]] = {name: mapper.columns[name] for name in dict.fromkeys(names)}
        self.dated: Final = tuple(
            name for name, found in self.fields.items() if isinstance(_plain(found), Date | DateTime)
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
        return key_of(self.model)

    @property
    def levels(self) -> tuple[TrackedTable, ...]:
        """Return this table and those of its parents, the next one first."""
        above = self.parent.table.levels if self.parent else ()
        return (self, *above)

    @property
    def labels(self) -> Mapping[str, Mapping[str, str]]:
        """Return, for each field of an enumeration, the text of each member by the label that the database has."""
        found: dict[str, dict[str, str]] = {}
        for name, column in self.fields.items():
            kind = _plain(column)
            if isinstance(kind, Enum) and kind.enum_class is not None:
                members = kind._object_lookup  # noqa: SLF001  # no public way
                found[name] = {label: as_text(member) for label, member in members.items() if label is not None}
        return found


def key_of(model: type[Any]) -> tuple[str | None, str]:
    """Return schema and name of the table of a mapped class."""
    mapper: Any = inspect(model)
    return mapper.local_table.schema, mapper.local_table.name


def _plain(column: Column[Any]) -> Any:
    return column.type.impl if isinstance(column.type, TypeDecorator) else column.type


class Tables:
    """Keep the tracked tables of a gate, by schema and name."""

    def __init__(self, tracked: Iterable[Tracked]) -> None:
        self._rows: dict[type[Any], Tracked] = {}
        self._made: dict[tuple[str | None, str], TrackedTable] = {}
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

    def _make(self, model: type[Any], children: tuple[type[Any], ...]) -> TrackedTable:
        row = self._rows.get(model)
        if row is None or model in children:
            raise PolicyError(
                f"{model.__name__} is the parent of a tracked model: it must be tracked too, and not be its own parent"
            )
        key = key_of(model)
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
