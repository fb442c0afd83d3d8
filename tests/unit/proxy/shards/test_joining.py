"""Many who need a shard that hangs: who came while one tried does not try in its turn."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from real_servers.deadlines import patient

from tidegate.proxy.shards.catalogue import StaticMap
from tidegate.proxy.shards.joining import Joining
from tidegate.routing.sharding.shard_map import even_map


class Hanging(Joining):
    """Its shard answers nothing, until it is let, and then fails or not."""

    def __init__(self, *, fails: bool) -> None:
        first = even_map(["a", "b"])
        engines: Any = {"a": None, "b": None}
        super().__init__(engines, {}, first, StaticMap(first), None)
        self.fails = fails
        self.tries = 0
        self.tried = threading.Semaphore(0)
        self.ends = threading.Semaphore(0)

    def _join(self, shard: str, engine: Any) -> None:
        assert (shard, engine) == ("b", None)
        self.tries += 1
        self.tried.release()
        assert self.ends.acquire(timeout=patient(30))
        if self.fails:
            raise ConnectionError("it hangs")


class Queue:
    """A lock that tells who comes to it."""

    def __init__(self) -> None:
        self.came = threading.Semaphore(0)
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self.came.release()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@pytest.mark.parametrize(("fails", "tries"), [(True, 2), (False, 1)])
def test_of_many_who_wait_for_a_shard_one_tries_again(fails: bool, tries: int) -> None:
    joining = Hanging(fails=fails)
    joining._locks["b"] = queue = Queue()  # type: ignore[assignment]
    with ThreadPoolExecutor(12) as pool:
        callers = [pool.submit(joining, "b")]
        assert joining.tried.acquire(timeout=patient(30))
        callers += [pool.submit(joining, "b") for _ in range(10)]
        for _ in range(11):
            assert queue.came.acquire(timeout=patient(30))
        joining.ends.release(12)
        errors = [caller.exception(30) for caller in callers]
    assert [type(error) for error in errors] == [ConnectionError if fails else type(None)] * 11
    assert joining.tries == tries
    joining.fails = False
    joining.ends.release()
    joining("b")  # who comes later tries anew
    assert joining.tries == (tries + 1 if fails else tries)
