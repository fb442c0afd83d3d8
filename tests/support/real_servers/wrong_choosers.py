"""Other rules of choosing a node, which read the same databases at the same moments: what each gets wrong.

A replica is asked for the version that it shows; so what a rule would have read there is known, whichever rule it is,
and so is whether any replica had what the read must show. That last is the oracle: a read is forced to the primary by
the mix if no replica shows the newest version that was acknowledged, or if a COMMIT of the tenant's is under way, which
only the primary may show already.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import psycopg

from real_servers.versioned_tenant import FLOOR

if TYPE_CHECKING:
    from collections.abc import Sequence

LOST: Final = "marks had been lost"
"""The flush and the promotion make every tenant's marks anew, at a position that replicas come to later."""
FORCED: Final = "forced"
ROUND_ROBIN: Final = "round-robin over the replicas"
TWO_SECONDS: Final = "two seconds on the primary after a write"


@dataclass
class Tally:
    """Calls by rule: on the primary, and stale."""

    calls: int = 0
    on_primary: Counter[str] = field(default_factory=Counter)
    stale: Counter[str] = field(default_factory=Counter)


class Replicas:
    """Connections of one thread to every node, made when they are needed.

    Args:
        conninfos: of the nodes, in their order.
    """

    def __init__(self, conninfos: Sequence[str]) -> None:
        self._conninfos = conninfos
        self._lines: list[psycopg.Connection[Any] | None] = [None] * len(conninfos)

    def versions(self, run: str, primary: int) -> list[int]:
        """What each node but the primary shows; a node that does not answer is left out."""
        found = (self._version(number, run) for number in range(len(self._lines)) if number != primary)
        return [version for version in found if version is not None]

    def _version(self, number: int, run: str) -> int | None:
        line = self._lines[number]
        with suppress(psycopg.Error):
            if line is None or line.closed:
                line = self._lines[number] = psycopg.connect(self._conninfos[number], autocommit=True)
            row = line.execute(FLOOR, (run,)).fetchone()
            return None if row is None else int(row[0])
        self._lines[number] = None
        return None


class Rules:
    """The rules of one thread."""

    def __init__(self) -> None:
        self._turn = 0
        self.tally = Tally()

    def read(
        self,
        calls: int,
        floor: int,
        replicas: Sequence[int],
        *,
        since_write_s: float,
        pinned_s: float,
        committing: bool,
    ) -> bool:
        """Decide by each rule about so many *calls*.

        Args:
            calls: that the read makes.
            floor: the version that it must show.
            replicas: the versions that replicas show.
            since_write_s: since the tenant was last written to, by anybody, in seconds.
            pinned_s: how long its reads stay on the primary then: the rule's two seconds.
            committing: whether somebody's COMMIT is under way.

        Returns:
            Whether only the primary could answer.
        """
        tally = self.tally
        tally.calls += calls
        self._turn += 1
        forced = committing or max(replicas, default=-1) < floor
        is_stale = bool(replicas) and replicas[self._turn % len(replicas)] < floor
        pinned = since_write_s < pinned_s
        for rule, on_primary in ((FORCED, forced), (ROUND_ROBIN, not replicas), (TWO_SECONDS, pinned or not replicas)):
            tally.on_primary[rule] += calls * on_primary
            if rule is not FORCED:
                tally.stale[rule] += calls * (is_stale and not on_primary)
        return forced
