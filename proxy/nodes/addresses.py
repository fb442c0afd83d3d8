"""The addresses of a shard's servers, as the settings name them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tidegate.proxy.nodes.engines import checked_url, hosts
from tidegate.routing.replicas.topology import Node

if TYPE_CHECKING:
    from sqlalchemy import URL

    from tidegate.proxy.settings import PoolSettings, Settings, ShardSettings


@dataclass(frozen=True, slots=True)
class Address:
    """One server, as the settings name it.

    Args:
        name: "host:port".
        url: SQLAlchemy's URL for this one host.
        weight: its share of reads, relative to the other replicas; 0: none.
        max_lag_s: how many seconds behind the primary it may be and still be read from.
        pool: the connections of one process to it.
        founding: whether the settings name it as a primary.
    """

    name: str
    url: URL
    weight: float
    max_lag_s: float
    pool: PoolSettings
    founding: bool = False

    def node(self) -> Node:
        """Make the node for this server; nothing is known of its state yet."""
        return Node(self.name, self.weight, self.max_lag_s, self.pool.size + self.pool.overflow, self.founding)


def addresses(shard: ShardSettings, settings: Settings, primary: URL | None = None) -> list[Address]:
    """Return the servers of a shard, each once; those of the primary's URL come first.

    Args:
        shard: the shard's settings.
        settings: all settings.
        primary: the URL of an engine that the program has already, instead of the shard's; None: the shard's.

    Raises:
        SettingsError: a URL cannot be used.
    """
    first = primary or checked_url(shard.primary, f"shards.{shard.name}.primary")
    lag_s, pool = settings.routing.max_lag_s, settings.pool
    found = [Address(_name(url), url, 1.0, lag_s, pool, founding=True) for url in hosts(first)]
    for number, replica in enumerate(shard.replicas):
        url = checked_url(replica.url, f"shards.{shard.name}.replicas.{number}")
        lag = replica.max_lag_s or lag_s
        found += [Address(_name(one), one, replica.weight, lag, replica.pool or pool) for one in hosts(url)]
    return list({address.name: address for address in reversed(found)}.values())[::-1]


def _name(url: URL) -> str:
    return f"{url.host or 'localhost'}:{url.port or 5432}"
