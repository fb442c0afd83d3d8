"""What the cache costs where it does not answer: invalidation, memory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import redis

from tidegate.benchmarks.timing import Timing, timing
from tidegate.cache.redis.store import RedisStore
from tidegate.cache.store import Hit
from tidegate.errors import BenchmarkError
from tidegate.proxy.database.identity import database_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tidegate.benchmarks.cache.hydration import Page
    from tidegate.benchmarks.contenders.behind_gate import Gated
    from tidegate.benchmarks.progress import Advance

FEW_PAGES: Final = 10
_STORED_S: Final = 60.0
_LOOK_S: Final = 0.02
_BATCH: Final = 1_000
_SAMPLE: Final = 100
_INVALIDATIONS: Final = 200
_GRAPH: Final = '{"nodes": []}'


@dataclass(frozen=True, slots=True)
class Invalidation:
    """The time of ``gate.invalidate(tenant_id, app_id=...)`` with so many cached pages; and its scripts a call."""

    pages: int
    timing: Timing
    scripts: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in the cache server: of a page of 20 with its key, of its entry alone, and of its tenant's marks."""

    pages: int
    bytes_per_page: float
    entry_bytes: int
    marks_bytes: int
    marks: int


def _timed(write: Callable[[], None]) -> int:
    began = time.perf_counter_ns()
    write()
    return time.perf_counter_ns() - began


class CachedPages:
    """Fill the cache with many pages of one app: copies, under other keys, of a page that a gate has stored itself.

    Such a copy is the same as what the fill of another call leaves, since an entry does not depend on its key. So
    100,000 of them are made in seconds.

    Args:
        gated: the gate that is asked.
        cache_url: the URL of its cache.
        page: the page, with a tenant of its own.
        pages: how many copies.
    """

    def __init__(self, gated: Gated, cache_url: str, page: Page, pages: int) -> None:
        self.pages = pages
        self.times_ns: list[int] = []
        self._gate = gated.gate
        self._server: redis.Redis = redis.Redis.from_url(cache_url)
        self._store = RedisStore.from_url(cache_url, database_id(gated.contender.engine), read_timeout_ms=2_000)
        self._page = page
        shard = gated.gate._shards.only  # noqa: SLF001  # the benchmark asks for the gate's own marks
        if shard is None:
            raise ValueError("this benchmark is of one shard")
        self._asked = shard.histories.asked
        self._key = self._stored(gated)

    def _stored(self, gated: Gated) -> bytes:
        """Have the page stored, and return its key; the gate may yet have to learn that nothing of its tenant waits."""
        page, deadline = self._page, time.monotonic() + _STORED_S
        while time.monotonic() < deadline:
            gated.contender.runs.get_paginated_workflow_runs(page.tenant, page.app, page.sources)
            for key in self._server.scan_iter(match=f"tg:e:*{page.tenant}*", count=10_000):
                return bytes(key)
            time.sleep(_LOOK_S)
        raise BenchmarkError(f"the gate has not stored a page within {_STORED_S:g} s")

    def fill(self, advance: Advance) -> Memory:
        """Store the copies, and return the memory that they take."""
        entry: Any = self._server.get(self._key)
        before = self._used()
        for first in range(0, self.pages, _BATCH):
            numbers = range(first, min(first + _BATCH, self.pages))
            batch = self._server.pipeline(transaction=False)
            for number in numbers:
                batch.set(self._key[: -len(_digest(0))] + _digest(number), entry, px=3_600_000)
            batch.execute()
            advance(len(numbers))
        marks = self._key[: self._key.index(b"}") + 1].replace(b"tg:e:", b"tg:m:", 1)
        used: Any = self._server.memory_usage(marks, samples=0)
        fields: Any = self._server.hlen(marks)
        return Memory(self.pages, (self._used() - before) / self.pages, len(entry), int(used or 0), int(fields))

    def served(self) -> int:
        """Return how many of a sample of the pages would be served now."""
        step = max(1, self.pages // _SAMPLE)
        guard, digests = f"runs:{self._page.app}", [_digest(i).decode() for i in range(0, self.pages, step)]
        return sum(isinstance(self._store.lookup(self._page.tenant, name, guard, self._asked), Hit) for name in digests)

    def invalidate(self) -> None:
        """Invalidate the app once, and note the time."""
        self.times_ns.append(_timed(lambda: self._gate.invalidate(self._page.tenant, app_id=self._page.app)))

    def scripts_run(self) -> int:
        """Return how many scripts the server has run since it started."""
        stats: Any = self._server.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))

    def _used(self) -> int:
        memory: Any = self._server.info("memory")
        return int(memory["used_memory"])


def measure_invalidation(
    apps: Sequence[CachedPages], *, advance: Advance, rounds: int = _INVALIDATIONS
) -> list[Invalidation]:
    """Invalidate the apps by turns, so that their times can be compared.

    Raises:
        BenchmarkError: no page was served before, or a page is still served afterwards.
    """
    for app in apps:
        if not app.served():
            raise BenchmarkError(f"none of {app.pages:,} cached pages is served, so there is nothing to invalidate")
    before = apps[0].scripts_run()
    for _ in range(rounds):
        for app in apps:
            app.invalidate()
        advance(1)
    scripts = (apps[0].scripts_run() - before) / rounds / len(apps)
    for app in apps:
        if served := app.served():
            raise BenchmarkError(f"{served} pages of an app are served after its invalidation")
    return [Invalidation(app.pages, timing(app.times_ns), scripts) for app in apps]


def _digest(number: int) -> bytes:
    return b"%032x" % number
