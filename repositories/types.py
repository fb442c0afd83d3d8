"""The shapes of answers that are not rows."""

from __future__ import annotations

from typing import TypedDict


class DailyRunsStats(TypedDict):
    """Runs of one day; ``date`` is YYYY-MM-DD in the asked time zone."""

    date: str
    runs: int


class DailyTerminalsStats(TypedDict):
    """Distinct creators of runs of one day."""

    date: str
    terminal_count: int


class DailyTokenCostStats(TypedDict):
    """Tokens of one day's runs."""

    date: str
    token_count: int


class AverageInteractionStats(TypedDict):
    """Runs per distinct creator of one day, to two decimals."""

    date: str
    interactions: float


class RelatedCounts(TypedDict):
    """How many rows of each kind belong to some runs, or were deleted with them."""

    runs: int
    node_executions: int
    offloads: int
    app_logs: int
    trigger_logs: int
    pauses: int
    pause_reasons: int
