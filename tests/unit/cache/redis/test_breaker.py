"""The circuit breaker, step by step on a clock of its own: (seconds that pass, what happens, whether a call may go)."""

from __future__ import annotations

import pytest

from tidegate.cache.redis.breaker import Breaker, Pauses

OPENED = [(0.0, "failed", True)] * 4 + [(0.0, "failed", False)]
TABLE = {
    "four failures are not enough": [(0.0, "failed", True)] * 4,
    "five are": OPENED,
    "a success between them starts anew": [*OPENED[:4], (0.0, "succeeded", True), *OPENED],
    "after the pause one call probes": [*OPENED, (0.9, "", False), (0.2, "", True), (0.0, "", False)],
    "a failed probe doubles the pause": [
        *OPENED,
        (1.0, "", True),
        (0.0, "failed", False),
        (1.9, "", False),
        (0.2, "", True),
    ],
    "up to the longest": [
        *OPENED,
        (1.0, "", True),
        *[(0.0, "failed", False), (3.0, "", True)] * 4,
        (0.0, "failed", False),
        (2.9, "", False),
        (0.2, "", True),
    ],
    "a probe that works closes it": [*OPENED, (1.0, "", True), (0.0, "succeeded", True), (0.0, "", True)],
    "then it takes five again, and the first pause": [
        *OPENED,
        (1.0, "", True),
        (0.0, "failed", False),
        (2.0, "", True),
        (0.0, "succeeded", True),
        *OPENED,
        (1.0, "", True),
    ],
    "a probe that never reports is followed by another": [*OPENED, (1.0, "", True), (0.9, "", False), (0.2, "", True)],
    "calls under way as it opens do not lengthen the pause": [*OPENED, *[(0.0, "failed", False)] * 9, (1.0, "", True)],
}


@pytest.mark.parametrize("case", TABLE)
def test_the_breaker(case: str) -> None:
    now_s = 0.0
    breaker = Breaker(lambda: now_s, lambda: 1.0, Pauses(failures=5, first_s=1.0, longest_s=3.0))
    for step, (passed_s, happens, admits) in enumerate(TABLE[case]):
        now_s += passed_s
        if happens:
            getattr(breaker, happens)()
        assert breaker.admits() is admits, (step, happens)


def test_pauses_are_jittered() -> None:
    now_s = 0.0
    breaker = Breaker(lambda: now_s, lambda: 0.5, Pauses(failures=1, first_s=1.0))
    breaker.failed()
    now_s = 0.49
    assert not breaker.admits()
    now_s = 0.51
    assert breaker.admits()
