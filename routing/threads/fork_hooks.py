"""What an object has to forget in a process that was forked off: locks that others held, and what others were doing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

if TYPE_CHECKING:
    from collections.abc import Callable


def reset_after_fork(method: Callable[[], Any]) -> None:
    """Call *method*, which must be a bound one, in every child, as long as its object lives."""
    known = WeakMethod(method)

    def forked() -> None:
        if (alive := known()) is not None:
            alive()

    os.register_at_fork(after_in_child=forked)
