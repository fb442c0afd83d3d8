"""How much of what is random or repeated a run tries: all in CI and in `make soak`, less in `make test`.

The variable ``TIDEGATE_TESTS=short`` says that it is `make test`. It is read when modules are imported, for parameters
of tests depend on it, and each process of a run inherits it.
"""

from __future__ import annotations

import os
from typing import Final

_GIVEN: Final = os.environ.get("TIDEGATE_TESTS", "")
if _GIVEN not in ("", "short"):
    raise ValueError(f"TIDEGATE_TESTS is {_GIVEN!r}: it is short, or not set, for all that CI runs")

IS_SHORT: Final = _GIVEN == "short"


def amount(whole: int, short: int) -> int:
    """How many there are to be: *short* in `make test`, else *whole*."""
    return short if IS_SHORT else whole
