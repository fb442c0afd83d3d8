"""What a near cache holds in memory, and what it forgets."""

from __future__ import annotations

import gc
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from tidegate.cache.codec.answers import AnswerCodec
from tidegate.cache.marks import Noted
from tidegate.cache.near.lru import LruCache, NearEntry

if TYPE_CHECKING:
    from collections.abc import Callable

BOUND = 400_000
NOISE = 20_000
"""What the threads of other tests may take or give back meanwhile."""
CODEC = AnswerCodec(())


def small(number: int) -> NearEntry:
    """An answer that is smaller than its key."""
    body = CODEC.encode("t", b"c" * 16, number).body
    noted = Noted(f"{number:032x}", 10**9 + number)
    tags = (f"run:{number:036}", f"runs:{number:036}")
    return NearEntry(CODEC.decode("t", b"c" * 16, body), noted, tags, 10**12 + number)


@pytest.mark.parametrize("make", [small, lambda n: bytes([n % 256]) * 5_000, lambda n: bytes([n % 256])])
def test_what_is_held_is_within_the_bound(make: Callable[[int], NearEntry | bytes]) -> None:
    small(0)
    cache = LruCache(BOUND, 10**9)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(3 * BOUND // 500):
            cache.put(f"{number:036}", f"{number:032x}", make(number))
        gc.collect()
        before, said = tracemalloc.get_traced_memory()[0], cache.size
        cache.clear()
        held = before - tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held - NOISE <= said <= BOUND
    assert said > 0.95 * BOUND
    assert held > BOUND / 4, "so much is not held that could be"


def test_what_was_used_longest_ago_is_forgotten_first() -> None:
    cache = LruCache(10_000, 2)
    for name in ("a", "b"):
        cache.put("t", name, name.encode())
    assert cache.get("t", "a") == b"a"
    cache.put("t", "c", b"c")
    assert [cache.peek("t", name) for name in "abc"] == [b"a", None, b"c"]
    cache.put("t", "too large", bytes(10_000))
    assert len(cache) == 2
    cache.evict("t", "a")
    cache.evict("t", "c")
    assert (cache.size, len(cache)) == (0, 0)
