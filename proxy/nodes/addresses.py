"""The addresses of a shard's servers, as the settings name them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tidegate.proxy.nodes.connecting import Destination
from tidegate.proxy.nodes.hosts import checked_url, hosts
from tidegate.routing.replicas.topology import Node

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        as_given: whether the program's engine was made for this server alone, and so knows a better address than *url*.
    """

    name: str
    url: URL
    weight: float
    max_lag_s: float
    pool: PoolSettings
    founding: bool = False
    as_given: bool = False

    def node(self) -> Node:
        """Make the node for this server; nothing is known of its state yet."""
        return Node(self.name, self.weight, self.max_lag_s, self.pool.size + self.pool.overflow, self.founding)

    def destination(self, options: tuple[str, ...]) -> Destination:
        """Return where a connection to this server goes, with some *options* of the server."""
        return Destination(self.url, self.as_given, options)


def addresses(shard: ShardSettings, settings: Settings, primary: Sequence[URL] | None = None) -> list[Address]:
    """Return the servers of a shard, each once; those of the primary's URL come first.

    Args:
        shard: the shard's settings.
        settings: all settings.
        primary: the URLs of the hosts of the program's engine; None: those of the shard's URL.

    Raises:
        SettingsError: a URL cannot be used.
    """
    first = primary or hosts(checked_url(shard.primary, f"shards.{shard.name}.primary"))
    lag_s, pool = settings.routing.max_lag_s, settings.pool
    one = len(first) == 1
    found = [Address(_name(url), url, 1.0, lag_s, pool, founding=True, as_given=one) for url in first]
    for number, replica in enumerate(shard.replicas):
        url = checked_url(replica.url, f"shards.{shard.name}.replicas.{number}")
        lag = replica.max_lag_s or lag_s
        found += [Address(_name(host), host, replica.weight, lag, replica.pool or pool) for host in hosts(url)]
    return list({address.name: address for address in reversed(found)}.values())[::-1]


def _name(url: URL) -> str:
    return f"{url.host or 'localhost'}:{url.port or 5432}"
