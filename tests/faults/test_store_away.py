"""A server that is stopped, answers late, hangs up, or talks nonsense."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import redis
from real_servers.deadlines import patient

from tidegate.cache.redis import link, replies
from tidegate.cache.redis.breaker import Pauses
from tidegate.cache.store import Hit, Miss, NoRoot, StoreUnavailable
from tidegate.position import AskedFor, History

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidegate.cache.redis.store import RedisStore

    Calls = dict[str, Callable[[RedisStore], object]]

WAIT_S, PAUSE_S = 0.05, 0.2
NO_BREAKER = Pauses(failures=1_000_000)

ASKED = AskedFor(History(1))


@pytest.fixture
def node(start_valkey: Any) -> Iterator[Any]:
    node = start_valkey()
    yield node
    node.resume()
    node.kill()


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    with pytest.raises(StoreUnavailable):
        call()
    return time.perf_counter() - start


def test_a_stopped_server_is_waited_for_five_times_and_then_not_at_all(
    node: Any, store_at: Any, put_answer: Any
) -> None:
    put_answer(store_at(node.url))
    waits = {"connect_timeout_ms": 50, "read_timeout_ms": 50}
    store = store_at(node.url, **waits, pauses=Pauses(first_s=PAUSE_S, longest_s=PAUSE_S))
    assert isinstance(store.lookup("t", "d", "tag", ASKED), Hit)
    node.pause()
    waited = [timed(lambda: store.lookup("t", "d", "tag", ASKED)) for _ in range(5)]
    assert all(WAIT_S * 0.9 < wait < patient(WAIT_S) for wait in waited), waited
    began = time.monotonic()
    at_once = [timed(lambda: store.lookup("t", "d", "tag", ASKED)) for _ in range(2_000)]
    assert statistics.median(at_once) < WAIT_S / 10
    # One tries again after each pause, and waits.
    assert sum(wait > WAIT_S * 0.9 for wait in at_once) <= (time.monotonic() - began) / PAUSE_S + 1
    node.resume()
    deadline = time.monotonic() + patient(10)
    while True:
        with contextlib.suppress(StoreUnavailable):
            assert isinstance(store.lookup("t", "d", "tag", ASKED), Hit)
            break
        assert time.monotonic() < deadline


def test_a_late_answer_is_read_by_nobody(node: Any, store_at: Any, put_answer: Any) -> None:
    patient = store_at(node.url)
    for name in ("d1", "d2"):
        put_answer(patient, name, name.encode())
    store = store_at(node.url, read_timeout_ms=50, pauses=NO_BREAKER)
    for _ in range(5):
        assert store.lookup("t", "d1", "tag", ASKED).body == b"d1"
        node.pause()
        timed(lambda: store.lookup("t", "d1", "tag", ASKED))
        node.resume()
        found = None
        while not isinstance(found, Hit):
            with contextlib.suppress(StoreUnavailable):
                found = store.lookup("t", "d2", "tag", ASKED)
        assert found.body == b"d2"


def test_an_interrupted_call_leaves_no_answer_behind(
    node: Any, store_at: Any, put_answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(node.url)
    for name in ("d1", "d2"):
        put_answer(store, name, name.encode())

    here, plain = threading.get_ident(), replies.read_replies

    def interrupted(*args: Any, **options: Any) -> Any:
        if threading.get_ident() != here:
            return plain(*args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(link, "read_replies", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.lookup("t", "d1", "tag", ASKED)
    assert store.lookup("t", "d2", "tag", ASKED).body == b"d2"


def test_a_connection_that_the_server_closed_is_not_a_failure(
    node: Any, store_at: Any, put_answer: Any, calls: Calls
) -> None:
    store = store_at(node.url, pauses=Pauses(failures=1, first_s=60))
    put_answer(store)
    inside = redis.Redis.from_url(node.url, protocol=2)
    for call in calls.values():
        inside.client_kill_filter(_type="normal", skipme=True)
        call(store)


def test_threads_get_their_own_answers(node: Any, store_at: Any, put_answer: Any) -> None:
    store = store_at(node.url)
    names = [f"d{n}" for n in range(16)]
    for name in names:
        put_answer(store, name, name.encode() * 100)

    def read(name: str) -> bool:
        return all(store.lookup("t", name, "tag", ASKED).body == name.encode() * 100 for _ in range(200))

    with ThreadPoolExecutor(len(names)) as pool:
        assert all(pool.map(read, names))


def test_a_process_forked_off_gets_its_own_answers(node: Any, store_at: Any, put_answer: Any) -> None:
    store = store_at(node.url)
    for name in ("parent", "child"):
        put_answer(store, name, name.encode())
    child = os.fork()
    if child == 0:
        right = False
        with contextlib.suppress(BaseException):
            right = all(store.lookup("t", "child", "tag", ASKED).body == b"child" for _ in range(500))
        os._exit(0 if right else 1)
    assert all(store.lookup("t", "parent", "tag", ASKED).body == b"parent" for _ in range(500))
    assert os.waitpid(child, 0)[1] == 0


class Liar:
    """Answers every packet with the same bytes, and then hangs up if they are none; *late_s* at most."""

    def __init__(self, answer: bytes, late_s: float = 0.0) -> None:
        self._answer = answer
        self._late_s = late_s
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._server.getsockname()[1]}/0"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while (packet := connection.recv(1 << 20)) and self._answer:
                if b"SETINFO" in packet:
                    connection.sendall(b"+OK\r\n" * packet.count(b"SETINFO"))
                else:
                    time.sleep(random.uniform(0, self._late_s))  # noqa: S311  # what it is for
                    connection.sendall(self._answer)

    def close(self) -> None:
        self._server.close()


GARBAGE = [
    b"",
    b"-LOADING the data set is loaded\r\n",
    b"-MASTERDOWN the link to the master is down\r\n",
    b"-READONLY a replica\r\n",
    b"-NOSCRIPT none\r\n",
    b"-WRONGTYPE of another\r\n",
    b"-MOVED 5 127.0.0.1:1\r\n",
    b"+OK\r\n",
    b"$2\r\nxx\r\n",
    b"$-5\r\n",
    b"$x\r\n",
    b"*1\r\n*1\r\n:1\r\n",
    b"*5\r\n:1\r\n$1\r\nx\r\n$0\r\n\r\n$1\r\n1\r\n$1\r\n1\r\n",
    b"*5\r\n:0\r\n$1\r\nx\r\n$0\r\n\r\n$1\r\n1\r\n$1\r\n1\r\n",
    b"$30\r\n1 nn 1\xff\xfe ttag and no line feed..\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    random.Random(5).randbytes(300) + b"\r\n",  # noqa: S311  # noise
]


@pytest.mark.parametrize("answer", GARBAGE, ids=lambda answer: repr(answer[:24]))
def test_nonsense_is_no_answer(answer: bytes, store_at: Any, calls: Calls) -> None:
    liar = Liar(answer)
    try:
        for name, call in calls.items():
            store = store_at(liar.url, read_timeout_ms=50)
            for _ in range(2):
                with pytest.raises(StoreUnavailable):
                    raise_if_plausible(name, call(store))
    finally:
        liar.close()


def raise_if_plausible(name: str, found: object) -> None:
    """Nonsense that happens to be a possible answer: none here, or the table above is wrong."""
    assert found is NotImplemented, (name, found)


def test_five_nonsenses_open_the_breaker(store_at: Any) -> None:
    liar = Liar(b"+OK\r\n")
    store = store_at(liar.url, pauses=Pauses(first_s=60))
    for _ in range(5):
        with pytest.raises(StoreUnavailable, match="no sense"):
            store.lookup("t", "d", "tag", ASKED)
    with pytest.raises(StoreUnavailable, match="a moment ago"):
        store.lookup("t", "d", "tag", ASKED)
    liar.close()


def test_nobody_listens(store_at: Any, free_port: int) -> None:
    store = store_at(f"redis://user:secret@127.0.0.1:{free_port}/0")
    with pytest.raises(StoreUnavailable) as refused:
        store.lookup("t", "d", "tag", ASKED)
    assert "secret" not in str(refused.value)
    assert str(free_port) in str(refused.value)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_killed_and_started_again_it_is_found_again(node: Any, store_at: Any, put_answer: Any) -> None:
    store = store_at(node.url, pauses=Pauses(first_s=0.05, longest_s=0.1))
    put_answer(store)
    node.kill()
    for _ in range(20):
        timed(lambda: store.lookup("t", "d", "tag", ASKED))
    node.start()
    found: NoRoot | Miss | None = None
    while found is None:
        with contextlib.suppress(StoreUnavailable):
            found = store.lookup("t", "d", "tag", ASKED)
    assert found == NoRoot()


@pytest.mark.parametrize("code", ["LOADING", "MASTERDOWN", "CLUSTERDOWN", "READONLY", "OOM"])
def test_a_server_that_answers_nobody_opens_the_breaker_and_one_that_refuses_does_not(store_at: Any, code: str) -> None:
    liar = Liar(f"-{code} for now\r\n".encode())
    store = store_at(liar.url, pauses=Pauses(failures=3, first_s=60))
    said = []
    for _ in range(5):
        with pytest.raises(StoreUnavailable) as refused:
            store.lookup("t", "d", "tag", ASKED)
        said.append("a moment ago" in str(refused.value))
    assert said == [False] * 3 + [code != "OOM"] * 2
    liar.close()


def test_a_server_that_is_slow_with_each_but_answers_others_is_waited_for_by_all(store_at: Any) -> None:
    slow = Liar(b":1\r\n", late_s=0.4)
    store = store_at(slow.url, read_timeout_ms=1_000)
    moment_s = store._link._waiters.moment_s

    def ask(_: int) -> float:
        begun = time.perf_counter()
        store.release("t", "d", "k")
        return time.perf_counter() - begun

    with ThreadPoolExecutor(32) as pool:
        assert max(pool.map(ask, range(100))) > moment_s
    slow.close()
