"""The cache killed, stopped, emptied, full, demoted, cut off, or lying: a gate answers as the plain repository does.

Writes made meanwhile go to the outbox; once it is applied, what the cache serves again is not stale.
"""

from __future__ import annotations

import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import redis
from real_servers.deadlines import patient
from real_servers.gate_vs_plain import Pair
from real_servers.printed_numbers import show
from real_servers.tcp_proxy import Proxy

from tidegate.proxy.embedded.process import free_port, wait_for
from tidegate.proxy.settings import CacheSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidegate.proxy.embedded.valkey import ValkeyNode

PATIENT = {"connect_timeout_ms": 5_000, "read_timeout_ms": 5_000}
WAIT_S, SLACK_S = 0.4, 0.04


@pytest.fixture
def node(start_valkey: Callable[..., ValkeyNode]) -> Iterator[ValkeyNode]:
    node = start_valkey()
    yield node
    node.resume()
    node.kill()


@pytest.fixture
def pair_at(tables_url: str) -> Iterator[Callable[..., Pair]]:
    with ExitStack() as stack:

        def make(url: str, books: int = 1, **cache: Any) -> Pair:
            pair = Pair(tables_url, CacheSettings(url=url, **cache), books)
            stack.callback(pair.close)
            return pair

        yield make


def client(node: ValkeyNode) -> redis.Redis:
    return redis.Redis.from_url(node.url, protocol=2, socket_timeout=patient(5))


def warm(pair: Pair) -> None:
    """Until the cache answers every read."""
    wait_for(lambda: _all_hit(pair), "the cache answers")


def _all_hit(pair: Pair) -> bool:
    assert pair.differences() == []
    before = pair.hits()
    assert pair.differences() == []
    return pair.hits() - before == 9 * len(pair.books)


def live_on(pair: Pair, turns: int = 2) -> None:
    """Read and write, and compare."""
    for turn in range(turns):
        assert pair.differences() == [], turn
        for book in pair.books:
            pair.write(book)
        assert pair.differences() == [], turn


def recover(pair: Pair) -> None:
    """Once what was written meanwhile is applied, the cache serves what is right, and all of it."""
    waiting = pair.outbox()
    wait_for(lambda: pair.outbox() == 0, "the outbox is applied")
    assert pair.differences() == []
    warm(pair)
    live_on(pair, 1)
    show("outbox", f"{waiting} rows waited; {dict(pair.events)}")


HARMS: dict[str, tuple[Callable[[ValkeyNode], object], Callable[[ValkeyNode], object]]] = {
    "killed": (lambda node: node.kill(), lambda node: node.start()),
    "stopped": (lambda node: node.pause(), lambda node: node.resume()),
    "demoted": (
        lambda node: client(node).replicaof("127.0.0.1", free_port()),
        lambda node: client(node).replicaof("NO", "ONE"),
    ),
    "full": (
        lambda node: client(node).config_set("maxmemory", "1"),
        lambda node: client(node).config_set("maxmemory", "0"),
    ),
}


@pytest.mark.parametrize("harm", HARMS)
def test_away(harm: str, node: ValkeyNode, pair_at: Callable[..., Pair]) -> None:
    pair = pair_at(node.url, **PATIENT | ({"read_timeout_ms": 50} if harm == "stopped" else {}))
    begin, end = HARMS[harm]
    warm(pair)
    begin(node)
    live_on(pair)
    waiting = pair.outbox()
    end(node)
    recover(pair)
    assert waiting > 0 or harm == "full"


def test_killed_and_empty_again_between_two_calls(node: ValkeyNode, pair_at: Callable[..., Pair]) -> None:
    pair = pair_at(node.url, **PATIENT)
    warm(pair)
    node.kill()
    node.start()
    live_on(pair)
    recover(pair)


def test_flushed(node: ValkeyNode, pair_at: Callable[..., Pair]) -> None:
    pair = pair_at(node.url, **PATIENT)
    for _ in range(3):
        warm(pair)
        node.flush()
        live_on(pair)
    recover(pair)


def test_a_line_that_goes_dead(node: ValkeyNode, pair_at: Callable[..., Pair]) -> None:
    with Proxy(node.port) as proxy:
        pair = pair_at(f"redis://127.0.0.1:{proxy.port}/0", connect_timeout_ms=1_000, read_timeout_ms=50)
        warm(pair)
        proxy.hold()
        live_on(pair)
        waiting = pair.outbox()
        proxy.resume()
        recover(pair)
        assert waiting > 0


def test_another_keys_value(node: ValkeyNode, pair_at: Callable[..., Pair]) -> None:
    pair = pair_at(node.url, books=2, near=False, **PATIENT)  # a near answer never sees what stands in the server
    warm(pair)
    server = client(node)
    entries = sorted(server.scan_iter("tg:e:*"))
    assert len({key.split(b":")[3] for key in entries}) == len(pair.books)
    for by in (1, len(entries) // len(pair.books)):  # another call's, and another tenant's
        warm(pair)
        values: list[Any] = server.mget(entries)
        undecodable = pair.events["Undecodable"]
        server.mset(dict(zip(entries, values[by:] + values[:by], strict=True)))
        live_on(pair)
        assert by != 1 or pair.events["Undecodable"] > undecodable
    recover(pair)


@pytest.mark.parametrize("what", ["tg:e:*", "tg:m:*", "tg:l:*", "tg:b:*", "tg:*"])
def test_garbage(what: str, node: ValkeyNode, pair_at: Callable[..., Pair]) -> None:
    pair = pair_at(node.url, blob_bytes=256, near_bytes=0, **PATIENT)
    server = client(node)
    for size in (0, 40, 4_000):
        warm(pair)
        keys = list(server.scan_iter(what))
        assert keys or what == "tg:l:*"
        for key in keys:
            _spoil(server, key, os.urandom(size))
        for entry in server.scan_iter("tg:e:*") if what == "tg:l:*" else ():
            server.set(entry.replace(b"tg:e:", b"tg:l:"), os.urandom(size))
            server.delete(entry)
        live_on(pair, 1)
    recover(pair)


def _spoil(server: redis.Redis, key: bytes, garbage: bytes) -> None:
    if server.type(key) == b"hash":
        server.hset(key, mapping=dict.fromkeys(server.hkeys(key), garbage))
    else:
        server.set(key, garbage)


@pytest.mark.alone
@pytest.mark.parametrize("threads", [pytest.param(1, marks=pytest.mark.soak), 4])
def test_few_calls_wait_for_a_stopped_server(threads: int, node: ValkeyNode, pair_at: Callable[..., Pair]) -> None:
    wait_ms = int(WAIT_S * 1000)  # so long that what a busy machine adds is little beside it
    pair = pair_at(node.url, connect_timeout_ms=wait_ms, read_timeout_ms=wait_ms)
    book, runs = pair.books[0], pair.gate.workflow_runs

    def timed(repository: Any) -> float:
        begun = time.perf_counter()
        repository.get_workflow_run_by_id(book.tenant, book.app, book.run)
        return time.perf_counter() - begun

    with ThreadPoolExecutor(threads) as pool:
        both = [timed(one) for _ in range(200) for one in (pair.runs, runs)]
        usual_s = statistics.median(both)
        node.pause()
        caching: Any = pair.gate._layers._below._below._below  # type: ignore[attr-defined]
        caching.switches._next = 0.0  # the worst moment: they are to be asked
        first = list(pool.map(lambda _: timed(runs), range(40)))
        waited = [took for took in first if took - usual_s > WAIT_S / 2]
        show(f"{threads} threads", f"{len(waited)} of {len(first)} calls waited, {max(waited) * 1000:.0f} ms at most")
        assert 0 < len(waited) <= 10
        assert max(waited) < WAIT_S + patient(usual_s + SLACK_S)
        pairs = [(timed(pair.runs), timed(runs)) for _ in range(1_000)]
    plain_s, gate_s = (statistics.median(side) for side in zip(*pairs, strict=True))
    show("median", f"plain {plain_s * 1000:.2f} ms, gate without its cache {gate_s * 1000:.2f} ms")
    assert gate_s < 2 * plain_s + 0.001
    assert sum(gated > WAIT_S / 2 for _, gated in pairs) < len(pairs) / 50, "those that try the cache again"
