"""What a tracked model is made of: its tables, its primary key, and where each of its columns lies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Column, FromClause, Table, inspect
from sqlalchemy.orm import Mapper

from tidegate.cache.tags import as_text
from tidegate.errors import PolicyError
from tidegate.repositories.policies import name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tidegate.repositories.policies import Model

Key = tuple[str | None, str]
"""Schema and name of a table."""


def key_of(table: Table) -> Key:
    """Return schema and name of a table: two mapped classes on the same table are the same table."""
    return table.schema, table.name


def shown(key: Key) -> str:
    """Return schema and name as one text."""
    return ".".join(part for part in key if part)


class ModelTables:
    """Describe a model: a table, or a mapped class. With joined inheritance the row of a class lies in several tables.

    Args:
        model: the model.

    Raises:
        PolicyError: *model* is neither; the message says what could be tracked instead.
    """

    def __init__(self, model: Model) -> None:
        self.name: Final = name_of(model)
        self._mapper: Final = None if isinstance(model, Table) else _mapper_of(model)
        self.tables: Final[tuple[Table, ...]] = _tables(model)
        """The tables, that of the topmost class first."""
        self.columns: Final[Any] = model.columns if isinstance(model, Table) else self._mapper and self._mapper.columns
        """The columns by the names of their attributes."""
        self.pk: Final[tuple[str, ...]] = self._pk()
        """The names of the columns of the primary key."""

    def _pk(self) -> tuple[str, ...]:
        if self._mapper is None:
            return tuple(column.key for column in self.tables[0].primary_key)
        return tuple(self._mapper.get_property_by_column(column).key for column in self._mapper.primary_key)

    def column(self, name: str, table: Table) -> Column[Any] | None:
        """Return the column of an attribute in one of the tables; None if it is in another. A key is in each."""
        waiting, seen = [self.columns[name]], set()
        while waiting:
            column = waiting.pop()
            if column.table is table:
                found: Column[Any] = column
                return found
            if column not in seen:
                seen.add(column)
                waiting.extend(self._equivalent(column))
        return None

    def _equivalent(self, column: Any) -> Iterable[Any]:
        return () if self._mapper is None else self._mapper._equivalent_columns.get(column, ())  # noqa: SLF001  # no public way

    def kinds(self, table: Table) -> tuple[str, tuple[str, ...]] | None:
        """Return the attribute by which *table* tells of which class a row is, and its texts for this class.

        None: the table does not tell.
        """
        told = None if self._mapper is None else self._mapper.polymorphic_on
        if self._mapper is None or not isinstance(told, Column) or told.table is not table:
            return None
        identities = [mapper.polymorphic_identity for mapper in self._mapper.self_and_descendants]
        if None in identities:
            return None
        return self._mapper.get_property_by_column(told).key, tuple(sorted(map(as_text, identities)))


def _mapper_of(model: Any) -> Mapper[Any]:
    found = inspect(model, raiseerr=False) if isinstance(model, type) else None
    if isinstance(found, Mapper):
        return found
    if isinstance(model, FromClause):
        raise PolicyError(
            f"{name_of(model)} cannot be tracked: it is no table, but a statement over some. Track each table that it "
            "reads, as a mapped class or a Table"
        )
    raise PolicyError(
        f"{name_of(model)} cannot be tracked: it is neither mapped to a table nor a Table. Of an abstract class, or a "
        "mixin, track each class that has a table"
    )


def _tables(model: Model) -> tuple[Table, ...]:
    if isinstance(model, Table):
        return (model,)
    found: list[Table] = []
    for mapper in _up_to_concrete(_mapper_of(model)):
        if not isinstance(mapper.local_table, Table):
            raise PolicyError(
                f"{name_of(model)} cannot be tracked: it is mapped to no table, but to a statement over some. Track "
                "each table that it reads, as a mapped class or a Table"
            )
        found.append(mapper.local_table)
    return tuple(dict.fromkeys(reversed(found)))


def _up_to_concrete(mapper: Mapper[Any]) -> Iterator[Mapper[Any]]:
    """Yield the mappers whose tables hold a row: a class of concrete inheritance has a table with all its columns."""
    for one in mapper.iterate_to_root():
        yield one
        if one.concrete:
            return
