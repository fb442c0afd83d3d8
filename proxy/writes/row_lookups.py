"""Reading rows for their tags: before COMMIT, together with the transaction's id, or locked before a bulk statement."""

from __future__ import annotations

from functools import lru_cache, reduce
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    ColumnElement,
    FromClause,
    any_,
    bindparam,
    false,
    select,
    true,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY

from tidegate.proxy.database.placement import placed_beside
from tidegate.proxy.database.transaction import TRANSACTION, transaction_of
from tidegate.repositories.unprepared import unprepared

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sqlalchemy import Connection, Select

    from tidegate.cache.root_recovery import Transaction
    from tidegate.proxy.writes.tracked_tables import TrackedTable
    from tidegate.proxy.writes.transaction_changes import PendingRows, TransactionChanges

MOST_LOOKED_UP: Final = 1_000
"""How many rows of each table one statement looks up at most."""


def among(column: ColumnElement[Any], values: Collection[Any], dialect: str) -> ColumnElement[bool]:
    """Return the condition that *column* is one of *values*.

    On PostgreSQL the values are one array, so that the SQL is the same for any number of them.
    """
    if dialect != "postgresql":  # one parameter for each value: executemany takes no list
        return column.in_([bindparam(None, value, type_=column.type) for value in values]) if values else false()
    return column == any_(bindparam(None, list(values), type_=ARRAY(column.type)))


def read_rows(
    connection: Connection, statement: Select[Any], parameters: Mapping[str, Any] | None = None, **options: Any
) -> list[Any]:
    """Return the rows of *statement*, a question of the gate's own inside the program's transaction.

    It is not prepared: once a column has another type, a statement that was prepared before would fail, and with it
    the program's transaction.
    """
    with unprepared(connection):
        return list(connection.execute(statement, parameters, execution_options=options).all())


def resolve(connection: Connection, collected: TransactionChanges) -> Transaction | None:
    """Look up the rows that *collected* asks for, and collect their tags.

    Returns:
        The transaction's id and position, which the same statement brings on PostgreSQL. None on another database, and
        if there was nothing to look up.
    """
    collected.snapshot_is_old = reads_as_of_its_beginning(connection)
    transaction = None
    while lookups := collected.next_lookups(MOST_LOOKED_UP):
        if connection.dialect.name == "postgresql":
            head = _look_up(connection, collected, lookups)
            transaction = transaction or head
        else:
            for lookup in lookups:
                for row in read_rows(connection, _rows_one_by_one(lookup, connection.dialect.name)):
                    collected.row(lookup.table, lookup.table.read(row))
        for lookup in lookups:
            collected.forget(*lookup)
    return transaction


def reads_as_of_its_beginning(connection: Connection) -> bool:
    """Tell whether the isolation level is above READ COMMITTED, as far as SQLAlchemy knows it.

    Such a transaction reads the rows as they were when it began.
    """
    level = connection.get_execution_options().get("isolation_level") or connection.default_isolation_level
    return level in ("REPEATABLE READ", "SERIALIZABLE") and connection.dialect.name == "postgresql"


def _look_up(connection: Connection, collected: TransactionChanges, lookups: Sequence[PendingRows]) -> Transaction:
    statement, widths = _side_by_side(tuple((lookup.table, lookup.columns) for lookup in lookups))
    keys = {_key(at): _values(lookup) for at, lookup in enumerate(lookups)}
    rows = read_rows(connection, statement, keys, **placed_beside(connection))
    for row in rows:
        at = len(TRANSACTION)
        for lookup, width in zip(lookups, widths, strict=True):
            collected.row(lookup.table, lookup.table.read(row[at : at + width]))
            at += width
    return transaction_of(rows[0])


@lru_cache(maxsize=256)
def _side_by_side(wanted: tuple[tuple[TrackedTable, tuple[str, ...]], ...]) -> tuple[Select[Any], tuple[int, ...]]:
    """Return one statement for all tables, and the number of columns that each table has in it.

    A full join ON false puts the tables' rows side by side: each row of the answer is a row of one table, with NULL in
    the columns of the others. The statement is cached: making it takes longer than running it.
    """
    parts: list[FromClause] = []
    for at, (table, names) in enumerate(wanted):
        columns = [named(table.table, name) for name in names]
        parts.append(_rows(table, _one_of(columns, _key(at))).subquery())
    head = select(*(made.label(None) for made in TRANSACTION)).subquery()
    joined = reduce(lambda left, right: left.join(right, false(), full=True), parts)
    columns = [column for part in (head, *parts) for column in part.c]
    return select(*columns).select_from(head.outerjoin(joined, true())), tuple(len(part.c) for part in parts)


def _one_of(columns: Sequence[ColumnElement[Any]], key: str) -> ColumnElement[bool]:
    if len(columns) > 1:
        return tuple_(*columns).in_(bindparam(key, expanding=True))
    return columns[0] == any_(bindparam(key, type_=ARRAY(columns[0].type)))


def _key(at: int) -> str:
    return f"keys{at}"


def _values(lookup: PendingRows) -> list[Any]:
    return [key[0] for key in lookup.keys] if len(lookup.columns) == 1 else list(lookup.keys)


def _rows(table: TrackedTable, wanted: ColumnElement[bool]) -> Select[Any]:
    chain = table.chain()
    labelled = [column.label(f"c{at}") for at, column in enumerate(chain.columns)]
    return select(*labelled).select_from(chain.source).where(wanted)


def _rows_one_by_one(lookup: PendingRows, dialect: str) -> Select[Any]:
    columns = [named(lookup.table.table, name) for name in lookup.columns]
    if len(columns) == 1:
        return _rows(lookup.table, among(columns[0], [key[0] for key in lookup.keys], dialect))
    return _rows(lookup.table, tuple_(*columns).in_(lookup.keys))


def named(table: FromClause, name: str) -> ColumnElement[Any]:
    """Return the column of *table* that the database calls *name*."""
    return next(column for column in table.c if column.name == name)


def begin_immediately(connection: Connection) -> None:
    """Take SQLite's write lock now, before a SELECT; do nothing on other databases.

    The statement after the SELECT takes this lock anyway. Without it, another writer could come between the two.
    """
    if connection.dialect.name == "sqlite":
        raw: Any = connection.connection.dbapi_connection
        if not getattr(raw, "in_transaction", True):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
