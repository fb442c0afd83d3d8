"""What the plain repositories are expected to reach, and whether a run of the benchmark shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tidegate.benchmarks.scenarios import FIRST_PAGE, RARE_SOURCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.benchmarks.measuring import Measured
    from tidegate.benchmarks.scenarios import DeepPage

GOAL_RUNS: Final = 100_000
"""The goals are set for this many runs."""
_FIRST_PAGE_TIMES: Final = 2.0
_RARE_SOURCE_TIMES: Final = 10.0
_DEEP_PAGE_RATIO: Final = 1.15


@dataclass(frozen=True, slots=True)
class Goal:
    """One expectation at p50, with what was measured."""

    text: str
    value: float
    bound: float
    at_most: bool

    @property
    def reached(self) -> bool:
        """Whether the value is on the right side of the bound."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound


def goals(measured: Sequence[Measured], deep_pages: Sequence[DeepPage]) -> list[Goal]:
    """The goals, with what *measured* says of them; one for each of *deep_pages*."""
    p50_ms = {(m.scenario, m.contender): m.timing.p50_ms for m in measured}

    def faster(name: str) -> float:
        return p50_ms[name, "baseline"] / p50_ms[name, "plain"]

    deep = [
        Goal(
            f"{page.name} against {page.first_name}, plain",
            p50_ms[page.name, "plain"] / p50_ms[page.first_name, "plain"],
            _DEEP_PAGE_RATIO,
            at_most=True,
        )
        for page in deep_pages
    ]
    return [
        Goal(f"{FIRST_PAGE}, baseline against plain", faster(FIRST_PAGE), _FIRST_PAGE_TIMES, at_most=False),
        Goal(f"{RARE_SOURCE}, baseline against plain", faster(RARE_SOURCE), _RARE_SOURCE_TIMES, at_most=False),
        *deep,
    ]
