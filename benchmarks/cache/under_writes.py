"""How often the cache answers while an app is written to, and how long its slowest answers take.

Another process writes: runs that begin and end, spread over the app's last hour. This process reads: so many calls of
each kind a second, or as many as there is time for.
"""

from __future__ import annotations

import multiprocessing
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import cycle
from random import Random
from typing import TYPE_CHECKING, Any, Final

from tidegate.benchmarks.cache.writes import run_values
from tidegate.benchmarks.contenders.behind_gate import HIT, gated
from tidegate.benchmarks.data.data_set import SPAN, START
from tidegate.benchmarks.data.population import random_uuid
from tidegate.benchmarks.timing import Timing, timing
from tidegate.cache.events import Served
from tidegate.errors import BenchmarkError
from tidegate.repositories.enums import WorkflowExecutionStatus as Status
from tidegate.repositories.models import WorkflowRun

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from multiprocessing.synchronize import Event

    from sqlalchemy import URL

    from tidegate.benchmarks.contenders.contender import Contender, ScenarioCall
    from tidegate.benchmarks.data.targets import Where
    from tidegate.benchmarks.progress import Advance
    from tidegate.proxy.observe import Event as GateEvent

RATES: Final = (0, 1, 10, 100)
"""The rates of writes that are measured, in writes a second."""
DEEP: Final = "pages deep down"
ENDED: Final = "ended runs by id"
READS: Final = 50
"""How many reads of each kind a second there are at most."""
_PATIENCE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class UnderWrites:
    """One kind of call at one rate of writes, as asked for and as reached; the cache answered *hits* of *reads*."""

    kind: str
    writes_a_second: int
    reached_a_second: float
    reads: int
    hits: int
    timing: Timing

    @property
    def hit_rate(self) -> float:
        """Return the share of reads that the cache answered, from 0 to 1."""
        return self.hits / self.reads


class Hits:
    """Count the answers of the cache."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, event: GateEvent) -> None:
        """Count *event*, if it is an answer of the cache."""
        if isinstance(event, Served):
            self.count += 1


class Reader:
    """Read in turn, and keep the times and the number of hits.

    Args:
        contender: the contender that is asked.
        hits: counts the answers of its cache.
        kinds: calls by kind.
    """

    def __init__(self, contender: Contender, hits: Hits, kinds: Mapping[str, Sequence[ScenarioCall]]) -> None:
        self._contender = contender
        self._hits = hits
        self._calls = {kind: cycle(calls) for kind, calls in kinds.items()}
        self._kinds = kinds

    def warm_up(self) -> None:
        """Make every call twice, so that the second one is answered by the cache."""
        for calls in self._kinds.values():
            for call in (*calls, *calls):
                self._contender.run(call)

    def read(self, seconds: float, advance: Advance) -> dict[str, tuple[int, int, Timing]]:
        """Read for *seconds*, and return (reads, hits, timing) for each kind."""
        times: dict[str, list[int]] = {kind: [] for kind in self._calls}
        hits = dict.fromkeys(self._calls, 0)
        began = due = time.perf_counter()
        while due - began < seconds and (now := time.perf_counter()) - began < 2 * seconds:
            if now < due:
                time.sleep(due - now)
            for kind, calls in self._calls.items():
                before, call = self._hits.count, next(calls)
                at = time.perf_counter_ns()
                self._contender.run(call)
                times[kind].append(time.perf_counter_ns() - at)
                hits[kind] += self._hits.count > before
            due += 1 / READS
            advance(1 / READS)
        return {kind: (len(ns), hits[kind], timing(ns)) for kind, ns in times.items()}


def measure_under_writes(
    url: URL,
    cache_url: str,
    where: Where,
    kinds: Mapping[str, Sequence[ScenarioCall]],
    *,
    seconds: float,
    advance: Advance,
) -> list[UnderWrites]:
    """Read *kinds* of calls for *seconds* at each of the rates.

    Raises:
        BenchmarkError: the process that writes does not start.
    """
    hits, found = Hits(), []
    with gated(url, cache_url, HIT, observe=hits) as behind:
        reader = Reader(behind.contender, hits, kinds)
        reader.warm_up()
        for rate in RATES:
            with _writing(url, cache_url, where, rate) as written:
                began, before = time.monotonic(), written.value
                rows = reader.read(seconds, advance)
                reached = (written.value - before) / (time.monotonic() - began)
            found += [UnderWrites(kind, rate, reached, *measured) for kind, measured in rows.items()]
    return found


@contextmanager
def _writing(url: URL, cache_url: str, where: Where, rate: float) -> Iterator[Any]:
    """Run a process that writes *rate* times a second; give the counter of its writes."""
    context = multiprocessing.get_context("spawn")
    written, started, stop = context.Value("Q", 0), context.Event(), context.Event()
    if rate == 0:
        yield written
        return
    address = url.render_as_string(hide_password=False)
    writer = context.Process(
        target=write, args=(address, cache_url, where, rate, written, started, stop), name="tidegate-bench-writer"
    )
    writer.start()
    try:
        if not started.wait(_PATIENCE_S):
            raise BenchmarkError("the process that writes did not start")
        yield written
    finally:
        stop.set()
        writer.join(_PATIENCE_S)
        if writer.is_alive():
            writer.terminate()


def write(url: str, cache_url: str, where: Where, rate: float, written: Any, started: Event, stop: Event) -> None:
    """Begin a run, end it, begin the next, and so on; this runs in a process of its own."""
    from sqlalchemy import make_url

    rng = Random(f"{rate}:{time.time_ns()}")  # noqa: S311  # data, not secrets
    workflow, creator, running = random_uuid(rng), random_uuid(rng), ""
    with gated(make_url(url), cache_url, "writer") as behind:
        started.set()
        due = time.monotonic()
        while not stop.wait(max(0.0, due - time.monotonic())):
            with behind.gate.session_maker.begin() as session:
                if running:
                    run = session.get_one(WorkflowRun, running)
                    run.status, running = Status.SUCCEEDED.value, ""
                else:
                    running = random_uuid(rng)
                    values = run_values(where.tenant_id, where.app_id, workflow, creator, running)
                    at = START + SPAN - timedelta(seconds=rng.uniform(0, 3600))
                    session.add(WorkflowRun(**values, created_at=at))
            with written.get_lock():
                written.value += 1
            due += 1 / rate
