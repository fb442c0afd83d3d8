"""What the cache costs where it does not answer: writes, invalidation, memory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from random import Random
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

import redis

from tidegate.benchmarks.data.data_set import SPAN, START
from tidegate.benchmarks.data.population import random_uuid
from tidegate.benchmarks.timing import Timing, timing
from tidegate.cache.redis.store import RedisStore
from tidegate.cache.store import Hit
from tidegate.errors import BenchmarkError
from tidegate.proxy.database.identity import database_id
from tidegate.repositories.enums import WorkflowExecutionStatus as Status
from tidegate.repositories.models import WorkflowRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy.orm import Session, sessionmaker

    from tidegate.benchmarks.cache.hydration import Page
    from tidegate.benchmarks.contenders.behind_gate import Gated
    from tidegate.benchmarks.progress import Advance

FEW_PAGES: Final = 10
_BATCH: Final = 1_000
_SAMPLE: Final = 100
_INVALIDATIONS: Final = 200
_GRAPH: Final = '{"nodes": []}'


@dataclass(frozen=True, slots=True)
class GatedWrite:
    """The time of one transaction, in a plain session and in one behind a gate, which marks what it changes."""

    statement: str
    plain: Timing
    gated: Timing

    @property
    def ratio(self) -> float:
        """Return how many times as long the transaction takes behind a gate, at the median."""
        return self.gated.p50_ms / self.plain.p50_ms


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


def measure_writes(
    plain: sessionmaker[Session], behind: sessionmaker[Session], *, seed: int, rounds: int, advance: Advance
) -> list[GatedWrite]:
    """Insert runs of an app that nobody reads, and end them, plain and behind a gate by turns.

    Args:
        plain: makes sessions without a gate.
        behind: makes sessions behind a gate.
        seed: decides ids and orders.
        rounds: how many rounds count; one more before them warms up.
        advance: is called with 1 after each round.
    """
    rng = Random(f"{seed}:gated writes")  # noqa: S311  # data, not secrets
    new = _new_runs(rng)
    ways = {"plain": plain, "gated": behind}
    inserts: dict[str, list[int]] = {name: [] for name in ways}
    updates: dict[str, list[int]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in rng.sample(list(ways), len(ways)):
            run = next(new)
            times = _timed(lambda: _insert(ways[name], run)), _timed(lambda: _end(ways[name], run["id"]))  # noqa: B023  # called at once
            if number:  # the first round is for warming up
                inserts[name].append(times[0])
                updates[name].append(times[1])
        advance(1)
    return [
        GatedWrite(what, timing(found["plain"]), timing(found["gated"]))
        for what, found in (("INSERT of a run", inserts), ("UPDATE of a run's status", updates))
    ]


def _new_runs(rng: Random) -> Iterator[dict[str, Any]]:
    tenant, app, workflow, creator = (random_uuid(rng) for _ in range(4))
    for number in count():
        yield run_values(tenant, app, workflow, creator, random_uuid(rng)) | {
            "created_at": START + SPAN + timedelta(seconds=number)
        }


def run_values(tenant: str, app: str, workflow: str, creator: str, run: str) -> dict[str, Any]:
    """Return the values of a run that has just begun."""
    return {
        "id": run,
        "tenant_id": tenant,
        "app_id": app,
        "workflow_id": workflow,
        "type": "workflow",
        "triggered_from": "app-run",
        "version": "1",
        "graph": _GRAPH,
        "inputs": "{}",
        "status": Status.RUNNING.value,
        "created_by_role": "end_user",
        "created_by": creator,
    }


def _insert(session_maker: sessionmaker[Session], values: dict[str, Any]) -> None:
    with session_maker.begin() as session:
        session.add(WorkflowRun(**values))


def _end(session_maker: sessionmaker[Session], run_id: str) -> None:
    with session_maker.begin() as session:
        run = session.get(WorkflowRun, run_id)
        assert run is not None  # noqa: S101  # just inserted
        run.status = Status.SUCCEEDED.value


def _timed(write: Callable[[], None]) -> int:
    began = perf_counter_ns()
    write()
    return perf_counter_ns() - began


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
        gated.contender.runs.get_paginated_workflow_runs(page.tenant, page.app, page.sources)
        (self._key,) = self._server.scan_iter(match=f"tg:e:*{page.tenant}*", count=10_000)

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
