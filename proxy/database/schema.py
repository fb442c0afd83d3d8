"""Tidegate's own tables on a primary: named facts, the outbox, and what a shard owns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    func,
    insert,
    inspect,
    select,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateTable, DropTable
from sqlalchemy.sql.functions import FunctionElement

from tidegate.errors import SettingsError
from tidegate.proxy.database.functions import drop_functions_sql, functions_sql, has_functions
from tidegate.proxy.database.note_functions import literal, qualified, without_functions
from tidegate.proxy.database.placement import (
    LEFT_BEHIND,
    OWN_SCHEMA,
    TRACKED_NAMES,
    forget_schema,
    own,
    schema_of,
)

if TYPE_CHECKING:
    from sqlalchemy import Engine

METADATA: Final = MetaData()


class _Noted(FunctionElement[Any]):
    """What a column of a note is by default."""

    inherit_cache = False

    def __init__(self, column: str) -> None:
        self.column: Final = column
        super().__init__()


@compiles(_Noted)
def _on_sqlite(element: _Noted, _compiler: object, **_options: object) -> str:
    return "NULL" if element.column == "id" else "''"  # a primary key that is NULL gets the next number


@compiles(_Noted, "postgresql")
def _on_postgresql(element: _Noted, _compiler: object, **_options: object) -> str:
    if element.column == "id":
        return "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    return "(pg_current_xact_id()::text)"


CACHE: Final = "cache"
CLAIM: Final = "claim"
CLUSTER: Final = "cluster"
DATABASE: Final = "database"
FAILED: Final = "failed"
FAMILIES: Final = "families"
SHARD: Final = "shard"
STATE: Final = Table(
    "tidegate_state",
    METADATA,
    Column("name", String(63), primary_key=True),
    Column("value", Text, nullable=False),
)
"""Named facts. "database" is the id of this database, and what it is bound to; "history" is its history, and the life
of the server that it is bound to; "cache" is the server that serves this database, and "claim" another one that
would; "cluster" is the id of the shards that this database is one of; "failed" is the last trigger that could
not do its work, and when; "families" says which tables were partitions of
tracked tables, or inherited from them, when somebody last looked; "shard" is the name of the shard that it is."""
PLACED_STATE: Final = STATE.to_metadata(MetaData(), schema=OWN_SCHEMA)
"""The same, for statements that name a program's tables too."""
OUTBOX: Final = Table(
    "tidegate_outbox",
    METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), nullable=False, server_default=_Noted("id")),
    Column("created_at", DateTime, nullable=False, server_default=func.current_timestamp()),
    Column("xact", Text, nullable=False, server_default=_Noted("xact")),
    Column("source", Text, nullable=False),
    Column("rows", Text, nullable=False),
    PrimaryKeyConstraint("id").ddl_if(dialect="sqlite"),
)
"""The notes of what was changed and the cache was not told of: see :class:`tidegate.proxy.tracking.notes.Note`.

On PostgreSQL "id" is when a note was written, in microseconds, and two may have the same. It comes from no sequence: a
program that asks for ``lastval()`` after its INSERT must not be given ours. "xact" is the transaction's id."""
CATALOGUE: Final = Table(
    "tidegate_catalogue",
    METADATA,
    Column("name", String(63), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("last_epoch", BigInteger, nullable=False),
    Column("map", Text, nullable=False),
    Column("flip", Text),
)
"""One row, on the shard that keeps the catalogue: the shard map and its epoch, the last epoch that was given to any map
or flip, and the flip that is under way."""
OWNERSHIP: Final = Table(
    "tidegate_ownership",
    METADATA,
    Column("unit", String(255), primary_key=True),
    Column("since", BigInteger, nullable=False),
    Column("owned", Boolean, nullable=False),
)
"""A row for each unit that this shard owns or has owned: since which epoch it owns it, or does not own it any more."""
CLOSING: Final = Table(
    "tidegate_closing",
    METADATA,
    Column("unit", String(255), primary_key=True),
    Column("since", BigInteger, nullable=False),
    Column("closed", Boolean, nullable=False),
)
"""Units that are about to leave this shard at that epoch. While a unit is closed, no new write to it begins, and the
writes that have begun may end. A row that is not closed: the unit was closed and stayed here after all, and no flip of
that epoch or an older one may close it again."""


def ddl(engine_name: str = "postgresql", *, undo: bool = False, schema: str | None = None) -> list[str]:
    """Return the statements that make the tables; with *undo*, those that drop them."""
    from sqlalchemy.dialects import postgresql, sqlite

    tables = sorted(_in_schema(schema).tables.values(), key=lambda table: table.name)
    is_postgresql = engine_name != "sqlite"
    dialect = sqlite.dialect() if engine_name == "sqlite" else postgresql.dialect()  # type: ignore[no-untyped-call]
    if undo:
        dropped = [str(DropTable(table, if_exists=True).compile(dialect=dialect)).strip() for table in tables]
        return [*(drop_functions_sql(schema) if is_postgresql else ()), *dropped]
    created = [str(CreateTable(table, if_not_exists=True).compile(dialect=dialect)).strip() for table in tables]
    return [forget_history_sql(schema), *created, *functions_sql(schema)] if is_postgresql else created


def forget_history_sql(schema: str | None) -> str:
    """Return the statement that makes all void that is cached, if the outbox is gone and the other tables are there.

    Triggers could not note what was changed meanwhile. Without its record the database gets a new history.
    """
    outbox, state = (qualified(schema, table.name) for table in (OUTBOX, STATE))
    return f"""
DO $tidegate$ BEGIN
  IF to_regclass({literal(outbox)}) IS NULL AND to_regclass({literal(state)}) IS NOT NULL THEN
    DELETE FROM {state} WHERE name = 'history';
  END IF;
END $tidegate$""".strip()  # noqa: S608  # names of our own, quoted


def _in_schema(schema: str | None) -> MetaData:
    """Return the tables as they lie in *schema*; None: where the search path leads."""
    if schema is None:
        return METADATA
    placed = MetaData()
    for table in METADATA.sorted_tables:
        table.to_metadata(placed, schema=schema)
    return placed


def missing_tables(engine: Engine) -> list[str]:
    """Return the names of the tables that the database does not have."""
    with engine.connect() as connection:
        schema, inspector = schema_of(connection), inspect(connection)
        return [table.name for table in METADATA.sorted_tables if not inspector.has_table(table.name, schema)]


def make_tables(engine: Engine) -> list[str]:
    """Make the tables that are missing, in the schema of the tracked tables, and the functions beside them.

    Where the tracked tables were moved from another schema, ours are moved after them: the database stays the same one.

    Returns:
        The names of the tables that were made.

    Raises:
        SettingsError: tables are missing, and this user may not make them.
    """
    _bring_tables_along(engine)
    missing = missing_tables(engine)
    placed = _in_schema(schema_of(engine))
    try:
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql(forget_history_sql(schema_of(connection)))
            placed.create_all(connection, tables=[table for table in placed.sorted_tables if table.name in missing])
        make_functions(engine)
    except DBAPIError as error:
        if not missing_tables(engine):  # another gate was faster, or only the functions are missing
            if not _has_functions(engine):  # who looks for the triggers says so: no transaction takes its notes
                without_functions.add(engine.dialect)
            return []
        raise SettingsError(
            f"the database has no tables {', '.join(missing)}, and this user may not make them: run 'tidegate init' as "
            "a user who may"
        ) from error
    return missing


def make_functions(engine: Engine) -> None:
    """Make the functions beside the tables, if they are missing.

    Raises:
        DBAPIError: this user may not make them.
    """
    if not _has_functions(engine):
        with engine.begin() as connection:
            for statement in functions_sql(schema_of(connection)):
                connection.exec_driver_sql(statement.replace("%", "%%"))
    without_functions.discard(engine.dialect)


def _has_functions(engine: Engine) -> bool:
    if engine.dialect.name != "postgresql":
        return True
    with engine.connect() as connection:
        return has_functions(connection, schema_of(connection))


def _bring_tables_along(engine: Engine) -> None:
    """Move our tables to where the tracked tables are now.

    A second set of them would be a second database in the cache, with the same rows: what one gate tells it, the gates
    that use the other set do not hear.
    """
    schema = schema_of(engine)
    if schema is None or inspect(engine).has_table(STATE.name, schema):
        return
    with engine.connect() as connection:
        left = connection.exec_driver_sql(LEFT_BEHIND, (STATE.name, TRACKED_NAMES)).all()
    if len(left) != 1:
        return
    quoted = engine.dialect.identifier_preparer.quote_identifier
    ((old,),) = left
    try:
        with engine.begin() as connection:
            for table in METADATA.tables:
                connection.exec_driver_sql(f"ALTER TABLE IF EXISTS {quoted(old)}.{table} SET SCHEMA {quoted(schema)}")
    except DBAPIError as error:
        if inspect(engine).has_table(STATE.name, schema):  # another gate was faster
            return
        raise SettingsError(
            f"the tables {', '.join(METADATA.tables)} lie in the schema {old}, from where the tracked tables were "
            f"moved to {schema}, and this user may not move them: run 'tidegate init' as a user who may"
        ) from error


def drop_tables(engine: Engine) -> list[str]:
    """Drop the tables that are there, and return their names.

    Raises:
        SettingsError: a table has the name of one of them and other columns: it is somebody else's. None was dropped.
    """
    missing, schema = missing_tables(engine), schema_of(engine)
    placed = _in_schema(schema)
    there = [table for table in placed.sorted_tables if table.name not in missing]
    for table in there:
        columns = {column["name"] for column in inspect(engine).get_columns(table.name, schema)}
        if columns != {column.name for column in table.columns}:
            raise SettingsError(
                f"the table {table.name} has the columns {', '.join(sorted(columns))}, which Tidegate did not make: "
                "drop it by hand if nobody needs it"
            )
    placed.drop_all(engine, tables=there)
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            for statement in drop_functions_sql(schema):
                connection.exec_driver_sql(statement.replace("%", "%%"))
    forget_schema(engine.dialect)
    return [table.name for table in there]


def first_fact(engine: Engine, name: str, first: str) -> str:
    """Return the fact called *name*, after storing *first* if there is none."""
    found = fact(engine, name)
    if found is not None:
        return found
    try:
        with own(engine).begin() as connection:
            connection.execute(insert(STATE).values(name=name, value=first))
    except DBAPIError:  # another gate was faster
        return fact(engine, name) or first
    return first


def fact(engine: Engine, name: str) -> str | None:
    """Return the fact called *name*; None if there is none."""
    with own(engine).connect() as connection:
        return connection.scalar(select(STATE.c.value).where(STATE.c.name == name))
