"""All tables that a gate tracks, made from the rows of policy tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tidegate.cache.tags import template
from tidegate.errors import PolicyError
from tidegate.proxy.tracking.model_tables import ModelTables, key_of, shown
from tidegate.proxy.tracking.tracked_table import Parent, Spread, TrackedTable
from tidegate.repositories.policies import name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sqlalchemy import Table

    from tidegate.cache.tags import Template
    from tidegate.proxy.tracking.model_tables import Key
    from tidegate.repositories.policies import Model, Tracked


def keys_of(model: Model) -> tuple[Key, ...]:
    """Return schema and name of each table in which rows of a model lie.

    Raises:
        PolicyError: it cannot be tracked.
    """
    return tuple(map(key_of, ModelTables(model).tables))


class Tables:
    """Keep the tracked tables of a gate.

    Several models of one table, as with inheritance, have one set of triggers, if they were tracked together and have
    tenant and parent in common; otherwise their sets stand side by side, and each notes each change.

    Args:
        tracked: what is tracked from the beginning.
    """

    def __init__(self, tracked: Iterable[Tracked]) -> None:
        self._together: tuple[tuple[Tracked, ...], ...] = ()
        self._made: tuple[TrackedTable, ...] = ()
        self.add(tracked)

    def add(self, tracked: Iterable[Tracked]) -> None:
        """Track more models. A model that is tracked already must be tracked in the same way.

        Raises:
            PolicyError: a model cannot be tracked; a row names a column that is not there, contradicts an earlier row,
                names an untracked parent, or is its own parent.
        """
        rows: dict[Model, Tracked] = {row.model: row for some in self._together for row in some}
        new: dict[Model, Tracked] = {}
        for row in tracked:
            known = rows.setdefault(row.model, row)
            if known != row:
                raise PolicyError(f"{name_of(row.model)} is tracked twice, in two different ways: {known} and {row}")
            new.setdefault(row.model, row)
        old = {row.model for some in self._together for row in some}
        together = (*self._together, tuple(row for row in new.values() if row.model not in old))
        making = _Making(rows)
        made = tuple(table for some in together for table in _merged(making.every(row) for row in some))
        self._together, self._made = together, made

    def __iter__(self) -> Iterator[TrackedTable]:
        """Yield every table: more than once, if it has several sets of triggers."""
        return iter(self._made)


def _merged(tables: Iterable[Iterable[TrackedTable]]) -> list[TrackedTable]:
    found: list[TrackedTable] = []
    for table in (table for some in tables for table in some):
        at = next((at for at, other in enumerate(found) if other.joins(table)), None)
        if at is None:
            found.append(table)
        else:
            found[at] = found[at].joined(table)
    return found


class _Making:
    """Make the tracked tables of some rows, by model."""

    def __init__(self, rows: Mapping[Model, Tracked]) -> None:
        self._rows: Final = rows
        self._models: Final = {model: _checked(row) for model, row in rows.items()}
        finding = [row.parent[1] for row in rows.values() if row.parent is not None]
        finding += [model for model, found in self._models.items() if len(found.tables) > 1]
        self._parents: Final = {key_of(self._anchor(self._row(model))) for model in finding}

    def every(self, row: Tracked) -> list[TrackedTable]:
        """Return the tables in which rows of a model lie."""
        return [self._table(row, table, ()) for table in self._models[row.model].tables]

    def _row(self, model: Model) -> Tracked:
        if model not in self._rows:
            raise PolicyError(f"{name_of(model)} is the parent of a tracked model: it must be tracked too")
        return self._rows[model]

    def _anchor(self, row: Tracked) -> Table:
        """Return the table that has the tenant of a model's rows, and what names their parent."""
        found, named = self._models[row.model], [name for name in (row.tenant, *row.parent_columns) if name]
        for table in found.tables:
            if all(found.column(name, table) is not None for name in named):
                return table
        raise PolicyError(
            f"{found.name} is tracked by {', '.join(named)}, which lie in several tables: tenant and parent must be "
            f"told by columns of one of {', '.join(shown(key_of(table)) for table in found.tables)}"
        )

    def _table(
        self, row: Tracked, table: Table, children: tuple[Model, ...], *, without_tags: bool = False
    ) -> TrackedTable:
        found, anchor = self._models[row.model], self._anchor(row)
        templates = () if without_tags else self._templates(row)
        own = tuple(made for made in templates if all(found.column(name, table) is not None for name in made.fields))
        spread = tuple(_spread(made, found, table) for made in templates if made not in own)
        parent = self._parent(row, children) if table is anchor else self._same_row(row, anchor)
        tenant = row.tenant if table is anchor else None
        named = [
            *found.pk,
            *(name for made in templates for name in made.fields),
            *([tenant] if tenant else []),
            *(parent.fields if parent else ()),
        ]
        named += [one.kinds[0] for one in spread if one.kinds]
        columns = {name: found.column(name, table) for name in named}
        return TrackedTable(
            table=table,
            models=frozenset([row.model]),
            fields={name: column for name, column in columns.items() if column is not None},
            pk=found.pk,
            tenant=tenant,
            parent=parent,
            templates=own,
            spread=spread,
            is_parent=key_of(table) in self._parents,
        )

    def _templates(self, row: Tracked) -> tuple[Template, ...]:
        """Return the templates of a model, and of those that it inherits from: its rows are in their answers too."""
        known = self._models[row.model].columns.keys()
        bases = [base for base in getattr(row.model, "__mro__", ())[1:] if base in self._rows]
        made = (template(text) for one in (row, *(self._rows[base] for base in bases)) for text in one.tags)
        return tuple(dict.fromkeys(one for one in made if set(one.fields) <= set(known)))

    def _same_row(self, row: Tracked, anchor: Table) -> Parent:
        # Its tags are those of this table too, which says so by itself.
        table = self._table(row, anchor, (), without_tags=True)
        return Parent(table.pk, table, is_same_row=True)

    def _parent(self, row: Tracked, children: tuple[Model, ...]) -> Parent | None:
        if row.parent is None:
            return None
        model = row.parent[1]
        above = self._row(model)
        if model is row.model or model in children:
            raise PolicyError(f"{name_of(model)} is its own parent: track it by a tenant, or by another parent")
        key = self._models[model].pk
        if len(key) != len(row.parent_columns) or not key:
            raise PolicyError(_misnamed(row, key))
        return Parent(row.parent_columns, self._table(above, self._anchor(above), (*children, row.model)))


def _misnamed(row: Tracked, key: tuple[str, ...]) -> str:
    child, parent = name_of(row.model), name_of(row.parent and row.parent[1])
    if not key:
        return f"{parent} has no primary key, so {child} cannot name a row of it as its parent"
    columns = ", ".join(['"..."'] * len(key))
    wanted = columns if len(key) == 1 else f"({columns})"
    return (
        f"{child} names its parent by {', '.join(row.parent_columns)}, and {parent} has the primary key "
        f"({', '.join(key)}): write parent=({wanted}, {parent}), with a column of {child} for each of "
        "these, in this order"
    )


def _spread(made: Template, model: ModelTables, table: Table) -> Spread:
    elsewhere = {name: model.columns[name].table for name in made.fields if model.column(name, table) is None}
    return Spread(made, tuple((name, shown(key_of(there))) for name, there in elsewhere.items()), model.kinds(table))


def _checked(row: Tracked) -> ModelTables:
    """Return what a row's model is made of, once it is clear that the row's columns are there."""
    found = ModelTables(row.model)
    if row.tenant is None and row.parent is None:
        raise PolicyError(
            f"{found.name} is tracked, and has neither a tenant nor a parent: name a tenant column, or a parent that "
            "has one"
        )
    named = [name for text in row.tags for name in template(text).fields]
    named += [*row.parent_columns, *(name for name, _ in row.names)]
    named += [name for name in (row.tenant, row.identifies and row.identifies[0]) if name]
    if unknown := sorted(set(named) - set(found.columns.keys())):
        raise PolicyError(f"{found.name} has no column {', '.join(unknown)}, which its row names")
    return found
