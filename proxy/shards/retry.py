"""Trying again what a shard has refused: at once by a newer map, a little later where a flip is under way."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tidegate.errors import StaleShardMap
    from tidegate.proxy.shards.registry import Shards

_FIRST_WAIT_S: Final = 0.005
_LONGEST_WAIT_S: Final = 0.1


class StaleMapRetry:
    """Whether what shards have refused may be tried again; waits where a flip is under way.

    Made before the transaction, and for no other: its patience begins with the first refusal.

    Args:
        shards: all of them.
        patience_s: how long it may go on, in seconds.
    """

    def __init__(self, shards: Shards, flip_wait_s: float) -> None:
        self._shards = shards
        self._flip_wait_s = flip_wait_s
        self._epoch = shards.epoch()
        self._until_s: float | None = None
        self._wait_s = _FIRST_WAIT_S

    def __call__(self, _refused: StaleShardMap) -> bool:
        """After a refusal, with nothing committed."""
        now_s = time.monotonic()
        if self._until_s is None:
            self._until_s = now_s + self._flip_wait_s
        # Somebody may have read the map since the refused transaction began.
        answered = self._shards.epoch() != self._epoch or self._shards.refresh()
        had, self._epoch = self._epoch, self._shards.epoch()
        if self._epoch != had:
            return now_s < self._until_s
        if not answered or now_s + self._wait_s >= self._until_s:  # nobody could say that a flip is under way
            return False
        time.sleep(self._wait_s)
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
        return True
