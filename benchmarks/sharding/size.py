"""How much of the sharding is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class ShardingSize:
    """How much is measured.

    Args:
        rows: runs in the database that is compared with shards, as many as these have together.
        rounds: of what a call costs; 20 calls each, by turns, or one that waits for a server.
        pages: pairs of pages, of each length.
        calls: without a tenant, once the gate is warm: of fewer than 1,000, one would be more than the goal.
        freezes: how often a shard is frozen.
        kills: how often it is killed.
        seconds: that calls are timed before each of these, once while nobody calls that shard, and meanwhile.
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
