"""A typed builder for composed conditions, joins, order and keyset cursors.

A query is built in steps, and each step returns a new one::

    query = (
        Query(WorkflowRun)
        .where("tenant_id", "eq", tenant_id)
        .where("created_at", "lt", before)
        .order_by("created_at", "id")
        .after((seen_at, seen_id))
        .limit(100)
    )
    session.scalars(query.statement())
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar

from sqlalchemy import ColumnElement, Select, and_, or_, select, tuple_
from sqlalchemy import inspect as sa_inspect
from sqlalchemy.orm import InstrumentedAttribute

from tidegate.errors import QueryError
from tidegate.repositories.base import not_one_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.sql.base import ExecutableOption

Model = TypeVar("Model")
Operator = Literal["eq", "ne", "lt", "le", "gt", "ge", "in", "not_in", "is_null", "between", "prefix"]
Direction = Literal["asc", "desc"]


def _between(column: ColumnElement[Any], bounds: Sequence[Any]) -> ColumnElement[bool]:
    low, high = bounds
    return and_(column >= low, column < high)


OPERATORS: Mapping[str, Callable[[ColumnElement[Any], Any], ColumnElement[bool]]] = {
    "eq": lambda column, value: column == value,
    "ne": lambda column, value: column != value,
    "lt": lambda column, value: column < value,
    "le": lambda column, value: column <= value,
    "gt": lambda column, value: column > value,
    "ge": lambda column, value: column >= value,
    "in": lambda column, values: column.in_(list(not_one_text(values))),
    "not_in": lambda column, values: column.not_in(list(not_one_text(values))),
    "is_null": lambda column, yes: column.is_(None) if yes else column.is_not(None),
    "between": _between,
    "prefix": lambda column, text: column.startswith(text, autoescape=True),
}
"""Every operator by name. ``between`` takes (low, high) and leaves *high* out."""


def condition(model: type[Any], field: str, operator: str, value: Any) -> ColumnElement[bool]:
    """Return one condition on a column of *model*.

    Raises:
        QueryError: *field* is no column of *model*, or *operator* is not one of :data:`OPERATORS`.
    """
    build = OPERATORS.get(operator) if isinstance(operator, str) else None
    if build is None:
        raise QueryError(f"unknown operator {operator!r}; known are {', '.join(OPERATORS)}")
    return build(column_of(model, field), value)


def column_of(model: type[Any], field: str) -> ColumnElement[Any]:
    """Return the column of *model* called *field*.

    Raises:
        QueryError: there is none; the message lists those there are.
    """
    columns = sa_inspect(model).column_attrs
    if field not in columns:
        raise QueryError(f"{model.__name__} has no column {field!r}; known are {', '.join(sorted(columns.keys()))}")
    attribute: ColumnElement[Any] = getattr(model, field)
    return attribute


@dataclass(frozen=True, slots=True)
class Query(Generic[Model]):
    """Build a query for rows of *model*. A query never changes; every method returns a new one."""

    model: type[Model]
    conditions: tuple[ColumnElement[bool], ...] = ()
    joins: tuple[tuple[type[Any], ColumnElement[bool], bool], ...] = ()
    order: tuple[tuple[ColumnElement[Any], Direction], ...] = ()
    options: tuple[ExecutableOption, ...] = ()
    most: int | None = None
    locked: bool = False

    def where(self, field: str, operator: Operator, value: Any) -> Self:
        """Keep rows whose *field* satisfies *operator*; see :data:`OPERATORS`.

        Raises:
            QueryError: *field* is no column of the model, or *operator* is not known.
        """
        return self.where_sql(condition(self.model, field, operator, value))

    def where_if(self, field: str, operator: Operator, value: Any) -> Self:
        """Keep rows whose *field* satisfies *operator*, unless *value* is None, an empty text or an empty list."""
        return self.where(field, operator, value) if value or value == 0 else self

    def where_sql(self, *conditions: ColumnElement[bool]) -> Self:
        """Keep rows that satisfy SQLAlchemy expressions: for columns of joined models."""
        return replace(self, conditions=(*self.conditions, *conditions))

    def where_any(self, *conditions: ColumnElement[bool]) -> Self:
        """Keep rows that satisfy at least one of *conditions*.

        Raises:
            QueryError: there is none, which would keep every row.
        """
        if not conditions:
            raise QueryError("where_any needs at least one condition: without any it would keep every row")
        return self.where_sql(or_(*conditions))

    def join(self, target: type[Any], on: ColumnElement[bool], *, outer: bool = False) -> Self:
        """Join *target*; its columns are named with :meth:`where_sql`."""
        return replace(self, joins=(*self.joins, (target, on, outer)))

    def order_by(self, *fields: str, direction: Direction = "asc") -> Self:
        """Order by *fields*, all in one direction, after what was ordered by before.

        Raises:
            QueryError: an unknown column or direction.
        """
        if direction not in ("asc", "desc"):
            raise QueryError(f"unknown direction {direction!r}; known are asc, desc")
        added = tuple((column_of(self.model, field), direction) for field in fields)
        return replace(self, order=(*self.order, *added))

    def after(self, cursor: Sequence[Any] | None) -> Self:
        """Keep rows that follow *cursor*, the ordered columns' values of a row; None keeps all.

        Raises:
            QueryError: the cursor does not have one value per ordered column, or directions are mixed.
        """
        if cursor is None:
            return self
        directions = {direction for _, direction in self.order}
        if len(cursor) != len(self.order) or len(directions) != 1:
            raise QueryError(
                f"a cursor of {len(cursor)} values needs an order of as many columns in one direction, "
                f"not {[(c.key if isinstance(c, InstrumentedAttribute) else str(c), d) for c, d in self.order]}"
            )
        here = tuple_(*(column for column, _ in self.order))
        there = tuple_(*cursor, types=[column.type for column, _ in self.order])
        return self.where_sql(here < there if directions == {"desc"} else here > there)

    def with_options(self, *options: ExecutableOption) -> Self:
        """Add loader options, as for ``Select.options``."""
        return replace(self, options=(*self.options, *options))

    def limit(self, most: int) -> Self:
        """Limit the query to *most* rows.

        Raises:
            QueryError: *most* is negative or no whole number.
        """
        if isinstance(most, bool) or not isinstance(most, int) or most < 0:
            raise QueryError(f"a limit must be a whole number from 0, not {most!r}")
        return replace(self, most=most)

    def for_update(self) -> Self:
        """Lock the rows until the transaction ends, where the database has row locks."""
        return replace(self, locked=True)

    def statement(self) -> Select[Model]:
        """Return the SELECT of whole rows."""
        return self._finish(select(self.model).options(*self.options))

    def columns(self, *columns: Any) -> Select[Any]:
        """Return the SELECT of some columns or expressions instead of rows."""
        return self._finish(select(*columns).select_from(self.model))

    def _finish(self, statement: Select[Any]) -> Select[Any]:
        for target, on, outer in self.joins:
            statement = statement.join(target, on, isouter=outer)
        ordered = [column.desc() if direction == "desc" else column.asc() for column, direction in self.order]
        statement = statement.where(*self.conditions).order_by(*ordered)
        if self.most is not None:
            statement = statement.limit(self.most)
        return statement.with_for_update() if self.locked else statement
