"""How long a replica that failed is left alone: (seconds that pass, what happens), then failures and whether banned."""

from __future__ import annotations

import pytest

from tidegate.routing.replicas.health import HEALTHY, BackoffPolicy, Health

BANS = BackoffPolicy(first_s=1.0, most_s=10.0)
MIDDLE, LEAST, MOST = 0.5, 0.0, 1.0

# Chances are those of the jitter: a ban lasts from three quarters to five quarters of its time.
TABLE: dict[str, tuple[list[tuple[float, float | None]], int, bool]] = {
    "healthy": ([], 0, False),
    "banned at once": ([(0.0, MIDDLE)], 1, True),
    "until the time is over": ([(0.0, MIDDLE), (0.99, None)], 1, True),
    "and on probation then": ([(0.0, MIDDLE), (1.0, None)], 1, False),
    "less by chance": ([(0.0, LEAST), (0.76, None)], 1, False),
    "more by chance": ([(0.0, MOST), (1.24, None)], 1, True),
    "failures of reads that were under way count once": ([(0.0, MIDDLE), (0.5, MIDDLE), (0.4, MIDDLE)], 1, True),
    "and do not prolong it": ([(0.0, MIDDLE), (0.9, MIDDLE), (0.1, None)], 1, False),
    "a second failure doubles it": ([(0.0, MIDDLE), (1.0, MIDDLE), (1.99, None)], 2, True),
    "but no more": ([(0.0, MIDDLE), (1.0, MIDDLE), (2.0, None)], 2, False),
    "up to the longest": ([(0.0, MIDDLE), *[(10.0, MIDDLE)] * 60, (10.0, None)], 61, False),
    "which is reached": ([(0.0, MIDDLE), *[(10.0, MIDDLE)] * 60, (9.99, None)], 61, True),
}


@pytest.mark.parametrize(("steps", "failures", "banned"), TABLE.values(), ids=TABLE)
def test_a_ban(steps: list[tuple[float, float | None]], failures: int, banned: bool) -> None:
    health, now_s = HEALTHY, 100.0
    for pause_s, chance in steps:
        now_s += pause_s
        if chance is not None:
            health = health.failed(BANS, now_s, chance)
    assert (health.failures, health.is_banned(now_s)) == (failures, banned)
    assert health.on_probation is (failures > 0)


def test_what_did_not_count_gives_the_same_back() -> None:
    banned = HEALTHY.failed(BANS, 0.0, MIDDLE)
    assert banned.failed(BANS, 0.5, MIDDLE) is banned
    assert banned == Health(1, 1.0)
