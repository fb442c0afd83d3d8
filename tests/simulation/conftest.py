"""How often Python looks for garbage: a world is a ring of objects, and a run makes thousands of worlds."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

_SELDOM: Final = 10_000
"""How many more objects there are at each look, where 700 are usual."""


@pytest.fixture(autouse=True, scope="package")
def _few_looks_for_garbage() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(_SELDOM, *before[1:])
    yield
    gc.set_threshold(*before)
