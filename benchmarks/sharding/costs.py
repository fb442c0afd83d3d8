"""What a gate of several shards costs a call, beside a gate of one on the same server and the same rows."""

from __future__ import annotations

import gc
import statistics
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from random import Random
from time import perf_counter_ns, thread_time_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import event

from tidegate.benchmarks.cache.floors import IDLE_POLICIES, Idle
from tidegate.benchmarks.intervals import Interval, median_of
from tidegate.benchmarks.routing.benchmark import Connecting
from tidegate.benchmarks.sharding.stock import engines_of
from tidegate.cache.request import ReadRequirement
from tidegate.position import NOWHERE, Origin
from tidegate.routing.sharding.shard_map import FIRST_EPOCH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

    from tidegate.benchmarks.progress import Advance
    from tidegate.benchmarks.sharding.size import ShardingSize
    from tidegate.benchmarks.sharding.stock import Stock
    from tidegate.cache.request import Answer
    from tidegate.proxy.call import Call
    from tidegate.proxy.gate import Gate
    from tidegate.repositories.base import Binding

    Ask = Callable[[], object]

ROUTING_US: Final = 5.0
WAYS: Final = 3
"""How often :meth:`Costs.overheads` advances."""
_CALLS_A_PAIR: Final = 20
_WARM_CALLS: Final = 30


@dataclass(frozen=True, slots=True)
class Overhead:
    """What one call takes on a gate of several shards and on the other, in us.

    What both wait for is the same where they send as many statements, and so are the round trips to the cache. So the
    goal is one of what the calling thread does itself: on a machine that does other things too, a wait is as long as
    it happens to be.

    Args:
        text: which call.
        us: on several shards, the median, waits included.
        beside_us: the other.
        more: the difference of pairs in time of the calling thread on the processor.
        longer: the difference of pairs, waits included.
        statements: that the call sends.
        beside_statements: the other.
        bound: at most so much more; None: no goal.
    """

    text: str
    us: float
    beside_us: float
    more: Interval
    longer: Interval
    statements: int
    beside_statements: int
    bound: float | None = ROUTING_US


class Reading(Idle):
    """Sends one statement that reads nothing: what lies before it is seen best."""

    def read(self, tenant_id: str, app_id: str) -> None:  # noqa: ARG002  # as the policy has them
        """Ask the server for nothing."""
        with self.session_maker() as session:
            session.connection().exec_driver_sql("SELECT 1")


class Costs:
    """Measures what sharding costs a call.

    Args:
        stock: the databases.
        size: how much.
        seed: decides orders, and where pages begin.
    """

    def __init__(self, stock: Stock, size: ShardingSize, seed: int) -> None:
        self._stock = stock
        self._size = size
        self._rng = Random(f"{seed}:sharding costs")  # noqa: S311  # an order, no secret
        self._tenant = stock.tenants[0]
        self._app = stock.app(self._tenant)
        self._engines: list[Engine] = []

    def overheads(self, advance: Advance) -> list[Overhead]:
        """What routing by tenant costs; *advance* is told :data:`WAYS` times."""
        found = []
        for way in (self._uncached, self._near, self._cached):
            found += way()
            advance(1)
        return found

    def _uncached(self) -> list[Overhead]:
        """Nothing vouches for the shard of a read: it is asked first whether it owns the tenant."""
        with self._gates(None) as (several, one):
            for engine in self._engines:
                engine.pool._pre_ping = False  # noqa: SLF001  # a round trip, the same on both
            idle = [self._calling(Idle, gate) for gate in (several, one)]
            connecting = [self._calling(Connecting, gate, vouched=True) for gate in (several, one)]
            reading = [self._calling(Reading, gate) for gate in (several, one)]
            return [
                self._overhead("call that asks nothing", *idle),
                self._overhead("call that takes a connection of its shard", *connecting),
                self._overhead("call that reads, without a cache", *reading, prepare=self._nothing, bound=None),
            ]

    def _near(self) -> list[Overhead]:
        with self._gates({"near_modes": {"all": "bounded"}}) as (several, one):
            return [self._overhead("run by id, near bounded", self._by_id(several), self._by_id(one))]

    def _cached(self) -> list[Overhead]:
        """What the cache cannot answer is read at once: its marks vouch for the shard."""
        with self._gates({"near": False}) as (several, one):

            def forget() -> None:
                for gate in (several, one):
                    gate.invalidate(self._tenant, app_id=self._app)

            missed = [self._calling(Reading, gate) for gate in (several, one)]
            return [
                self._overhead("run by id, hit", self._by_id(several), self._by_id(one)),
                self._overhead("call that the cache missed", *missed, prepare=forget, bound=None),
            ]

    @contextmanager
    def _gates(self, cache: dict[str, Any] | None) -> Iterator[tuple[Gate, Gate]]:
        with ExitStack() as stack:
            several = stack.enter_context(self._stock.several(cache))
            one = stack.enter_context(self._stock.one(cache))
            self._engines = [*engines_of(several).values(), *engines_of(one).values()]
            yield several, one

    def _calling(self, repository: type[Idle], gate: Gate, *, vouched: bool = False) -> Ask:
        """A call of *repository* through *gate*; *vouched*: as after a miss, by a root that has the tenant's shard."""
        made: Any = gate.wrap(repository, IDLE_POLICIES, ())(gate.session_maker)
        if vouched:
            binding: Binding = made.tidegate_binding
            layer: Any = binding.layer
            vouching = ReadRequirement(
                NOWHERE, primary=True, root=Origin(FIRST_EPOCH, 1, self._stock.home[self._tenant])
            )

            def with_requirement(call: Call) -> Answer:
                answer: Answer = layer(call.at(call.route._replace(requirement=vouching)))
                return answer

            made.tidegate_binding = binding._replace(layer=with_requirement)
        return lambda: made.read(self._tenant, self._app)

    def _by_id(self, gate: Gate) -> Ask:
        runs, run_id = gate.workflow_runs, self._stock.run(self._tenant, 1)
        return lambda: runs.get_workflow_run_by_id(self._tenant, self._app, run_id)

    @staticmethod
    def _nothing() -> None:
        """There is nothing to prepare."""

    def _overhead(
        self,
        text: str,
        ask: Ask,
        beside: Ask,
        *,
        prepare: Ask | None = None,
        bound: float | None = ROUTING_US,
    ) -> Overhead:
        """By pairs; with *prepare*, before each call and not timed, of single calls, else of many."""
        prepared = prepare or self._nothing
        for way in (ask, beside):
            for _ in range(_WARM_CALLS):
                prepared()
                way()
        sent, beside_sent = (self._statements(prepared, way) for way in (ask, beside))
        rounds, calls = self._size.rounds, _CALLS_A_PAIR
        if prepare is not None:
            calls = 1
        pairs = self._by_turns(ask, beside, rounds, calls, prepared)
        more, longer = (median_of([ours[kind] - other[kind] for ours, other in pairs]) for kind in (0, 1))
        us, beside_us = (statistics.median(pair[side].elapsed_us for pair in pairs) for side in (0, 1))
        return Overhead(text, us, beside_us, more, longer, sent, beside_sent, bound)

    def _statements(self, prepare: Ask, ask: Ask) -> int:
        """Sent by this thread; others of a gate, that look for what is left to do, send some of their own."""
        sent, mine = count(), threading.get_ident()

        def one(*_: Any) -> None:
            if threading.get_ident() == mine:
                next(sent)

        prepare()
        for engine in self._engines:
            event.listen(engine, "before_cursor_execute", one)
        try:
            ask()
        finally:
            for engine in self._engines:
                event.remove(engine, "before_cursor_execute", one)
        return next(sent)

    def _by_turns(self, ask: Ask, beside: Ask, rounds: int, calls: int, prepare: Ask) -> list[tuple[_Taken, _Taken]]:
        """What a call of both takes, *rounds* pairs, whoever comes first."""
        found = []
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            for number in range(rounds):
                first = self._rng.random() < 0.5  # noqa: PLR2004  # either may come first
                taken = [_timed(way, calls, prepare) for way in ((ask, beside) if first else (beside, ask))]
                found.append((taken[0], taken[1]) if first else (taken[1], taken[0]))
                if number % _CALLS_A_PAIR == 0:
                    gc.collect(0)
        finally:
            gc.enable()
            gc.unfreeze()
        return found


class _Taken(NamedTuple):
    """Of one call, in microseconds."""

    processor_us: float
    elapsed_us: float


def _timed(ask: Ask, calls: int, prepare: Ask) -> _Taken:
    prepare()
    began, worked = perf_counter_ns(), thread_time_ns()
    for _ in range(calls):
        ask()
    worked, taken = thread_time_ns() - worked, perf_counter_ns() - began
    return _Taken(worked / calls / 1000, taken / calls / 1000)
