"""Whether a node that failed may be tried again. Pure: the time is handed in.

A node that fails is left alone for a while, twice as long each time, with jitter so that processes do not come back
together. Then it is on probation: one read at a time, until one has succeeded.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackoffPolicy:
    """How long a node is left alone, in seconds.

    Args:
        first_s: after the first failure.
        most_s: at most.
    """

    first_s: float = 0.5
    most_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Health:
    """*failures* in a row, and until when (monotonic, seconds) the node is banned."""

    failures: int = 0
    until_s: float = 0.0

    def is_banned(self, now_s: float) -> bool:
        """Whether it must not be tried yet."""
        return now_s < self.until_s

    @property
    def on_probation(self) -> bool:
        """Whether it has to succeed once before it is trusted with more than one read at a time."""
        return self.failures > 0

    def failed(self, bans: BackoffPolicy, now_s: float, chance: float) -> Health:
        """After another failure.

        Args:
            bans: how long.
            now_s: the time.
            chance: from 0 to 1; what the ban is jittered by.
        """
        if self.is_banned(now_s):  # one of many reads that were under way when it failed
            return self
        ban_s = min(bans.most_s, bans.first_s * 2.0 ** min(self.failures, 30))
        return Health(self.failures + 1, now_s + ban_s * (0.75 + 0.5 * chance))


HEALTHY = Health()
