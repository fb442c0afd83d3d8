"""How much of the sharding is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class ShardingSize:
    """How much of the sharding is measured.

    Args:
        rows: how many runs the single database has; the shards have as many together.
        rounds: how many rounds of what a call costs: each has 20 calls, by turns, or one call that waits for a server.
        pages: how many pairs of pages of each length.
        calls: how many calls without a tenant, once the gate is warm. With fewer than 1,000, one such call would
            already exceed the goal.
        freezes: how often a shard is frozen.
        kills: how often it is killed.
        seconds: how long calls are timed before each of these, while nobody calls that shard, and meanwhile; each in
            seconds.
    """

    rows: int
    rounds: int
    pages: int
    calls: int
    freezes: int
    kills: int
    seconds: float


DEMO: Final = ShardingSize(rows=6_000, rounds=100, pages=40, calls=1_000, freezes=4, kills=0, seconds=0.3)
BENCH: Final = ShardingSize(rows=60_000, rounds=500, pages=200, calls=10_000, freezes=12, kills=6, seconds=1.5)
