"""How much of the routing is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class RoutingSize:
    """How much of the routing is measured.

    Args:
        rounds: how many rounds of what a call costs; each has 20 calls, by turns.
        seconds: how long the load lasts, and how long to read before and after a replica is killed, in seconds.
    """

    rounds: int
    seconds: float


DEMO: Final = RoutingSize(rounds=60, seconds=2.0)
BENCH: Final = RoutingSize(rounds=300, seconds=10.0)
