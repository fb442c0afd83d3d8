"""The telemetry layer: times and counts calls. It stands above all others, so it measures what a caller waits for."""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING

from tidegate.repositories.policies import Read

if TYPE_CHECKING:
    from tidegate.cache.request import Answer
    from tidegate.proxy.call import Call, Layer
    from tidegate.proxy.explanation import Explanation
    from tidegate.proxy.observe import Counters


class Telemetry:
    """Time and count calls.

    Args:
        counters: told of each call.
        below: the layer that answers.
        cached: whether there is a cache below.
    """

    def __init__(self, counters: Counters, below: Layer, *, cached: bool = True) -> None:
        self._counters = counters
        self._below = below
        self._cached = cached

    def __call__(self, call: Call) -> Answer:
        """Have the layer below answer; count the answer, or that it failed."""
        began = perf_counter_ns()
        try:
            answer = self._below(call)
        except BaseException:
            self._counters.add_failed(call, perf_counter_ns() - began, "node" if self._may_be_cached(call) else "plain")
            raise
        self._counters.add(call, answer, perf_counter_ns() - began)
        return answer

    def _may_be_cached(self, call: Call) -> bool:
        policy = call.policy
        if not self._cached or not isinstance(policy, Read) or policy.guard is None or not call.route.cacheable:
            return False
        return policy.when is None or policy.when(call.arguments)

    def explain(self, call: Call) -> Explanation:
        """Have the layer below explain; nothing is counted."""
        return self._below.explain(call)
