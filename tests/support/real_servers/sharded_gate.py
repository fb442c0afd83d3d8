"""A gate on three shards, and sessions of a test's own over the rows of all of them, as if they were one database's.

Three databases of one server are three shards: each has its own tables, map of what it owns, and connections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import psycopg
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.horizontal_shard import ShardedSession
from sqlalchemy.orm import sessionmaker

import tidegate
from real_servers.sharded import EVEN
from tidegate.proxy.database.schema import OUTBOX
from tidegate.proxy.settings import CacheSettings, Settings, ShardingSettings, ShardSettings
from tidegate.repositories.indexes import create_indexes
from tidegate.repositories.models import Base

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.orm import Session

    from tidegate.proxy.embedded import Cluster
    from tidegate.proxy.observe import Event

SHARDS: Final = ("s0", "s1", "s2")
_SELDOM_S: Final = 2.0


class Across:
    """Three shards, a gate on them, and session makers over all.

    Args:
        cluster: of whose first primary they are databases.
        name: of the databases, which are made; "_s0", ... is appended.
        cache: of the gate; its rows are then written on the engines that the gate watches. None: it has no cache, and
            rows come from elsewhere, so that nothing tells the gate whose they are.
        observe: told what the gate does.
    """

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        cache: CacheSettings | None,
        observe: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self._cluster = cluster
        base = cluster.shards[0].primary.url.rsplit("/", 1)[0]
        self.engines: dict[str, Engine] = {}
        for shard in SHARDS:
            database = f"{name}_{shard}"
            cluster.shards[0].primary.execute(f"CREATE DATABASE {database} STRATEGY file_copy", database="postgres")
            self.engines[shard] = create_engine(f"{base}/{database}")
            Base.metadata.create_all(self.engines[shard])
            create_indexes(self.engines[shard])
        settings = Settings(
            shards=tuple(ShardSettings(name=shard, primary=f"{base}/{name}_{shard}") for shard in SHARDS),
            cache=cache or CacheSettings(),
            sharding=ShardingSettings(catalogue=None if cache is None else "s0"),
        )
        self.gate = tidegate.connect(settings, observe=observe)
        for parts in self.gate._shards.every:
            if parts.applier is not None:  # a notification wakes it; it goes on beside all tests that follow
                parts.applier._notified._poll_s = _SELDOM_S
        self.watched = {parts.name: parts.engine for parts in self.gate._shards.every}
        self.sessions: sessionmaker[Session] = over(self.engines if cache is None else self.watched)

    def empty(self) -> None:
        """Delete all rows, and what the cache holds; the shards go on owning what they own."""
        tables = [table.name for table in [*reversed(Base.metadata.sorted_tables), OUTBOX]]
        statement = "; ".join(f"DELETE FROM {table}" for table in tables)
        for engine in self.engines.values():
            url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
            with psycopg.connect(url) as connection:
                connection.execute(statement.encode())
        self._cluster.cache.flush()

    def close(self) -> None:
        self.gate.close()
        for engine in self.engines.values():
            engine.dispose()


def over(engines: Mapping[str, Engine]) -> sessionmaker[Session]:
    """Makes sessions that write each row on its tenant's shard, and read on all."""

    def shard_of(_mapper: Any, instance: Any, clause: Any = None) -> str:
        assert instance is not None, f"which shard {clause} is about is not known"
        return EVEN.ownership(instance.tenant_id).shard

    def everywhere(*_about: Any, **_more: Any) -> tuple[str, ...]:
        return SHARDS

    made: Any = sessionmaker(
        class_=ShardedSession,
        shards=dict(engines),
        shard_chooser=shard_of,
        identity_chooser=everywhere,
        execute_chooser=everywhere,
    )
    return cast("sessionmaker[Session]", made)
