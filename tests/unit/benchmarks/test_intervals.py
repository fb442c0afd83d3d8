from __future__ import annotations

import random

import pytest

from tidegate.benchmarks.intervals import Interval, median_of, p99, p99_times


def test_the_median_lies_between_its_ranks() -> None:
    assert median_of(range(1, 102)) == Interval(51, 41, 62)
    assert median_of([3.0]) == Interval(3, 3, 3)
    assert median_of([5, 1, 3]) == Interval(3, 1, 5)


def test_the_interval_of_a_median_has_the_true_one_as_often_as_it_says() -> None:
    rng = random.Random(7)  # noqa: S311  # statistics, no secret
    found = [median_of([rng.expovariate(1) for _ in range(60)]) for _ in range(400)]
    inside = sum(one.low <= 0.6931 <= one.high for one in found)
    assert 0.93 <= inside / 400 <= 0.99


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (99, 99), (100, 99), (1000, 990), (1001, 991)])
def test_of_100_samples_99_are_at_most_the_p99(count: int, expected: int) -> None:
    assert p99(range(count, 0, -1)) == expected


def test_the_quotient_of_p99_is_of_all_pairs_and_its_interval_of_whole_ones() -> None:
    alike = [(list(range(1, 101)), [2 * n for n in range(1, 101)])] * 5
    assert p99_times(alike, 1) == Interval(2, 2, 2)
    # One pair of five is slow: where it is not drawn there is nothing of it, and so the interval is wide.
    odd = [*[([1.0] * 100, [1.0] * 100)] * 4, ([1.0] * 100, [9.0] * 100)]
    assert p99_times(odd, 1) == Interval(9, 1, 9)
    assert p99_times(odd, 1) == p99_times(odd, 1)
