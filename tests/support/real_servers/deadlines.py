"""How long tests wait: longer the more the machine has to do, so that none hangs on how fast it is.

An event that comes ends its wait, so a generous deadline costs time only where the test fails anyway.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

PATIENCE: Final = float(os.environ.get("TIDEGATE_TEST_PATIENCE", "5"))
"""By how much a deadline is longer than what a machine takes that has nothing else to do."""
_RUNNING: Final = 3
"""The field of /proc/loadavg that says how many threads run or want to, now: the averages come late."""


def busyness() -> float:
    """How many threads each core has to do at present; 1 at least."""
    wanted = os.getloadavg()[0]
    now = Path("/proc/loadavg")
    if now.exists():
        wanted = max(wanted, float(now.read_text(encoding="ascii").split()[_RUNNING].split("/")[0]))
    return max(1.0, wanted / (os.cpu_count() or 1))


def patient(seconds: float) -> float:
    """The deadline for what takes *seconds* at most on a machine that has nothing else to do."""
    return seconds * PATIENCE * busyness()
