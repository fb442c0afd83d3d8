"""Clients of redis-py: they connect, authenticate, speak TLS, ask Sentinel and keep the map of a cluster.

Besides ``link``, ``cluster`` and ``push_stream``, this is the only module of ``cache`` that imports ``redis``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.connection import parse_url
from redis.exceptions import RedisClusterException
from redis.retry import Retry
from redis.sentinel import Sentinel

from tidegate.cache.store import StoreUnavailable
from tidegate.error_text import error_text
from tidegate.errors import SettingsError

if TYPE_CHECKING:
    from tidegate.cache.redis.url import Target, Timeouts

Client: TypeAlias = "redis.Redis | redis.RedisCluster"
CLUSTER_ERRORS: Final = (redis.RedisError, RedisClusterException, OSError)
"""What redis-py's clusters raise. RedisClusterException is no RedisError."""


def client_of(target: Target, timeouts: Timeouts) -> Client:
    """Return a redis-py client that never waits longer than *timeouts* and never tries again by itself.

    Raises:
        SettingsError: an option of the URL is unknown, or its value cannot work.
        StoreUnavailable: a cluster does not answer.
    """
    waits = {
        "socket_timeout": timeouts.read_ms / 1000,
        "socket_connect_timeout": timeouts.connect_ms / 1000,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    try:
        if target.kind == "sentinel":
            return _behind_sentinel(target, waits)
        if target.kind == "cluster":
            return redis.RedisCluster.from_url(target.server_url, **waits, startup_nodes=_nodes(target))
        client: redis.Redis = redis.Redis.from_url(target.server_url, **waits)
        client.connection_pool.connection_class(**client.connection_pool.connection_kwargs)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"cache.url is {target.shown}: {error}") from None
    except CLUSTER_ERRORS as error:
        raise StoreUnavailable(f"{target.shown}: {error_text(error)}") from error
    return client


def _nodes(target: Target) -> list[ClusterNode]:
    return [ClusterNode(host, port) for host, port in target.hosts]


def _behind_sentinel(target: Target, waits: dict[str, Any]) -> redis.Redis:
    options: dict[str, Any] = parse_url(target.server_url)
    for name in ("host", "port", "connection_class"):
        options.pop(name, None)
    sentinel = Sentinel(target.hosts, sentinel_kwargs={**waits, **target.sentinel}, **waits, **options, ssl=target.tls)
    client: redis.Redis = sentinel.master_for(target.service)
    return client
