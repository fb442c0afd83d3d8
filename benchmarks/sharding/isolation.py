"""One shard of two hangs or is gone: how the calls of tenants on the other shard fare, before and meanwhile."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

import tidegate
from tidegate.benchmarks.cache.writes import run_values
from tidegate.benchmarks.data.population import random_uuid
from tidegate.benchmarks.intervals import p99_times
from tidegate.benchmarks.sharding.isolation_load import ILL, WELL, Connections, loaded
from tidegate.benchmarks.sharding.stock import engines_of
from tidegate.benchmarks.timing import timing
from tidegate.errors import BenchmarkError
from tidegate.proxy.settings import PoolSettings, ShardingSettings
from tidegate.repositories.indexes import create_indexes
from tidegate.repositories.models import Base, WorkflowRun
from tidegate.routing.sharding.shard_map import even_map

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tidegate.benchmarks.intervals import Interval
    from tidegate.benchmarks.progress import Advance
    from tidegate.benchmarks.sharding.isolation_load import Load
    from tidegate.benchmarks.sharding.size import ShardingSize
    from tidegate.benchmarks.timing import Timing
    from tidegate.proxy.embedded import Cluster
    from tidegate.proxy.gate import Gate

FROZEN: Final = "frozen by SIGSTOP"
KILLED: Final = "killed by SIGKILL"
POOL: Final = PoolSettings(size=4, overflow=2, timeout_s=0.25)
_TENANTS_EACH: Final = 16
_WAIT_MS: Final = 2_000  # a benchmark shares its machine: a late answer is a slow call here, and no failure


@dataclass(frozen=True, slots=True)
class Isolation:
    """Calls of tenants on the well shard, before the other shard was ill and while it was.

    Args:
        text: what was done to the other shard.
        times: how often.
        alone: the calls while nobody called for tenants on the other shard.
        before: the calls while others did, just before it was ill.
        meanwhile: the calls that began while it was ill, and others still called.
        of_before: p99 meanwhile, divided by p99 before.
        of_alone: p99 meanwhile, divided by p99 alone; this includes what the callers without an answer take of the
            machine.
        calls: all calls of tenants on the well shard.
        failed: how many of these failed.
        attempts: the calls of tenants on the other shard that began while it was ill.
        answered: how many of these were answered before it was well again, which only the cache can do.
        taken: how many connections to the well shard were taken by calls of tenants on the other.
        held: how many connections to the other shard there were at most.
        most: how many there may be.
    """

    text: str
    times: int
    alone: Timing
    before: Timing
    meanwhile: Timing
    of_before: Interval
    of_alone: Interval
    calls: int
    failed: int
    attempts: int
    answered: int
    taken: int
    held: int
    most: int


class Stretch(NamedTuple):
    """When a stretch of time began and ended, in nanoseconds."""

    began_ns: int
    ended_ns: int


class Times(NamedTuple):
    """Three stretches: nobody calls for the second shard; it is called and well; it is called and ill."""

    alone: Stretch
    before: Stretch
    meanwhile: Stretch


class Isolating:
    """Make the second shard of *cluster* ill among calls; that shard keeps the catalogue, too.

    Args:
        cluster: a cluster of two shards with empty databases.
        size: how much is measured.
        seed: decides who calls.
    """

    def __init__(self, cluster: Cluster, size: ShardingSize, seed: int) -> None:
        self._cluster = cluster
        self._size = size
        self._seed = seed
        self._rng = Random(f"{seed}:isolation")  # noqa: S311  # a load, no secret

    def run(self, advance: Advance) -> list[Isolation]:
        """Freeze the shard, and then kill it, as often as the size says; *advance* is called each time."""
        ill = self._cluster.shards[1].primary
        ways = {
            FROZEN: (ill.pause, ill.resume, self._size.freezes),
            KILLED: (ill.kill, ill.start, self._size.kills),
        }
        with _quiet(), self._gate() as gate:
            ids = {shard: self._filled(gate, shard) for shard in (WELL, ILL)}
            found = []
            for text, (fall_ill, recover, count) in ways.items():
                if not count:
                    continue
                with ExitStack() as stack:
                    connections = Connections(gate, stack)
                    load = stack.enter_context(loaded(gate, ids, self._rng))
                    times = [self._time(load, fall_ill, recover, advance) for _ in range(count)]
                found.append(isolation_of(text, load, connections, times, self._seed))
            return found

    @contextmanager
    def _gate(self) -> Iterator[Gate]:
        settings = self._cluster.settings()
        cache = settings.cache.model_copy(update={"connect_timeout_ms": _WAIT_MS, "read_timeout_ms": _WAIT_MS})
        changed = {"cache": cache, "pool": POOL, "sharding": ShardingSettings(catalogue=ILL)}
        with tidegate.connect(settings.model_copy(update=changed)) as gate:
            yield gate

    def _filled(self, gate: Gate, shard: str) -> list[tuple[str, str, str]]:
        engine = engines_of(gate)[shard]
        Base.metadata.create_all(engine)
        create_indexes(engine)
        shards, rng = even_map([WELL, ILL]), self._rng
        made: list[tuple[str, str, str]] = []
        while len(made) < _TENANTS_EACH:
            tenant, app, run = (random_uuid(rng) for _ in range(3))
            if shards.ownership(tenant).shard == shard:
                made.append((tenant, app, run))
                with gate.session(tenant) as session:
                    session.add(WorkflowRun(**run_values(tenant, app, random_uuid(rng), random_uuid(rng), run)))
                    session.commit()
        return made

    def _time(self, load: Load, fall_ill: Callable[[], None], recover: Callable[[], None], advance: Advance) -> Times:
        """Measure the three stretches once; return when all callers for the ill shard are answered again.

        Raises:
            BenchmarkError: they are not within half a minute.
        """
        with load.without(ILL):
            alone = self._stretch()
        load.wait_answered(time.perf_counter_ns())
        before = self._stretch()
        fall_ill()
        try:
            meanwhile = self._stretch()
        finally:
            recover()
        load.wait_answered(time.perf_counter_ns())
        advance(1)
        return Times(alone, before, meanwhile)

    def _stretch(self) -> Stretch:
        began_ns = time.perf_counter_ns()
        time.sleep(self._size.seconds)
        return Stretch(began_ns, time.perf_counter_ns())


def isolation_of(text: str, load: Load, connections: Connections, times: Sequence[Times], seed: int) -> Isolation:
    """Return the result for the calls of *load* in those stretches of time.

    Raises:
        BenchmarkError: in one of them there were no calls.
    """
    alone, before, meanwhile = ([_ns(load, stretch) for stretch in kind] for kind in zip(*times, strict=True))
    ill = [(call, each.meanwhile) for each in times for call in load.between(ILL, *each.meanwhile)]
    if not ill or not all((*alone, *before, *meanwhile)):
        raise BenchmarkError("for a while no calls were made: this machine is too busy to measure on")
    return Isolation(
        text=text,
        times=len(times),
        alone=timing(list(chain(*alone))),
        before=timing(list(chain(*before))),
        meanwhile=timing(list(chain(*meanwhile))),
        of_before=p99_times(list(zip(before, meanwhile, strict=True)), seed),
        of_alone=p99_times(list(zip(alone, meanwhile, strict=True)), seed),
        calls=len(load.of(WELL)),
        failed=sum(not call.answered for call in load.of(WELL)),
        attempts=len(ill),
        answered=sum(call.answered and call.began_ns + call.ns < over.ended_ns for call, over in ill),
        taken=connections.foreign,
        held=connections.most[ILL],
        most=POOL.size + POOL.overflow,
    )


def _ns(load: Load, stretch: Stretch) -> list[int]:
    """Return how long the calls took that began in *stretch*, of tenants on the shard that is never ill."""
    return [call.ns for call in load.between(WELL, *stretch)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Log no warnings: here a shard is away on purpose."""
    log = logging.getLogger("tidegate")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)
