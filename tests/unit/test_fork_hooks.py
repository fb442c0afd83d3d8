"""What is called in a forked process: the methods of objects that still live, whatever these are equal to."""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tidegate.cache.near.lru import LruCache
from tidegate.fork_hooks import reset_after_fork
from tidegate.proxy.observe import Counters

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Same:
    """Equal to all others, and without a hash."""

    forked: list[int] = field(default_factory=list, compare=False)

    def fork(self) -> None:
        self.forked.append(os.getpid())


def in_child(asked: Callable[[], Any]) -> str:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, str(asked()).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        told = answer.read()
    assert os.waitpid(child, 0)[1] == 0
    return told


def test_each_living_object_is_told_once_in_the_child_and_not_in_the_parent() -> None:
    objects = [Same(), Same()]
    for each in objects:
        reset_after_fork(each.fork)
    assert in_child(lambda: [each.forked == [os.getpid()] for each in objects]) == "[True, True]"
    assert [each.forked for each in objects] == [[], []]


def test_one_that_is_gone_is_not_kept() -> None:
    one = Same()
    reset_after_fork(one.fork)
    known = weakref.ref(one)
    del one
    assert known() is None
    assert in_child(known) == "None"


def test_a_lock_that_is_held_at_the_fork_holds_up_no_child() -> None:
    cache, counters = LruCache(1_000, 10), Counters()
    cache.put("t", "a", b"a")
    with cache._lock, counters._lock:
        told = in_child(lambda: (cache.get("t", "a"), len(cache), cache.size, dict(counters.stats().methods)))
    assert told == "(None, 0, 0, {})"
    assert cache.get("t", "a") == b"a"
