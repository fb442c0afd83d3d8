"""How sure a figure is: 95 % intervals of what was measured in pairs, for figures of whatever distribution."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_Z: Final = 1.96
_DRAWS: Final = 400
_TAIL: Final = 0.025


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure, and the bounds between which it is with a confidence of 95 %."""

    value: float
    low: float
    high: float


def median_of(samples: Sequence[float]) -> Interval:
    """Return the median and its interval; *samples* holds at least one.

    The interval is made of the ranks between which the median of all possible samples is.
    """
    ordered = sorted(samples)
    count = len(ordered)
    reach = _Z * math.sqrt(count) / 2
    low, high = math.floor(count / 2 - reach), math.ceil(count / 2 + reach)
    return Interval(statistics.median(ordered), ordered[max(0, low)], ordered[min(count - 1, high)])


def p99(samples: Sequence[float]) -> float:
    """Return the value that 99 of 100 samples do not exceed; *samples* holds at least one."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * 0.99) - 1)]


def p99_times(pairs: Sequence[tuple[Sequence[float], Sequence[float]]], seed: int) -> Interval:
    """Return the p99 of the second samples of all pairs, divided by the p99 of the first ones.

    The interval comes from drawing whole pairs again and again. Single calls are not drawn: what happens to a machine
    lasts longer than one call, so the calls of one stretch of time are not independent.

    Args:
        pairs: the samples of two stretches of time, one right after the other; none is empty.
        seed: decides the draws.
    """
    rng = Random(f"{seed}:draws")  # noqa: S311  # statistics, no secret
    sides = [(sorted(before), sorted(after)) for before, after in pairs]
    drawn = sorted(_times(rng.choices(sides, k=len(sides))) for _ in range(_DRAWS))
    return Interval(_times(sides), drawn[int(_DRAWS * _TAIL)], drawn[math.ceil(_DRAWS * (1 - _TAIL)) - 1])


def _times(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    before, after = ([one for pair in pairs for one in pair[side]] for side in (0, 1))
    return p99(after) / p99(before)
