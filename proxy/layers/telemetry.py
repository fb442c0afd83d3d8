"""The telemetry layer: times and counts calls."""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidegate.proxy.call import Call, Layer
    from tidegate.proxy.observe import Counters


class Telemetry:
    """Times and counts calls.

    Args:
        counters: told of each call.
        below: the layer that answers.
    """

    def __init__(self, counters: Counters, below: Layer) -> None:
        self._add = counters.add
        self._below = below

    def __call__(self, call: Call) -> object:
        """The answer, or the exception, of the layer below."""
        began = perf_counter_ns()
        try:
            answer = self._below(call)
        except BaseException:
            self._add(call, perf_counter_ns() - began, 1)
            raise
        self._add(call, perf_counter_ns() - began)
        return answer

    @property
    def below(self) -> Layer:
        """The layer that answers."""
        return self._below
