"""What the cache servers say of themselves, so that ``doctor`` can tell what is wrong with them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from tidegate.cache.store import StoreUnavailable
from tidegate.error_text import error_text
from tidegate.interruptions import pass_interruption

_SECTIONS: Final = ("server", "memory", "replication")


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What one server says of itself.

    Args:
        name: "host:port" on a cluster; empty otherwise, as there is only one server.
        product: "Redis" or "Valkey".
        version: the version of Redis, like "7.2.4"; of a Valkey, the version of Redis that it says it can replace.
        role: "master" or "slave", as the server says it.
        eviction: what the server does when its memory is full, ``maxmemory-policy``; empty if it does not say.
        most_bytes: how much memory it may use, in bytes; 0: as much as there is.
        answer_ms: how long its quickest answer took, in milliseconds.
    """

    name: str
    product: str
    version: str
    role: str
    eviction: str
    most_bytes: int
    answer_ms: float


def servers_of(client: Any) -> tuple[ServerFacts, ...]:
    """Ask the server, or all masters of a cluster, what they are.

    Args:
        client: a redis-py client, which has no types for what INFO gives.

    Raises:
        StoreUnavailable: one of the servers does not answer, or not as a Redis would.
    """
    try:
        if hasattr(client, "get_primaries"):
            return tuple(_asked(client.get_redis_connection(node), node.name) for node in client.get_primaries())
        return (_asked(client, ""),)
    except Exception as error:  # a parser may raise anything on garbage
        pass_interruption(error)
        raise StoreUnavailable(f"{type(error).__name__}: {error_text(error)}") from error


def _asked(client: Any, name: str) -> ServerFacts:
    info: dict[str, Any] = {}
    times_s = []
    for section in _SECTIONS:
        began_s = time.perf_counter()
        info |= client.info(section)
        times_s.append(time.perf_counter() - began_s)
    return ServerFacts(
        name=name,
        product="Valkey" if "valkey_version" in info else "Redis",
        version=str(info["redis_version"]),
        role=str(info["role"]),
        eviction=str(info.get("maxmemory_policy", "")),
        most_bytes=int(info.get("maxmemory", 0)),
        answer_ms=min(times_s) * 1000,
    )
