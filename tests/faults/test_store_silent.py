"""A server that falls silent while many calls are under way."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from real_servers.deadlines import patient
from real_servers.printed_numbers import show

from tidegate.cache.store import StoreUnavailable
from tidegate.position import AskedFor, History

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.cache.redis.store import RedisStore

WAIT_S, SLACK_S = 0.05, 0.15

ASKED = AskedFor(History(1))


@pytest.fixture
def node(start_valkey: Any) -> Iterator[Any]:
    node = start_valkey()
    yield node
    node.resume()
    node.kill()


class Crowd:
    """Threads that look the same answer up over and over, until they are refused at once.

    Args:
        store: asked by all.
        threads: how many.
    """

    def __init__(self, store: RedisStore, threads: int) -> None:
        self.store = store
        self.refused: list[tuple[float, float, str]] = []
        self.ended = threading.Event()
        self.refusal = threading.Event()
        self.answered, self.served = threading.Semaphore(0), threading.Semaphore(0)
        self._pool = ThreadPoolExecutor(threads)
        self._asking = [self._pool.submit(self._ask) for _ in range(threads)]

    def _ask(self) -> None:
        told = False
        while not self.ended.is_set():
            begun = time.perf_counter()
            try:
                self.store.lookup("t", "d", "tag", ASKED)
                self.answered.release()
                if not told:
                    told = True
                    self.served.release()
            except StoreUnavailable as error:
                self.refused.append((begun, time.perf_counter(), str(error)))
                self.refusal.set()
                if "a moment ago" in str(error):
                    return
                time.sleep(0.002)  # in place of the query that its caller makes now

    def await_answers(self, count: int) -> None:
        for _ in range(count):
            assert self.answered.acquire(timeout=patient(30))

    def join(self) -> None:
        for asked in self._asking:
            asked.result()
        self._pool.shutdown()


@pytest.mark.alone
@pytest.mark.parametrize("warm", [True, False], ids=["connected", "not connected"])
@pytest.mark.parametrize("threads", [12, 64])
def test_of_any_number_of_calls_under_way_ten_wait_for_a_stopped_server(
    threads: int, *, warm: bool, node: Any, store_at: Any, put_answer: Any
) -> None:
    put_answer(store_at(node.url))
    wait_s = 5 * WAIT_S  # so that what a busy machine adds is little beside the parts of it
    store = store_at(node.url, connect_timeout_ms=wait_s * 1000, read_timeout_ms=wait_s * 1000)
    if warm:
        crowd = Crowd(store, threads)
        for _ in range(threads):
            assert crowd.served.acquire(timeout=patient(30))
        node.pause()
        paused = time.perf_counter()
    else:
        node.pause()
        paused = time.perf_counter()
        crowd = Crowd(store, threads)
    crowd.join()
    took = [ended - max(begun, paused) for begun, ended, _ in crowd.refused]
    waited = [wait for wait in took if wait > wait_s * 0.7]  # of the others some wait two moments, two fifths
    show(f"{threads} threads", f"{len(waited)} of {len(took)} calls waited, {max(waited) * 1000:.0f} ms at most")
    assert 0 < len(waited) <= 10
    assert max(waited) < patient(wait_s + SLACK_S)


def test_a_server_that_is_silent_for_less_than_the_time_out_does_not_open_the_breaker(
    node: Any, store_at: Any, put_answer: Any
) -> None:
    put_answer(store_at(node.url))
    # A call is refused after a fifth of the time-out, so what is left for ``resume`` is long on any machine.
    crowd = Crowd(store_at(node.url, read_timeout_ms=10_000), 64)
    for _ in range(2):
        crowd.await_answers(200)
        crowd.refusal.clear()
        node.pause()
        assert crowd.refusal.wait(patient(30))
        node.resume()
        crowd.await_answers(1_000)
    crowd.ended.set()
    crowd.join()
    assert {text for _, _, text in crowd.refused} == {"the server is silent, and no more calls may wait for it"}
