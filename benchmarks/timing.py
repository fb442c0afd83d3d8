"""Timing calls, contender against contender, so that the noise of the machine affects all of them alike."""

from __future__ import annotations

import gc
import statistics
from dataclasses import dataclass
from itertools import count, cycle, islice
from random import Random
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tidegate.benchmarks.contenders.contender import Contender, ScenarioCall
    from tidegate.benchmarks.scenarios import Scenario

_BLOCK_CALLS: Final = 5
_BLOCK_NS: Final = 250_000_000
# psycopg prepares a statement after its fifth execution, and PostgreSQL may change to a generic plan after five more.
_WARM_CALLS: Final = 12
_NS_PER_MS: Final = 1e6


@dataclass(frozen=True, slots=True)
class Timing:
    """How long calls took, in milliseconds, over *samples* calls."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    samples: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call costs on average: statements sent, and rows received, both counted."""

    queries: float
    rows: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one scenario with one contender."""

    scenario: str
    contender: str
    timing: Timing
    cost: Cost


def timing(samples_ns: Sequence[int]) -> Timing:
    """Return percentiles of *samples_ns*, interpolated between samples; there must be at least one sample."""
    if len(samples_ns) == 1:
        only = samples_ns[0] / _NS_PER_MS
        return Timing(only, only, only, 1)
    cuts = statistics.quantiles(samples_ns, n=100, method="inclusive")
    return Timing(cuts[49] / _NS_PER_MS, cuts[94] / _NS_PER_MS, cuts[98] / _NS_PER_MS, len(samples_ns))


def measure(
    scenarios: Sequence[Scenario],
    contenders: Sequence[Contender],
    *,
    rounds: int,
    seed: int,
    advance: Callable[[float], None],
) -> list[Measured]:
    """Measure every scenario with every contender.

    A round goes through all groups of scenarios, and in each group through all its scenarios and contenders, in a new
    random order. Each contender gets a block of a few calls; one more call before the block is not timed. So what is
    compared is measured within the same moments. Queries and rows are counted in a pass without a clock.

    Args:
        scenarios: the scenarios.
        contenders: those who answer.
        rounds: how many rounds to measure; a round gives up to 5 samples.
        seed: decides the orders.
        advance: is called with how many more scenarios of a round are done.
    """
    lanes = {s.name: [_Lane(s, c) for c in contenders] for s in scenarios}
    costs = {(lane.scenario.name, lane.contender.name): lane.count() for row in lanes.values() for lane in row}
    warm_calls = min(_WARM_CALLS, 4 * rounds)
    blocks = {name: _block_calls([lane.warm_up(warm_calls) for lane in row]) for name, row in lanes.items()}
    groups = _groups(scenarios, lanes)
    gc.collect()
    gc.freeze()
    try:
        for number in range(rounds):
            rng = Random(f"{seed}:order:{number}")  # noqa: S311  # an order, no secret
            for group in rng.sample(groups, len(groups)):
                for lane in rng.sample(group, len(group)):
                    lane.run_block(blocks[lane.scenario.name])
                advance(len(group) / len(contenders))
    finally:
        gc.unfreeze()
    return [
        Measured(name, lane.contender.name, timing(lane.samples_ns), costs[name, lane.contender.name])
        for name, row in lanes.items()
        for lane in row
    ]


class _Lane:
    """Measure one contender in one scenario."""

    def __init__(self, scenario: Scenario, contender: Contender) -> None:
        self.scenario = scenario
        self.contender = contender
        self.samples_ns: list[int] = []
        self._calls: Iterator[ScenarioCall] = cycle(scenario.calls)

    def warm_up(self, calls: int) -> int:
        """Make that many calls, and return the shortest time, in nanoseconds."""
        return min(self._timed(call) for call in islice(self._calls, calls))

    def run_block(self, calls: int) -> None:
        self.contender.run(next(self._calls))
        self.samples_ns.extend(self._timed(call) for call in islice(self._calls, calls))

    def count(self) -> Cost:
        queries, rows = count(), [0]

        def after(_connection: Any, cursor: Any, *_: Any) -> None:
            next(queries)
            rows[0] += max(0, cursor.rowcount)

        engine = self.contender.engine
        event.listen(engine, "after_cursor_execute", after)
        try:
            for call in self.scenario.calls:
                self.contender.run(call)
        finally:
            event.remove(engine, "after_cursor_execute", after)
        return Cost(next(queries) / len(self.scenario.calls), rows[0] / len(self.scenario.calls))

    def _timed(self, call: ScenarioCall) -> int:
        began = perf_counter_ns()
        answer = self.contender.run(call)
        taken = perf_counter_ns() - began
        del answer
        return taken


def _groups(scenarios: Sequence[Scenario], lanes: Mapping[str, list[_Lane]]) -> list[list[_Lane]]:
    groups: dict[str, list[_Lane]] = {}
    for scenario in scenarios:
        groups.setdefault(scenario.group or scenario.name, []).extend(lanes[scenario.name])
    return list(groups.values())


def _block_calls(shortest_ns: Sequence[int]) -> int:
    return max(1, min(_BLOCK_CALLS, _BLOCK_NS // max(shortest_ns)))
