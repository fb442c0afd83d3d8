"""Shards of a cluster, as tests of ownership see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import create_engine, text

from tidegate.errors import StaleShardMap
from tidegate.proxy.database.ownership import check_ownership, record_ownership
from tidegate.proxy.database.schema import METADATA, make_tables
from tidegate.proxy.shard_admin.flip import Flipper
from tidegate.proxy.shards.catalogue import Catalogue, Follower
from tidegate.routing.sharding.shard_map import Ownership, ShardMap, even_map, slot_unit

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tidegate.proxy.embedded import Cluster


class Shards:
    """The primaries of *cluster* by name, s0, s1, ...; s0 keeps the catalogue."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.engines: dict[str, Engine] = {
            f"s{i}": create_engine(shard.primary.url, pool_pre_ping=True) for i, shard in enumerate(cluster.shards)
        }
        self.catalogue = Catalogue(self.engines["s0"])

    def make_tables(self) -> None:
        for engine in self.engines.values():
            make_tables(engine)
            with engine.begin() as connection:
                connection.execute(text("CREATE TABLE writes (slot int, number int)"))

    def empty(self) -> None:
        for engine in self.engines.values():
            with engine.begin() as connection:
                for name in [*METADATA.tables, "writes"]:  # a few rows each: faster than TRUNCATE
                    connection.execute(text(f"DELETE FROM {name}"))

    def begin(self, *shards: str) -> ShardMap:
        """Publish an even map of some shards, all by default, and have each own what it says."""
        first = even_map(shards or tuple(self.engines))
        self.catalogue.publish(first, None)
        for name in self.engines:
            record_ownership(self.engines[name], name, first)
        return first

    def follower(self, poll_s: float = 60) -> Follower:
        return Follower.of(self.engines["s0"], poll_s=poll_s)

    def flipper(self, drain_s: float = 5.0) -> Flipper:
        return Flipper(self.catalogue, self.engines, drain_s=drain_s)

    def map(self) -> ShardMap:
        entry = self.catalogue.load()
        assert entry is not None
        return entry.shard_map

    def accepts(self, ownership: Ownership) -> bool:
        """Whether a write by a map with this ownership would be accepted now."""
        with self.engines[ownership.shard].begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '5s'"))
            try:
                check_ownership(connection, [ownership])
            except StaleShardMap:
                return False
            return True

    def accepting(self, slot: int) -> list[str]:
        """The shards that accept a write of *slot* by the newest map: one, or none in the middle of a flip."""
        held = self.map().slots[slot]
        return [name for name in self.engines if self.accepts(Ownership(slot_unit(slot), name, held.since_epoch))]

    def owners(self, slot: int) -> list[str]:
        """The shards whose table says that they own *slot*."""
        sql = text("SELECT 1 FROM tidegate_ownership WHERE unit = :unit AND owned")
        found = []
        for name, engine in self.engines.items():
            with engine.connect() as connection:
                if connection.execute(sql, {"unit": slot_unit(slot)}).first():
                    found.append(name)
        return found

    def close(self) -> None:
        for engine in self.engines.values():
            engine.dispose()
