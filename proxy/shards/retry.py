"""When to try again what a shard has refused: at once by a newer map, or a little later while a flip is under way."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tidegate.errors import StaleShardMap
    from tidegate.proxy.shards.registry import Shards

_FIRST_WAIT_S: Final = 0.005
_LONGEST_WAIT_S: Final = 0.1


class StaleMapRetry:
    """Tell whether a transaction that a shard has refused may be tried again; wait while a flip is under way.

    It is made before a transaction, for that one only. Its time runs from the first refusal.

    Args:
        shards: the shards of the gate.
        flip_wait_s: how long the transaction may be tried again, in seconds.
    """

    def __init__(self, shards: Shards, flip_wait_s: float) -> None:
        self._shards = shards
        self._flip_wait_s = flip_wait_s
        self._epoch = shards.epoch()
        self._until_s: float | None = None
        self._wait_s = _FIRST_WAIT_S

    def __call__(self, _refused: StaleShardMap) -> bool:
        """Tell whether to try again, after a refusal with nothing committed. This may sleep for up to 0.1 s."""
        now_s = time.monotonic()
        if self._until_s is None:
            self._until_s = now_s + self._flip_wait_s
        # Another thread may have read the map since the refused transaction began: then do not read it again.
        answered = self._shards.epoch() != self._epoch or self._shards.refresh()
        before, self._epoch = self._epoch, self._shards.epoch()
        if self._epoch != before:
            return now_s < self._until_s
        # Without an answer, nobody could say that a flip is under way.
        if not answered or now_s + self._wait_s >= self._until_s:
            return False
        time.sleep(self._wait_s)
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
        return True
