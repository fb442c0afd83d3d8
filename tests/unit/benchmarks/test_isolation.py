from __future__ import annotations

from contextlib import ExitStack
from random import Random
from typing import Any
from unittest.mock import Mock

import pytest

from tidegate.benchmarks.intervals import Interval
from tidegate.benchmarks.sharding.isolation import Stretch, Times, isolation_of
from tidegate.benchmarks.sharding.isolation_load import ILL, WELL, Called, Connections, Load
from tidegate.errors import BenchmarkError

MS = 1_000_000
TIMES = Times(Stretch(0, 100 * MS), Stretch(200 * MS, 300 * MS), Stretch(400 * MS, 500 * MS))


def loaded(**calls: list[Called]) -> tuple[Load, Connections]:
    gate: Any = Mock()
    gate._shards.every = ()
    load = Load(gate, {}, Random(1))  # noqa: S311  # a load, no secret
    for shard, of_shard in calls.items():
        load._calls[shard][0].extend(of_shard)
    with ExitStack() as stack:
        return load, Connections(gate, stack)


def of_well(at_ms: int, took_ms: int, *, answered: bool = True) -> Called:
    return Called(at_ms * MS, took_ms * MS, answered)


def test_each_call_counts_where_it_began() -> None:
    well = [of_well(99, 1), of_well(150, 70, answered=False), of_well(200, 2), of_well(300, 80), of_well(499, 6)]
    ill = [of_well(350, 9), of_well(410, 50), of_well(490, 20), of_well(495, 1, answered=False)]
    found = isolation_of("ill", *loaded(**{WELL: well, ILL: ill}), [TIMES], 1)
    assert (found.alone.p99_ms, found.before.p99_ms, found.meanwhile.p99_ms) == (1, 2, 6)
    assert (found.of_before, found.of_alone) == (Interval(3, 3, 3), Interval(6, 6, 6))
    assert (found.calls, found.failed) == (5, 1)  # between the stretches, too
    assert (found.attempts, found.answered) == (3, 1)  # one only when the shard was well again


def test_a_time_in_which_nobody_called_is_no_measuring() -> None:
    with pytest.raises(BenchmarkError, match="too busy"):
        isolation_of("ill", *loaded(**{WELL: [of_well(1, 1), of_well(201, 1)], ILL: [of_well(410, 1)]}), [TIMES], 1)
