"""Whether a node that failed may be tried again. Pure: the time is handed in.

A node that fails is left alone for a while, twice as long after each failure. The time is jittered, so that processes
do not come back together. Then the node is on probation: it gets one read at a time, until one has succeeded.
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
    """What is known of the failures of a node.

    Args:
        failures: how many there were in a row.
        until_s: until when the node is banned, by the monotonic clock, in seconds.
    """

    failures: int = 0
    until_s: float = 0.0

    def is_banned(self, now_s: float) -> bool:
        """Tell whether the node must not be tried yet."""
        return now_s < self.until_s

    @property
    def on_probation(self) -> bool:
        """Tell whether the node must succeed once before it is trusted with more than one read at a time."""
        return self.failures > 0

    def failed(self, bans: BackoffPolicy, now_s: float, chance: float) -> Health:
        """Return the health of the node after another failure. A node that is banned already stays as it is.

        Args:
            bans: how long a node is left alone.
            now_s: the time, monotonic, in seconds.
            chance: a number from 0 to 1, which jitters the ban.
        """
        if self.is_banned(now_s):  # this is one of many reads that were under way when the node failed
            return self
        ban_s = min(bans.most_s, bans.first_s * 2.0 ** min(self.failures, 30))
        return Health(self.failures + 1, now_s + ban_s * (0.75 + 0.5 * chance))


HEALTHY = Health()
