"""What an object forgets in a forked process: locks that other threads held, and what these threads were doing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakMethod

if TYPE_CHECKING:
    from collections.abc import Callable

_methods: Final[dict[int, WeakMethod[Callable[[], Any]]]] = {}
"""By the ids of the references themselves: objects may be equal, or have no hash."""


def reset_after_fork(method: Callable[[], Any]) -> None:
    """Call *method* in every forked child, as long as its object lives. It must be a bound method."""
    known = WeakMethod(method, lambda gone: _methods.pop(id(gone), None))
    _methods[id(known)] = known


def _forked() -> None:
    for known in tuple(_methods.values()):
        if (alive := known()) is not None:
            alive()


os.register_at_fork(after_in_child=_forked)
