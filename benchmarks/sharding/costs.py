"""What a gate of several shards costs a call, compared with a gate of one shard on the same server and rows."""

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
from tidegate.position import NOWHERE, History, Origin
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
"""How often :meth:`Costs.overheads` calls its *advance*."""
_CALLS_A_PAIR: Final = 20
_WARM_CALLS: Final = 30


@dataclass(frozen=True, slots=True)
class Overhead:
    """What one call takes on a gate of several shards and on one of one shard, in microseconds.

    If both send as many statements, they wait for the same things, and their round trips to the cache are the same too.
    So the goal is about what the calling thread does itself: on a machine that does other things as well, the length of
    a wait is chance.

    Args:
        text: which call.
        us: the median on several shards, waits included.
        beside_us: the median on one shard.
        more: the difference of the pairs, in processor time of the calling thread.
        longer: the difference of the pairs, waits included.
        statements: how many statements the call sends on several shards.
        beside_statements: how many it sends on one shard.
        bound: the most that *more* may be; None: no goal.
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
    """Send one statement that reads nothing, so that what comes before it is measured best."""

    def read(self, tenant_id: str, app_id: str) -> None:  # noqa: ARG002  # as the policy has them
        """Send a statement that reads nothing."""
        with self.session_maker() as session:
            session.connection().exec_driver_sql("SELECT 1")


class Costs:
    """Measure what sharding costs a call.

    Args:
        stock: the databases.
        size: how much is measured.
        seed: decides the orders.
    """

    def __init__(self, stock: Stock, size: ShardingSize, seed: int) -> None:
        self._stock = stock
        self._size = size
        self._rng = Random(f"{seed}:sharding costs")  # noqa: S311  # an order, no secret
        self._tenant = stock.tenants[0]
        self._app = stock.app(self._tenant)
        self._engines: list[Engine] = []

    def overheads(self, advance: Advance) -> list[Overhead]:
        """Return what routing by tenant costs; *advance* is called :data:`WAYS` times."""
        found = []
        for way in (self._uncached, self._near, self._cached):
            found += way()
            advance(1)
        return found

    def _uncached(self) -> list[Overhead]:
        """Measure without a cache: nothing vouches for the shard, so each read first asks if it owns the tenant."""
        with self._gates(None) as (several, one):
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
        """Measure behind a cache: its marks vouch for the shard, so what it cannot answer is read at once."""
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
        """Return a call of *repository* through *gate*.

        Args:
            repository: the repository.
            gate: the gate.
            vouched: whether the call is as after a miss, where a root vouches for the tenant's shard.
        """
        made: Any = gate.wrap(repository, IDLE_POLICIES, ())(gate.session_maker)
        if vouched:
            binding: Binding = made.tidegate_binding
            layer: Any = binding.layer
            vouching = ReadRequirement(
                NOWHERE, primary=True, root=Origin(FIRST_EPOCH, History(1), self._stock.home[self._tenant])
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
        """Do nothing: there is nothing to prepare."""

    def _overhead(
        self,
        text: str,
        ask: Ask,
        beside: Ask,
        *,
        prepare: Ask | None = None,
        bound: float | None = ROUTING_US,
    ) -> Overhead:
        """Measure one call on both gates, by pairs.

        With *prepare*, each sample is one call, and *prepare* is called before it and not timed. Without, a sample is
        the mean of many calls.
        """
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
        """Count the statements that this thread sends; other threads of a gate, which look for work, send some too."""
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
        """Return what a call takes on both gates, for *rounds* pairs; either gate may come first in a pair."""
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
    """The times of one call, in microseconds."""

    processor_us: float
    elapsed_us: float


def _timed(ask: Ask, calls: int, prepare: Ask) -> _Taken:
    prepare()
    began, worked = perf_counter_ns(), thread_time_ns()
    for _ in range(calls):
        ask()
    worked, taken = thread_time_ns() - worked, perf_counter_ns() - began
    return _Taken(worked / calls / 1000, taken / calls / 1000)
