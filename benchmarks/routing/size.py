"""How much of the routing is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class RoutingSize:
    """How much is measured.

    Args:
        rounds: of what a call costs; 20 calls each, by turns.
        seconds: of the load, and of reading before and after a replica is killed.
    """

    rounds: int
    seconds: float


DEMO: Final = RoutingSize(rounds=60, seconds=2.0)
BENCH: Final = RoutingSize(rounds=300, seconds=10.0)
