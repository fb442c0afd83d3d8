"""What the cache costs, compared with the least that it could cost, in one process by turns."""

from __future__ import annotations

import gc
import json
import logging
import random
import statistics
import time
from dataclasses import dataclass
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import redis

from tidegate.benchmarks.cache import hydration
from tidegate.benchmarks.contenders.behind_gate import HIT, NEAR_BOUNDED, NEAR_STRICT, gated
from tidegate.cache.events import served
from tidegate.cache.request import Answer
from tidegate.errors import BenchmarkError
from tidegate.proxy.call import Call, Method
from tidegate.proxy.explanation import uncached
from tidegate.proxy.layers.telemetry import Telemetry
from tidegate.proxy.observe import Counters, Log, all_of
from tidegate.repositories.policies import PolicyTable, Read

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.orm import Session, sessionmaker

    from tidegate.benchmarks.contenders.behind_gate import Gated
    from tidegate.benchmarks.progress import Advance
    from tidegate.proxy.explanation import Explanation

HIT_TIMES: Final = 1.2
HIT_IN_A_LOOP_TIMES: Final = 1.05
NEAR_STRICT_TIMES: Final = 0.8
NEAR_TIMES: Final = 1.5
MISS_TIMES: Final = 1.15
SWITCHED_OFF_US: Final = 3.0
TELEMETRY_US: Final = 2.0
_ROUND_TRIPS: Final = 3
_MISSES_A_ROUND: Final = 2
_HITS_A_ROUND: Final = 5
_STORED_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Floor:
    """A time beside its floor, both in microseconds for each call.

    Args:
        text: what was measured.
        floor_text: what the floor is.
        us: the time.
        floor_us: the floor.
        bound: the most that the value may be; None: no goal.
        difference: whether the value is the difference of both; otherwise it is the quotient.
    """

    text: str
    floor_text: str
    us: float
    floor_us: float
    bound: float | None
    difference: bool = False

    @property
    def value(self) -> float:
        """Return how many times the floor the time is, or how much more it is."""
        return self.us - self.floor_us if self.difference else self.us / self.floor_us


class Idle:
    """Do nothing in a repository, so that only what comes before it is measured."""

    def __init__(self, session_maker: sessionmaker[Session]) -> None:
        self.session_maker = session_maker

    def read(self, tenant_id: str, app_id: str) -> None:
        """Do nothing."""


IDLE_POLICIES: Final = PolicyTable({"read": Read(guard="app:{app_id}")}, ids=frozenset({"tenant_id", "app_id"}))


class Floors:
    """Measure on a page of 20 runs of a tenant of its own.

    Args:
        session_maker: that of the plain repository, on the same database as the gates.
        cache_url: the URL of the gates' cache.
        gates: contenders by name, "hit" among them.
    """

    def __init__(self, session_maker: sessionmaker[Session], cache_url: str, gates: Mapping[str, Gated]) -> None:
        self._page = hydration.Page(session_maker)
        self._session_maker = session_maker
        self._cache_url = cache_url
        self._server: redis.Redis = redis.Redis.from_url(cache_url)
        self._gates = gates

    def measure(self, rounds: int, advance: Advance) -> list[Floor]:
        """Measure all floors, *rounds* times each."""
        found = [*self._hits(rounds), self._miss(rounds), *self._switched_off(rounds), _telemetry(rounds)]
        advance(1)
        return found

    def _read(self, name: str) -> Callable[[], object]:
        runs, page = self._gates[name].gate.workflow_runs, self._page
        return lambda: runs.get_paginated_workflow_runs(page.tenant, page.app, page.sources)

    def _hits(self, rounds: int) -> list[Floor]:
        reads = {name: self._read(name) for name in self._gates}
        key = self._stored(list(reads.values()))
        get, page = self._server.get, self._page

        def bare() -> object:
            get(key)
            return page.floor()

        loop = hydration.measure({**reads, "bare": bare, "build": page.floor_building}, rounds)
        asking = {name: reads[name] for name in (HIT, NEAR_STRICT)} | {"bare": bare}
        apart = each_prepared(asking, self._other_work(), rounds * _HITS_A_ROUND)
        hit, near = "page of 20 from the cache server", "page of 20, near strict"
        floor = "bare GET, msgpack, 20 instances"
        return [
            Floor(f"{hit}, between queries", floor, apart[HIT], apart["bare"], HIT_TIMES),
            Floor(f"{hit}, in a loop", floor, loop[HIT], loop["bare"], HIT_IN_A_LOOP_TIMES),
            Floor(f"{near}, between queries", floor, apart[NEAR_STRICT], apart["bare"], NEAR_STRICT_TIMES),
            Floor(f"{near}, in a loop", floor, loop[NEAR_STRICT], loop["bare"], NEAR_STRICT_TIMES),
            Floor("page of 20, near bounded", "20 instances", loop[NEAR_BOUNDED], loop["build"], NEAR_TIMES),
        ]

    def _other_work(self) -> Callable[[], object]:
        """Return what a program does between two hits: it reads a page of another tenant, and writes it as JSON."""
        other = hydration.Page(self._session_maker)
        names = ("id", "status", "version", "error", "elapsed_time", "total_tokens", "created_at", "finished_at")
        return lambda: json.dumps([[str(getattr(run, name)) for name in names] for run in other.plain().data])

    def _stored(self, reads: Sequence[Callable[[], object]]) -> bytes:
        """Read until the page is stored, and return its key.

        Its rows are an outside write, which must be known before; and nobody waits for a fill.
        """
        deadline = time.monotonic() + _STORED_S
        while time.monotonic() < deadline:
            for read in reads:
                for _ in range(3):  # the first fills the cache, and the next the near cache
                    read()
            for key in self._server.scan_iter(match=f"tg:e:*{self._page.tenant}*", count=1000):
                return bytes(key)
        raise BenchmarkError(f"the gate has not stored a page within {_STORED_S:g} s")

    def _miss(self, rounds: int) -> Floor:
        gate, read = self._gates["hit"].gate, self._read("hit")

        def least() -> None:
            self._page.plain()
            for _ in range(_ROUND_TRIPS):
                self._server.ping()

        times = each_prepared(
            {"miss": read, "least": least},
            lambda: gate.invalidate(self._page.tenant, app_id=self._page.app),
            rounds * _MISSES_A_ROUND,
        )
        text = "page of 20, missed and stored"
        return Floor(text, "plain page and 3 round trips", times["miss"], times["least"], MISS_TIMES)

    def _switched_off(self, rounds: int) -> list[Floor]:
        url = self._session_maker.kw["bind"].url
        with gated(url, self._cache_url, "off", off=("all",)) as off:
            through = off.gate.wrap(Idle, IDLE_POLICIES, ())(off.gate.session_maker)
            plain = Idle(off.gate.session_maker)
            tenant, app = uuid4(), uuid4()
            spelled = {"canonical": (str(tenant), str(app)), "in capitals": (str(tenant).upper(), str(app).upper())}
            floors = []
            for how, ids in spelled.items():
                times = hydration.measure({"off": _calling(through, ids), "plain": _calling(plain, ids)}, rounds)
                text = f"call with the cache switched off, two ids {how}"
                off_us, plain_us = times["off"], times["plain"]
                floors.append(Floor(text, "without a gate", off_us, plain_us, SWITCHED_OFF_US, difference=True))
            return floors


def _telemetry(rounds: int) -> Floor:
    counters = Counters()
    observe, event = all_of(counters, Log(logging.getLogger("tidegate"))), served("a tenant", "near")
    method = Method("read", "Idle.read", lambda: None)
    call, below = Call(object(), method, IDLE_POLICIES["read"], {}, "a tenant", None), _Nothing()
    layer = Telemetry(counters, below)

    def with_telemetry() -> None:
        layer(call)
        observe(event)

    times = hydration.measure({"with": with_telemetry, "without": lambda: below(call)}, rounds)
    text = "telemetry of a call that is served near"
    return Floor(text, "without it", times["with"], times["without"], TELEMETRY_US, difference=True)


class _Nothing:
    """The lowest layer: it always gives the same answer."""

    _answer = Answer(None)

    def __call__(self, call: Call) -> Answer:  # noqa: ARG002  # a layer takes a call
        """Answer nothing."""
        return self._answer

    def explain(self, call: Call) -> Explanation:
        """Explain nothing."""
        return uncached(call.shown())


def _calling(repository: Any, ids: tuple[str, str]) -> Callable[[], object]:
    return lambda: repository.read(*ids)


def each_prepared(
    candidates: Mapping[str, Callable[[], object]], prepare: Callable[[], object], rounds: int
) -> dict[str, float]:
    """Return the median time of one call of each candidate, by turns, in microseconds.

    *prepare* is called before each call, and is not timed.
    """
    times: dict[str, list[int]] = {name: [] for name in candidates}
    turns = list(candidates)
    gc.collect()
    gc.freeze()
    try:
        for _ in range(rounds):
            random.shuffle(turns)
            for name in turns:
                prepare()
                began = perf_counter_ns()
                candidates[name]()
                times[name].append(perf_counter_ns() - began)
    finally:
        gc.unfreeze()
    return {name: statistics.median(values) / 1000 for name, values in times.items()}
