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
"""Named facts; "cache" is the server that serves this database, as :func:`cache_name` says it; "cluster" the
shards that it is one of; "shard" which of them it is."""
OUTBOX: Final = Table(
    "tidegate_outbox",
    METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True),
    Column("created_at", DateTime, nullable=False, server_default=func.current_timestamp()),
    Column("tenant", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("whole", Boolean, nullable=False),
)
"""What was changed while the cache could not be told: a tenant, tags as JSON, or all of it."""
CATALOGUE: Final = Table(
    "tidegate_catalogue",
    METADATA,
    Column("name", String(63), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("last_epoch", BigInteger, nullable=False),
    Column("map", Text, nullable=False),
    Column("flip", Text),
)
"""One row, on the shard that keeps the catalogue: the shard map and its epoch, the last epoch that any map or flip was
given, and the flip that is under way."""
OWNERSHIP: Final = Table(
    "tidegate_ownership",
    METADATA,
    Column("unit", String(255), primary_key=True),
    Column("since", BigInteger, nullable=False),
    Column("owned", Boolean, nullable=False),
)
"""A row for each unit that this shard owns, or has owned: since which epoch it does, or does not any more."""
CLOSING: Final = Table(
    "tidegate_closing",
    METADATA,
    Column("unit", String(255), primary_key=True),
    Column("since", BigInteger, nullable=False),
    Column("closed", Boolean, nullable=False),
)
"""Units that are about to leave this shard at that epoch: no new write begins, while those that have begun may end. Not
closed: they were, and stayed, and no flip of that epoch or an older one may close them again."""

_NAMESPACE: Final = (
    "SELECT (SELECT system_identifier FROM pg_control_system())::text, current_database(), current_schema()"
)


def namespace(engine: Engine) -> str:
    """The database's own name for its keys: of system identifier, database and schema; 16 hexadecimal digits."""
    with engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            (named,) = connection.exec_driver_sql(_NAMESPACE).all()
            parts = [str(part) for part in named]
        else:
            parts = [connection.dialect.name, _state_value(engine, "id", uuid4().hex)]
    return blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def cluster_id(engine: Engine, first: str | None) -> str | None:
    """Which cluster of shards this database is one of; *first* if it was none yet."""
    return _found(engine, _CLUSTER) if first is None else _state_value(engine, _CLUSTER, first)


def is_named(engine: Engine, shard: str) -> bool:
    """Whether it was said which of several shards this database is, and so that it is *shard*.

    Raises:
        SettingsError: it is another one.
    """
    named = _found(engine, _SHARD)
    if named not in (None, shard):
        raise SettingsError(f"shards.{shard}: its URL leads to the database of {named}; see the URLs of both")
    return named is not None


def name_shard(engine: Engine, shard: str) -> None:
    """Say that this database is *shard*.

    Raises:
        SettingsError: somebody was faster, and has said that it is another one.
    """
    _state_value(engine, _SHARD, shard)
    is_named(engine, shard)


def cluster_namespace(cluster: str) -> str:
    """The name for the keys of all shards of a cluster: a tenant keeps its keys wherever it moves."""
    return blake2b(f"cluster\0{cluster}".encode(), digest_size=8).hexdigest()


def ddl(engine_name: str = "postgresql", *, undo: bool = False) -> list[str]:
    """The statements that make the tables, or drop them."""
    from sqlalchemy.dialects import postgresql, sqlite

    dialect = sqlite.dialect() if engine_name == "sqlite" else postgresql.dialect()  # type: ignore[no-untyped-call]
    tables = sorted(METADATA.tables.values(), key=lambda table: table.name)
    if undo:
        return [str(DropTable(table, if_exists=True).compile(dialect=dialect)).strip() for table in tables]
    return [str(CreateTable(table, if_not_exists=True).compile(dialect=dialect)).strip() for table in tables]


def missing_tables(engine: Engine) -> list[str]:
    """The names of the tables that are not there."""
    return [table.name for table in METADATA.sorted_tables if not inspect(engine).has_table(table.name)]


def make_tables(engine: Engine) -> list[str]:
    """Make what is missing.

    Returns:
        The names of the tables that were made.

    Raises:
        SettingsError: they are missing, and this user may not make them.
    """
    missing = [METADATA.tables[name] for name in missing_tables(engine)]
    try:
        METADATA.create_all(engine, tables=missing)
    except DBAPIError as error:
        if not missing_tables(engine):  # another gate was faster
            return []
        names = ", ".join(table.name for table in missing)
        raise SettingsError(
            f"the database has no {names}, and this user may not make them: run 'tidegate init' as one who may"
        ) from error
    return [table.name for table in missing]


def drop_tables(engine: Engine) -> list[str]:
    """Drop those that are there, and return their names."""
    there = [table for table in METADATA.sorted_tables if inspect(engine).has_table(table.name)]
    METADATA.drop_all(engine, tables=there)
    return [table.name for table in there]


def serving_cache(engine: Engine, name: str | None) -> str | None:
    """The cache that serves this database: the first that a gate came with, or None while none has.

    Args:
        engine: the primary's.
        name: of the cache that this gate comes with, None for none.
    """
    return _state_value(engine, CACHE, name) if name is not None else _found(engine, CACHE)


def replace_serving_cache(engine: Engine, name: str) -> None:
    """Say that another cache serves this database from now on; every gate must be started anew with it."""
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
