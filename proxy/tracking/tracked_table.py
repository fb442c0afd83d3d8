"""One table as a gate tracks it: the columns that tags need, its chain of parents, and the tags that it bumps.

With joined inheritance a row of a class lies in several tables, which have the primary key in common. Each of them has
triggers. One of them, the *anchor*, has the tenant or names the parent; the others find both by the anchor's row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Column, Date, DateTime, Enum, Table, TypeDecorator

from tidegate.cache.tags import Template, as_text
from tidegate.proxy.tracking.model_tables import Key, key_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tidegate.repositories.policies import Model


class Parent(NamedTuple):
    """The parent of a tracked table, or the anchor of its rows.

    Args:
        fields: the fields of the child that name the row, in the order of its primary key.
        table: the tracked table of that row.
        is_same_row: whether it is the anchor: another part of the child's own row.
    """

    fields: tuple[str, ...]
    table: TrackedTable
    is_same_row: bool = False


class Spread(NamedTuple):
    """A template that needs columns of other tables in which parts of the same row lie.

    Args:
        template: the template.
        elsewhere: (field, name of its table) for each field that is in another table.
        kinds: the field that tells of which class a row is, and the texts that mean a row to which the template
            applies; None: the table does not tell.
    """

    template: Template
    elsewhere: tuple[tuple[str, str], ...]
    kinds: tuple[str, tuple[str, ...]] | None


@dataclass(frozen=True, slots=True, eq=False)
class TrackedTable:
    """Describe one tracked table.

    Args:
        table: the table.
        models: the models whose rows it holds, as far as they have the same tenant and parent.
        fields: what tags, tenant, parent and primary key need: columns by attribute.
        pk: the fields of the primary key.
        tenant: the field of the tenant; None: the parent tells it.
        parent: its parent; None: it has none.
        templates: of the tags that each of its rows bumps.
        spread: the templates that need other tables too.
        is_parent: whether the row of another table finds its tenant by a row of this one.
    """

    table: Table
    models: frozenset[Model]
    fields: Mapping[str, Column[Any]]
    pk: tuple[str, ...]
    tenant: str | None
    parent: Parent | None
    templates: tuple[Template, ...]
    spread: tuple[Spread, ...]
    is_parent: bool

    @property
    def key(self) -> Key:
        """Return schema and name."""
        return key_of(self.table)

    @property
    def dated(self) -> tuple[str, ...]:
        """Return the fields that are dates."""
        return tuple(name for name, found in self.fields.items() if isinstance(_plain(found), Date | DateTime))

    @property
    def compared(self) -> tuple[str, ...]:
        """Return the fields that tell tenants, tags and rows by their text; a day in a tag is told by its date."""
        of_tags = [
            name
            for made in (*self.templates, *(one.template for one in self.spread))
            for name in made.fields
            if f"{{{name}}}" in made.text and name in self.fields
        ]
        of_rows = self.pk if self.is_parent else ()
        named = (*(self.parent.fields if self.parent else ()), *of_rows, *of_tags)
        return tuple(dict.fromkeys(name for name in (self.tenant, *named) if name))

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

    def said(self) -> tuple[Any, ...]:
        """Return all that this says, for comparison."""
        columns = tuple((name, column.name) for name, column in self.fields.items())
        return (self.key, columns, self.pk, self.templates, self.spread, self.is_parent, *self._said_above())

    def _said_above(self) -> tuple[Any, ...]:
        above = self.parent and (self.parent.fields, self.parent.is_same_row, self.parent.table.said())
        return self.key, self.pk, self.tenant, above

    def joins(self, other: TrackedTable) -> bool:
        """Tell whether one set of triggers can do for both."""
        mine, others = self.fields, other.fields
        alike = all(mine[name] is others[name] for name in mine.keys() & others.keys())
        return alike and self._said_above() == other._said_above()

    def joined(self, other: TrackedTable) -> TrackedTable:
        """Return what both say of the table."""
        return replace(
            self,
            models=self.models | other.models,
            fields={**self.fields, **other.fields},
            templates=tuple(dict.fromkeys((*self.templates, *other.templates))),
            spread=tuple(dict.fromkeys((*self.spread, *other.spread))),
        )


def _plain(column: Column[Any]) -> Any:
    return column.type.impl if isinstance(column.type, TypeDecorator) else column.type
