"""What the plain repositories are expected to reach, and whether a run of the benchmark shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tidegate.benchmarks.scenarios import FIRST_PAGE, RARE_SOURCE_QUIET, page_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.benchmarks.timing import Measured

GOAL_RUNS: Final = 100_000
"""How many runs the goals are set for."""
_FIRST_PAGE_TIMES: Final = 2.0
_RARE_SOURCE_TIMES: Final = 10.0
_DEEP_PAGE_RATIO: Final = 1.15


@dataclass(frozen=True, slots=True)
class Goal:
    """One expectation at p50, with what was measured.

    Args:
        text: what was measured.
        value: the figure that was measured.
        bound: the figure that it is compared with.
        at_most: whether the value must be at most the bound; otherwise at least.
    """

    text: str
    value: float
    bound: float
    at_most: bool

    @property
    def reached(self) -> bool:
        """Tell whether the value is on the right side of the bound."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound


def goals(measured: Sequence[Measured], deepest_page: int) -> list[Goal]:
    """Return the goals, each with what was measured.

    Args:
        measured: every scenario with every contender.
        deepest_page: the number of the page that is compared with the first one.
    """
    p50_ms = {(m.scenario, m.contender): m.timing.p50_ms for m in measured}

    def faster(name: str) -> float:
        return p50_ms[name, "baseline"] / p50_ms[name, "plain"]

    deep = p50_ms[page_name(deepest_page), "plain"] / p50_ms[FIRST_PAGE, "plain"]
    return [
        Goal(f"{FIRST_PAGE}, baseline / plain", faster(FIRST_PAGE), _FIRST_PAGE_TIMES, at_most=False),
        Goal(f"{RARE_SOURCE_QUIET}, baseline / plain", faster(RARE_SOURCE_QUIET), _RARE_SOURCE_TIMES, at_most=False),
        Goal(f"{page_name(deepest_page)} / {FIRST_PAGE}, plain", deep, _DEEP_PAGE_RATIO, at_most=True),
    ]
