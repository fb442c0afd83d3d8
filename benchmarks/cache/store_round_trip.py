"""What a hit costs beside a bare ``get`` of the same bytes: ``python -m tidegate.benchmarks.cache.store_round_trip``.

The rounds are interleaved on one server; the ratio is the median of the rounds' ratios. ``evalsha`` is the same script
by redis-py's general path. "With decode" adds decoding the body on both sides.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import redis

from tidegate.cache.redis import scripts
from tidegate.cache.redis.keys import Keys, encoded, token
from tidegate.cache.redis.store import RedisStore
from tidegate.cache.store import Filling, Hit, Miss
from tidegate.position import NOWHERE, AskedFor, History, Origin
from tidegate.proxy.embedded.process import give_to_server, temporary_folder
from tidegate.proxy.embedded.programs import Programs
from tidegate.proxy.embedded.valkey import ValkeyNode

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS: Final = 60
CALLS: Final = 100
TENANT, ENTRY, ORIGIN = "7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10", "a" * 32, Origin(1, History(1), "s0")
ASKED = AskedFor(ORIGIN.history)
APP: Final = "runs:1b0a1e8e-90c6-4f0e-8a52-5d1f0c7a2b20"
ROW: Final = [f"{n:036d}" for n in range(8)] + list(range(12)) + [None] * 4 + ["x" * 60]
BODY: Final = json.dumps([ROW] * 20).encode()


def main() -> None:
    """Start a server, measure, and print the result."""
    with tempfile.TemporaryDirectory(dir=temporary_folder()) as name:
        folder = Path(name)
        folder.chmod(0o755)
        home = folder / "data"
        home.mkdir()
        give_to_server(home)
        node = ValkeyNode(home, Programs(folder).valkey)
        node.start()
        try:
            _report(_measured(_contestants(node.url)))
        finally:
            node.kill()


def _contestants(url: str) -> dict[str, Callable[[], Any]]:
    store = RedisStore.from_url(url, "abc123", read_timeout_ms=5_000)
    _fill(store)
    client: redis.Redis = redis.Redis.from_url(url, protocol=2)
    client.set("plain", BODY)
    keys = Keys("abc123").both(TENANT, ENTRY)
    sha, guard = scripts.LOOKUP.sha.decode(), encoded(token("t", APP))

    def hit() -> bytes:
        found = store.lookup(TENANT, ENTRY, APP, ASKED)
        if not isinstance(found, Hit):
            raise TypeError(f"a hit was expected, not {found}")
        return found.body

    def get() -> Any:
        return client.get("plain")

    return {
        "get": get,
        "lookup": hit,
        "evalsha": lambda: client.evalsha(sha, 2, *keys, guard, "0"),
        "get with decode": lambda: json.loads(get()),
        "lookup with decode": lambda: json.loads(hit()),
    }


def _fill(store: RedisStore) -> None:
    store.make_root(TENANT, "0123456789abcdef" * 2, ORIGIN)
    store.complete_root(TENANT, "0123456789abcdef" * 2, "7", NOWHERE)
    store.end_quarantine(TENANT, "0123456789abcdef" * 2, NOWHERE)
    found = store.lookup(TENANT, ENTRY, APP, ASKED)
    if not isinstance(found, Miss) or not store.lease(TENANT, ENTRY, found, "k", 60_000):
        raise TypeError(f"a miss was expected, not {found}")
    tags = (f"{APP}:20260101", f"{APP}:20260102")
    refused = store.fill(TENANT, Filling(ENTRY, found.noted, "k", ORIGIN, tags, BODY, 3_600_000, {}))
    if refused is not None:
        raise TypeError(f"refused: {refused}")


def _measured(contestants: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, call in contestants.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            seconds[name].append((time.perf_counter() - start) / CALLS)
    return seconds


def _report(seconds: dict[str, list[float]]) -> None:
    for name, rounds in seconds.items():
        beside = "get with decode" if name.endswith("decode") else "get"
        ratio = statistics.median(a / b for a, b in zip(rounds, seconds[beside], strict=True))
        print(f"{name:20} best {min(rounds) * 1e6:6.1f} us   {ratio:.2f} x {beside}")  # noqa: T201  # what it is for


if __name__ == "__main__":
    main()
