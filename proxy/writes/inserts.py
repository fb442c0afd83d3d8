"""What an INSERT changes, read from its compiled parameters: these hold the defaults of Python's side too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import BindParameter, select, tuple_

from tidegate.cache.tags import UNKNOWN
from tidegate.proxy.writes.row_lookups import among, begin_immediately, named, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import Connection, Insert, Row

    from tidegate.proxy.writes.tracked_tables import TrackedTable
    from tidegate.proxy.writes.transaction_changes import TransactionChanges
    from tidegate.proxy.writes.unattributed import UnattributedWrites

_Values = dict[str, Any]


class _Upsert(NamedTuple):
    """What ON CONFLICT DO UPDATE changes.

    Args:
        target: the columns whose values conflict. None: they are not known.
        touches: whether it may change the tags of a row.
        changes_tenant: whether it may change the tenant of rows that name the row as their parent.
    """

    target: tuple[str, ...] | None
    touches: bool
    changes_tenant: bool = False


def inserted(
    connection: Connection,
    context: Any,
    statement: Insert,
    table: TrackedTable,
    collected: TransactionChanges,
    unattributed: UnattributedWrites,
) -> None:
    """Collect what the INSERT *statement* of *context* changes, just before it is executed.

    Args:
        connection: the connection that executes it.
        context: SQLAlchemy's execution context, with the compiled parameters.
        statement: the INSERT.
        table: the tracked table that it writes.
        collected: the transaction's changes so far.
        unattributed: is called for a row whose tenant and primary key are both unknown, or lie in a SELECT.

    Raises:
        PolicyError: the tenant cannot be told, and *unattributed* is strict.
    """
    if statement.select is not None:
        _from_select(statement, table, collected, unattributed)
        return
    upsert = _upsert(statement, table)
    for values in _rows(statement, context.compiled_parameters):
        fields = {field: values.get(column.name, UNKNOWN) for field, column in table.fields.items()}
        if upsert is not None and _conflicts(connection, table, upsert, values, collected):
            continue
        if not collected.inserted(table, fields, context):
            unattributed(table.table.name, "an INSERT without tenant or primary key")


def keys_came(result: Any, table: TrackedTable, collected: TransactionChanges) -> None:
    """Collect the primary keys that the database made for an INSERT, after it was executed.

    Nothing is collected unless the database returned the keys of all rows.
    """
    keys = [row[0] if row else None for row in result.context.inserted_primary_key_rows or ()]
    if keys and len(keys) == len(result.context.compiled_parameters) and None not in keys:
        collected.keys_came(result.context, table, keys)


def _rows(statement: Insert, parameters: list[Mapping[str, Any]]) -> Iterator[_Values]:
    """Yield the values of each row by column name, without the values that SQL computes."""
    keys = {column.key: column.name for column in statement.table.c}
    many = sum(len(part) for part in statement._multi_values)  # noqa: SLF001  # no public way to see it
    renamed = _renamed(statement)
    for given in parameters:
        if not many:
            yield {name: given[bound] for key, name in keys.items() if (bound := renamed.get(key, key)) in given}
            continue
        for at in range(many):
            row = {name: given[bound] for key, name in keys.items() if (bound := f"{key}_m{at}") in given}
            first = {name: given[key] for key, name in keys.items() if key in given} if at == 0 else {}
            yield first | row


def _renamed(statement: Insert) -> dict[str, str]:
    """Return the columns whose value is a parameter of another name: ``values(id=bindparam("run"))``."""
    values: Any = statement._values or {}  # noqa: SLF001  # no public way to see it
    return {
        getattr(column, "key", column): value.key
        for column, value in values.items()
        if isinstance(value, BindParameter) and not value.unique
    }


def _from_select(
    statement: Insert, table: TrackedTable, collected: TransactionChanges, unattributed: UnattributedWrites
) -> None:
    tenant: Any = UNKNOWN
    if table.tenant is not None:
        names: Any = statement._select_names or []  # noqa: SLF001  # no public way to see it
        column = table.fields[table.tenant]
        for name, value in zip(names, statement.select.selected_columns, strict=False):  # type: ignore[union-attr]
            expression: Any = getattr(value, "element", value)
            if name in {column.name, column.key, table.tenant} and isinstance(expression, BindParameter):
                tenant = expression.value
    if tenant is UNKNOWN:
        unattributed(table.table.name, "an INSERT from a SELECT without a literal tenant")
    else:
        collected.whole(tenant)


def _upsert(statement: Insert, table: TrackedTable) -> _Upsert | None:
    clause: Any = statement._post_values_clause  # noqa: SLF001  # no public way to see it
    if clause is None or not hasattr(clause, "update_values_to_set"):
        return (
            None
            if clause is None or "do_nothing" in clause.__visit_name__
            else _Upsert(None, touches=True, changes_tenant=True)
        )
    keys: dict[Any, str] = {column.key: column.name for column in table.table.c}
    changed = {keys.get(getattr(key, "key", key)) for key in dict(clause.update_values_to_set)}
    target = _target(clause, table)
    sensitive = set(table.fields_by_column) | set(target or ())
    return _Upsert(target, None in changed or bool(changed & sensitive), bool(changed & table.owning))


def _target(clause: Any, table: TrackedTable) -> tuple[str, ...] | None:
    constraint_name = getattr(clause, "constraint_target", None)  # PostgreSQL's
    if constraint_name is not None:
        named_ones: list[Any] = [*table.table.constraints, *table.table.indexes]
        for constraint in named_ones:
            if constraint.name == constraint_name:
                return tuple(column.name for column in constraint.columns)
        return None
    names = [getattr(element, "name", element) for element in clause.inferred_target_elements or ()]
    return tuple(names) if names and all(name in {c.name for c in table.table.c} for name in names) else None


def _conflicts(
    connection: Connection, table: TrackedTable, upsert: _Upsert, values: _Values, collected: TransactionChanges
) -> bool:
    """Collect the row that may be there already. Tell whether this covers the new row too."""
    if upsert.target is None or any(values.get(name, UNKNOWN) is UNKNOWN for name in upsert.target):
        return False
    key = tuple(values[name] for name in upsert.target)
    if None in key:  # NULLs do not conflict
        return False
    collected.look_up(table, upsert.target, [key])
    if not upsert.touches:
        return True
    found = _locked(connection, table, upsert.target, key)
    for row in found:
        collected.row(table, table.read(row))
        collected.look_up(table, (table.pk_column,), [(row[0],)])
    if upsert.changes_tenant and found:
        collected.tenant_changed(table, found)
    return False


def _locked(
    connection: Connection, table: TrackedTable, target: tuple[str, ...], key: tuple[Any, ...]
) -> Sequence[Row[Any]]:
    """Return the row that will be changed, locked, so that its tags are those before the change."""
    begin_immediately(connection)
    chain = table.chain()
    columns = [named(table.table, name) for name in target]
    wanted = among(columns[0], key, connection.dialect.name) if len(key) == 1 else tuple_(*columns).in_([key])
    statement = select(*chain.columns).select_from(chain.source).where(wanted).with_for_update(of=table.table)
    return read_rows(connection, statement)
