"""How sure a figure is: 95 % intervals of what was measured in pairs, which assume nothing of how it is spread."""

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
    """A figure, and between what it lies with a confidence of 95 %."""

    value: float
    low: float
    high: float


def median_of(samples: Sequence[float]) -> Interval:
    """The median, by the ranks between which that of all there could be lies; at least one sample."""
    ordered = sorted(samples)
    count = len(ordered)
    reach = _Z * math.sqrt(count) / 2
    low, high = math.floor(count / 2 - reach), math.ceil(count / 2 + reach)
    return Interval(statistics.median(ordered), ordered[max(0, low)], ordered[min(count - 1, high)])


def p99(samples: Sequence[float]) -> float:
    """Of 100 samples 99 are at most this; at least one sample."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * 0.99) - 1)]


def p99_times(pairs: Sequence[tuple[Sequence[float], Sequence[float]]], seed: int) -> Interval:
    """The p99 of the second of each pair divided by that of the first, of all pairs together.

    The interval is of drawing the pairs anew, whole: what happens to a machine lasts longer than one call, and so its
    calls are not as many as they are.

    Args:
        pairs: samples of two stretches of time, one right after the other; none is empty.
        seed: of the draws.
    """
    rng = Random(f"{seed}:draws")  # noqa: S311  # statistics, no secret
    sides = [(sorted(before), sorted(after)) for before, after in pairs]
    drawn = sorted(_times(rng.choices(sides, k=len(sides))) for _ in range(_DRAWS))
    return Interval(_times(sides), drawn[int(_DRAWS * _TAIL)], drawn[math.ceil(_DRAWS * (1 - _TAIL)) - 1])


def _times(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    before, after = ([one for pair in pairs for one in pair[side]] for side in (0, 1))
    return p99(after) / p99(before)
