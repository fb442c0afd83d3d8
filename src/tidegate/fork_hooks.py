"""What an object forgets in a forked process: locks that other threads held, and what these threads were doing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

if TYPE_CHECKING:
    from collections.abc import Callable


def reset_after_fork(method: Callable[[], Any]) -> None:
    """Call *method* in every forked child, as long as its object lives. It must be a bound method."""
    known = WeakMethod(method)

    def forked() -> None:
        if (alive := known()) is not None:
            alive()

    os.register_at_fork(after_in_child=forked)
