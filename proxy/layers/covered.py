"""The layer that keeps from the cache, and from replicas, what depends on tables whose changes nobody notes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tidegate.proxy.explanation import uncached
from tidegate.proxy.tracking.model_tables import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tidegate.cache.request import Answer
    from tidegate.proxy.call import Call, Layer
    from tidegate.proxy.explanation import Explanation
    from tidegate.proxy.tracking.coverage import Coverage
    from tidegate.proxy.tracking.model_tables import Key


class Covered:
    """Let calls use the cache only while all tables that their answers depend on have their triggers.

    Args:
        below: the layers that answer for one tenant.
        coverage: which tables have none.
        tables: those that the answers depend on, by schema and name.
    """

    def __init__(self, below: Layer, coverage: Coverage, tables: Iterable[Key]) -> None:
        self._below: Final = below
        self._coverage: Final = coverage
        self._tables: Final = frozenset(tables)

    def __call__(self, call: Call) -> Answer:
        """Answer *call*; by the primary, while a change might not be noted."""
        if self._coverage.uncovered and not self._coverage.covers(self._tables):
            call = call.at(call.route._replace(cacheable=False))
        return self._below(call)

    def explain(self, call: Call) -> Explanation:
        """Explain what would answer, and which tables lack triggers."""
        missing = self._coverage.uncovered & self._tables
        if not missing:
            return self._below.explain(call)
        names = ", ".join(sorted(map(shown, missing)))
        below = self._below.explain(call.at(call.route._replace(cacheable=False)))
        cure = self._coverage.advice or "see 'tidegate init'"
        return uncached(call.shown(), below.nodes, f"{names} has no triggers that would note changes; {cure}")
