"""What an UPDATE or DELETE changes: it is read from the rows, under their locks, before the statement is executed.

There are three ways, and the cheapest that is right is taken:

1. The statement names primary keys and sets no column that tags need. Then the rows are looked up before COMMIT, in the
   statement that asks for the transaction's id. They are locked by then, so their values are those of the change.
2. Otherwise its rows are selected FOR UPDATE, and the statement is restricted to them. A plain SELECT would miss a row
   that another transaction makes match in between; and a value that a session has loaded may have changed since.
3. With too many rows for that, their tenants are selected, all of these tenants count as changed, and the statement is
   restricted to them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import BindParameter, BooleanClauseList, Delete, Update, or_, select
from sqlalchemy.sql import operators, visitors

from tidegate.cache.tags import UNKNOWN
from tidegate.proxy.writes.row_lookups import among, begin_immediately, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, FromClause, Row

    from tidegate.proxy.writes.tracked_tables import TrackedTable
    from tidegate.proxy.writes.transaction_changes import TransactionChanges
    from tidegate.proxy.writes.unattributed import UnattributedWrites

MOST_LOCKED: Final = 1_000
"""How many rows of one statement are locked and collected one by one; with more, their whole tenants count."""


class UpdateOrDelete:
    """Collect what one UPDATE or DELETE of a tracked table changes, before it is executed.

    Args:
        connection: the connection that executes it.
        table: the table that it changes.
        statement: the statement.
        parameters: one mapping for each execution; at least one, perhaps empty.
        collected: the transaction's changes so far.
    """

    def __init__(
        self,
        connection: Connection,
        table: TrackedTable,
        statement: Update | Delete,
        parameters: Sequence[Mapping[str, Any]],
        collected: TransactionChanges,
    ) -> None:
        self._connection = connection
        self._table = table
        self._statement: Any = statement
        self._parameters = parameters
        self._collected = collected
        self._source: FromClause = self._statement.table
        self._pk = table.column_of(self._source, table.pk)
        self.tentative: list[Any] = []
        """The keys that must be forgotten if the statement turns out to have changed no row."""

    def collect(self, unattributed: UnattributedWrites, most: int = MOST_LOCKED) -> Update | Delete:
        """Collect what the statement changes, and return the statement that must be executed in its place.

        Args:
            unattributed: is called for a statement whose changes cannot be told.
            most: how many rows are locked and collected one by one; with more, their whole tenants count as changed.

        Raises:
            PolicyError: it cannot be told what the statement changes, and *unattributed* is strict.
        """
        keys = self._keys()
        touches = self._touches() if isinstance(self._statement, Update) else frozenset()
        if self._writes_elsewhere(keys):
            unattributed(self._table.table.name, "a statement with another one in its WITH")
            return self._statement  # type: ignore[no-any-return]
        if isinstance(self._statement, Update) and keys is not None and not touches:
            pk = (self._table.pk_column,)
            new = self._collected.look_up(self._table, pk, [(key,) for key in keys])
            self.tentative = new if len(self._parameters) == 1 else []
            return self._statement
        rows = self._lock(keys, most)
        if rows is None:
            return self._whole(touches, unattributed)
        changed = [key for row in rows if (key := self._collect(row)) is not None]
        if touches & self._table.owning:
            self._collected.tenant_changed(self._table, rows)
        if touches:
            self._collected.look_up(self._table, (self._table.pk_column,), [(key,) for key in changed])
            self._new_keys(touches)
        if keys is not None and len(rows) == len(keys):
            return self._statement  # type: ignore[no-any-return]
        return self._statement.where(among(self._pk, changed, self._connection.dialect.name))  # type: ignore[no-any-return]

    def _collect(self, row: Row[Any]) -> Any:
        levels = self._table.read(row)
        self._collected.row(self._table, levels)
        return levels[0][self._table.pk] if levels[0] else None

    def _keys(self) -> list[Any] | None:
        """Return primary keys that include those of all changed rows; None if the statement does not name them."""
        for condition in _conjuncts(self._statement._where_criteria):  # noqa: SLF001  # no public way to see it
            left, right = getattr(condition, "left", None), getattr(condition, "right", None)
            if not isinstance(right, BindParameter) or not self._is_pk(left):
                continue
            given = [_value(right, parameters) for parameters in self._parameters]
            if condition.operator is operators.eq:
                found = dict.fromkeys(given)
            elif condition.operator is operators.in_op and right.expanding:
                found = dict.fromkeys(key for keys in given for key in keys)
            else:
                continue
            found.pop(None, None)
            return list(found)
        return None

    def _is_pk(self, column: Any) -> bool:
        table = getattr(column, "table", None)
        return table is not None and column.name == self._pk.name and table in {self._source, self._table.table}

    def _touches(self) -> frozenset[str | None]:
        """Return the columns that the statement sets and that tags need; None stands for a column that is not known."""
        keys = {column.key: column.name for column in self._source.c}
        changed = {self._set_column(key, keys) for key, _ in _set_clause(self._statement)}
        changed |= {keys[key] for parameters in self._parameters[:1] for key in parameters if key in keys}
        if self._table.changes_by_itself:
            changed.add(None)
        return frozenset(name for name in changed if name is None or name in self._table.fields_by_column)

    def _set_column(self, key: Any, keys: Mapping[str, str]) -> str | None:
        if not isinstance(key, str):
            return getattr(key, "name", None)
        mapper = self._statement.table._annotations.get("parentmapper")  # noqa: SLF001  # whose names these are
        if mapper is not None and key in mapper.columns:
            return str(mapper.columns[key].name)
        return keys.get(key)

    def _set_values(self, name: str) -> list[Any]:
        """Return the values that the statement gives to one column; UNKNOWN among them stands for an expression."""
        keys = {column.key: column.name for column in self._source.c}
        found = [value for key, value in _set_clause(self._statement) if self._set_column(key, keys) == name]
        found += [p[key] for p in self._parameters for key in p if keys.get(key) == name]
        return [
            _value(value, self._parameters[0])
            if isinstance(value, BindParameter)
            else (UNKNOWN if hasattr(value, "__clause_element__") or hasattr(value, "__visit_name__") else value)
            for value in found
        ]

    def _new_keys(self, touches: frozenset[str | None]) -> None:
        pk = self._table.pk_column
        if pk in touches:
            new = [(key,) for key in self._set_values(pk) if key is not UNKNOWN]
            self._collected.look_up(self._table, (pk,), new)

    def _writes_elsewhere(self, keys: list[Any] | None) -> bool:
        statement = self._statement
        if keys is not None and len(statement._where_criteria) == 1 and not statement._independent_ctes:  # noqa: SLF001
            return False
        return any(
            part is not statement and (getattr(part, "is_dml", False) or part.__visit_name__ == "textual_select")
            for part in visitors.iterate(statement)
        )

    def _lock(self, keys: list[Any] | None, most: int) -> list[Row[Any]] | None:
        """Return the statement's rows, locked; None if there are more than *most*."""
        begin_immediately(self._connection)
        if keys is not None and len(self._parameters) > 1:
            return self._lock_keys(keys, most)
        where = self._statement._where_criteria  # noqa: SLF001  # no public way to see it
        found: dict[Any, Row[Any]] = {}
        for parameters in self._parameters:
            statement = self._select(*where)
            if self._table.tenant is not None:
                statement = statement.limit(most + 1)
            rows = read_rows(self._connection, statement, dict(parameters))
            found.update((row[0], row) for row in rows)
            if self._table.tenant is not None and max(len(rows), len(found)) > most:
                return None
        return list(found.values())

    def _lock_keys(self, keys: list[Any], most: int) -> list[Row[Any]]:
        """Return rows by key, locked in the order of the keys, so that two such statements cannot deadlock."""
        rows: list[Row[Any]] = []
        for at in range(0, len(keys), most):
            wanted = among(self._pk, keys[at : at + most], self._connection.dialect.name)
            rows += read_rows(self._connection, self._select(wanted).order_by(self._pk))
        return rows

    def _select(self, *where: ColumnElement[bool]) -> Any:
        chain = self._table.chain(self._source)
        statement = select(*chain.columns).select_from(chain.source).where(*where)
        return statement.with_for_update(of=self._source)

    def _whole(self, touches: frozenset[str | None], unattributed: UnattributedWrites) -> Update | Delete:
        """Count the tenants of the statement's rows as changed, and return the statement restricted to them."""
        field = self._table.tenant or ""
        column = self._table.column_of(self._source, field)
        where = self._statement._where_criteria  # noqa: SLF001  # no public way to see it
        tenants: set[Any] = set()
        for parameters in self._parameters:
            query = select(column).select_from(self._source).where(*where).distinct()
            tenants.update(row[0] for row in read_rows(self._connection, query, dict(parameters)))
        new = self._set_values(self._table.fields[field].name) if touches else []
        if UNKNOWN in new or (None in touches and not self._table.changes_by_itself):
            unattributed(self._table.table.name, "an UPDATE that computes the tenant of many rows")
        for tenant in tenants | {value for value in new if value is not UNKNOWN}:
            self._collected.whole(tenant)
        known = among(column, [tenant for tenant in tenants if tenant is not None], self._connection.dialect.name)
        condition = or_(known, column.is_(None)) if None in tenants else known
        return self._statement.where(condition)  # type: ignore[no-any-return]


def _conjuncts(criteria: Sequence[Any]) -> Iterator[Any]:
    for condition in criteria:
        if isinstance(condition, BooleanClauseList) and condition.operator is operators.and_:
            yield from _conjuncts(condition.clauses)
        else:
            yield condition


def _set_clause(statement: Any) -> list[tuple[Any, Any]]:
    ordered = getattr(statement, "_ordered_values", None)  # a list of its own until SQLAlchemy 2.1
    return list(ordered or (statement._values or {}).items())  # noqa: SLF001  # no public way to see it


def _value(parameter: BindParameter[Any], parameters: Mapping[str, Any]) -> Any:
    return parameters.get(parameter.key, parameter.effective_value)
