"""Tidegate's own tables on a primary: which cache serves this database, the outbox, and what a shard owns."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Identity,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    func,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateTable, DropTable

from tidegate.errors import SettingsError

if TYPE_CHECKING:
    from sqlalchemy import Engine

METADATA: Final = MetaData()
CACHE: Final = "cache"
_CLUSTER: Final = "cluster"
_SHARD: Final = "shard"
STATE: Final = Table(
    "tidegate_state",
    METADATA,
    Column("name", String(63), primary_key=True),
    Column("value", Text, nullable=False),
)
"""Named facts. "cache" is the URL of the cache that serves this database, without its password; "cluster" is the id of
the shards that this database is one of; "shard" is the name of the shard that it is; "id" is the id of a database that
is not PostgreSQL."""
OUTBOX: Final = Table(
    "tidegate_outbox",
    METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True),
    Column("created_at", DateTime, nullable=False, server_default=func.current_timestamp()),
    Column("tenant", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("whole", Boolean, nullable=False),
)
"""What was changed while the cache could not be told of it: a tenant, and either tags as JSON or the whole tenant."""
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

_NAMESPACE: Final = (
    "SELECT (SELECT system_identifier FROM pg_control_system())::text, current_database(), current_schema()"
)


def namespace(engine: Engine) -> str:
    """Return the name that this database has in the cache's keys; 16 hexadecimal digits.

    It is made of system identifier, database and schema; on a database other than PostgreSQL, of a stored id.
    """
    with engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            (named,) = connection.exec_driver_sql(_NAMESPACE).all()
            parts = [str(part) for part in named]
        else:
            parts = [connection.dialect.name, _state_value(engine, "id", uuid4().hex)]
    return blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def cluster_id(engine: Engine, first: str | None) -> str | None:
    """Return the id of the cluster of shards that this database belongs to.

    Args:
        engine: the primary's engine.
        first: the id to store if the database belongs to no cluster yet. None: store nothing.

    Returns:
        The stored id; None if there is none.
    """
    return _found(engine, _CLUSTER) if first is None else _state_value(engine, _CLUSTER, first)


def is_named(engine: Engine, shard: str) -> bool:
    """Tell whether a gate has recorded which of several shards this database is.

    Raises:
        SettingsError: it is recorded as another shard than *shard*.
    """
    named = _found(engine, _SHARD)
    if named not in (None, shard):
        raise SettingsError(
            f"shards.{shard}: its URL leads to the database of the shard {named}; check the URLs of both shards"
        )
    return named is not None


def name_shard(engine: Engine, shard: str) -> None:
    """Record that this database is *shard*.

    Raises:
        SettingsError: another gate was faster, and has recorded that it is another shard.
    """
    _state_value(engine, _SHARD, shard)
    is_named(engine, shard)


def cluster_namespace(cluster: str) -> str:
    """Return the name in the cache's keys for all shards of a cluster: a tenant keeps its keys after a flip."""
    return blake2b(f"cluster\0{cluster}".encode(), digest_size=8).hexdigest()


def ddl(engine_name: str = "postgresql", *, undo: bool = False) -> list[str]:
    """Return the statements that make the tables; with *undo*, those that drop them."""
    from sqlalchemy.dialects import postgresql, sqlite

    dialect = sqlite.dialect() if engine_name == "sqlite" else postgresql.dialect()  # type: ignore[no-untyped-call]
    tables = sorted(METADATA.tables.values(), key=lambda table: table.name)
    if undo:
        return [str(DropTable(table, if_exists=True).compile(dialect=dialect)).strip() for table in tables]
    return [str(CreateTable(table, if_not_exists=True).compile(dialect=dialect)).strip() for table in tables]


def missing_tables(engine: Engine) -> list[str]:
    """Return the names of the tables that the database does not have."""
    return [table.name for table in METADATA.sorted_tables if not inspect(engine).has_table(table.name)]


def make_tables(engine: Engine) -> list[str]:
    """Make the tables that are missing.

    Returns:
        The names of the tables that were made.

    Raises:
        SettingsError: tables are missing, and this user may not make them.
    """
    missing = [METADATA.tables[name] for name in missing_tables(engine)]
    try:
        METADATA.create_all(engine, tables=missing)
    except DBAPIError as error:
        if not missing_tables(engine):  # another gate was faster
            return []
        names = ", ".join(table.name for table in missing)
        raise SettingsError(
            f"the database has no tables {names}, and this user may not make them: run 'tidegate init' as a user who "
            "may"
        ) from error
    return [table.name for table in missing]


def drop_tables(engine: Engine) -> list[str]:
    """Drop the tables that are there, and return their names.

    Raises:
        SettingsError: a table has the name of one of them and other columns: it is somebody else's. None was dropped.
    """
    there = [table for table in METADATA.sorted_tables if inspect(engine).has_table(table.name)]
    for table in there:
        columns = {column["name"] for column in inspect(engine).get_columns(table.name)}
        if columns != {column.name for column in table.columns}:
            raise SettingsError(
                f"the table {table.name} has the columns {', '.join(sorted(columns))}, which Tidegate did not make: "
                "drop it by hand if nobody needs it"
            )
    METADATA.drop_all(engine, tables=there)
    return [table.name for table in there]


def serving_cache(engine: Engine, name: str | None) -> str | None:
    """Return the cache that serves this database: the first one that a gate came with; None while no gate had one.

    Args:
        engine: the primary's engine.
        name: the cache that this gate comes with, as its URL without the password; None: it has none.
    """
    return _state_value(engine, CACHE, name) if name is not None else _found(engine, CACHE)


def replace_serving_cache(engine: Engine, name: str) -> None:
    """Record that another cache serves this database from now on; every gate must be restarted with it."""
    serving_cache(engine, name)
    with engine.begin() as connection:
        connection.execute(update(STATE).where(STATE.c.name == CACHE).values(value=name))


def _state_value(engine: Engine, name: str, first: str) -> str:
    found = _found(engine, name)
    if found is not None:
        return found
    try:
        with engine.begin() as connection:
            connection.execute(insert(STATE).values(name=name, value=first))
    except DBAPIError:  # another gate was faster
        return _found(engine, name) or first
    return first


def _found(engine: Engine, name: str) -> str | None:
    with engine.connect() as connection:
        return connection.scalar(select(STATE.c.value).where(STATE.c.name == name))
