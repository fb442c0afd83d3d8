"""Which database this is, and which of several shards: ids that are bound to the database, so that a copy has others.

A name tells nothing: a copy has every name of its original. What no copy has is the server's system identifier
together with the database's oid there. A physical copy has these too; its history tells it apart.
"""

from __future__ import annotations

import logging
import os
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, update

from tidegate.errors import SettingsError
from tidegate.position import HistoryRecord
from tidegate.proxy.database.history_record import BOUND_TO
from tidegate.proxy.database.history_record import NAME as HISTORY
from tidegate.proxy.database.placement import own
from tidegate.proxy.database.schema import CACHE, CLAIM, CLUSTER, DATABASE, SHARD, STATE, fact, first_fact

if TYPE_CHECKING:
    from sqlalchemy import Engine

_log: Final = logging.getLogger(__name__)
_BOUND_TO: Final = f"SELECT {BOUND_TO}"
_OF_THE_ORIGINAL: Final = (HISTORY, CACHE, CLAIM, CLUSTER)
"""Facts that a copy has brought along, and that are not true of it."""


def database_id(engine: Engine) -> str:
    """Return the id of this database, 16 hexadecimal digits: the name that it has in the cache's keys.

    It is made by the first gate. A copy of a database gets a new one. On a database other than PostgreSQL nothing tells
    a copy from its original.
    """
    if engine.dialect.name != "postgresql":
        return first_fact(engine, DATABASE, _fresh())
    with engine.connect() as connection:
        ((bound_to,),) = connection.exec_driver_sql(_BOUND_TO).all()
    while True:
        recorded = first_fact(engine, DATABASE, f"{_fresh()} {bound_to}")
        named, _, binding = recorded.partition(" ")
        if binding == bound_to:
            return named
        with own(engine).begin() as connection:
            instead = update(STATE).where(STATE.c.name == DATABASE, STATE.c.value == recorded)
            if connection.execute(instead.values(value=f"{_fresh()} {bound_to}")).rowcount:
                connection.execute(delete(STATE).where(STATE.c.name.in_(_OF_THE_ORIGINAL)))
                _log.warning("this database is a copy of another one: it gets an id, and so a cache, of its own")


def end_history(engine: Engine) -> bool:
    """Have the next gate that looks make a new history, newer than every one that it knows of.

    Returns:
        Whether there was one.
    """
    recorded = HistoryRecord.of_text(fact(engine, HISTORY))
    if recorded is not None:
        with own(engine).begin() as connection:
            unbound = recorded._replace(timeline=0, started="-")
            instead = update(STATE).where(STATE.c.name == HISTORY, STATE.c.value == recorded.text())
            connection.execute(instead.values(value=unbound.text()))
    return recorded is not None


def _fresh() -> str:
    return os.urandom(8).hex()


def cluster_id(engine: Engine, first: str | None) -> str | None:
    """Return the id of the cluster of shards that this database belongs to.

    Args:
        engine: the primary's engine.
        first: the id to store if the database belongs to no cluster yet. None: store nothing.

    Returns:
        The stored id; None if there is none.
    """
    return fact(engine, CLUSTER) if first is None else first_fact(engine, CLUSTER, first)


def cluster_namespace(cluster: str) -> str:
    """Return the name in the cache's keys for all shards of a cluster: a tenant keeps its keys after a flip."""
    return blake2b(f"cluster\0{cluster}".encode(), digest_size=8).hexdigest()


def is_named(engine: Engine, shard: str) -> bool:
    """Tell whether a gate has recorded which of several shards this database is.

    Raises:
        SettingsError: it is recorded as another shard than *shard*.
    """
    named = fact(engine, SHARD)
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
    first_fact(engine, SHARD, shard)
    is_named(engine, shard)
