"""A time limit or Ctrl-C while the cache is asked: it passes, nothing is out of step, and nobody waits for it later."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import pytest
from real_servers.gate_vs_plain import Pair
from real_servers.interrupted import TimeLimitError, at_every_call, interrupt

from tidegate.cache.marks import Root, RootState
from tidegate.cache.memory_store import MemoryStore
from tidegate.cache.read_through import ReadThrough
from tidegate.cache.redis.store import RedisStore
from tidegate.cache.request import Answer, Limits
from tidegate.cache.root_recovery import RootRecovery
from tidegate.cache.single_flight import Flights
from tidegate.cache.store import Change, Filling, Hit, Miss
from tidegate.position import NOWHERE, AskedFor, History, Origin
from tidegate.proxy.database.primary import ClockPrimary
from tidegate.proxy.settings import CacheSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tidegate.cache.request import ReadRequirement
    from tidegate.cache.store import Store
    from tidegate.proxy.embedded.valkey import ValkeyNode

pytestmark = [
    pytest.mark.fast,
    # A socket that redis-py was just opening is left to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
ORIGIN = Origin(0, History(), "")
ASKED = AskedFor(History())
ERRORS = [TimeLimitError, KeyboardInterrupt, TimeoutError, ValueError]
"""The last two are also what sockets and parsers raise."""


@pytest.fixture
def store(shared_valkey: ValkeyNode) -> RedisStore:
    made = RedisStore.from_url(shared_valkey.url, secrets.token_hex(8), connect_timeout_ms=5_000, read_timeout_ms=5_000)
    made.make_root("t", "n", ORIGIN)
    made.complete_root("t", "n", "7", NOWHERE)
    made.end_quarantine("t", "n", NOWHERE)
    return made


def put(store: RedisStore, entry: str) -> None:
    found = store.lookup("t", entry, "g", ASKED)
    assert isinstance(found, Miss)
    assert store.fill("t", Filling(entry, found.noted, "k", ORIGIN, ("g",), entry.encode() * 50, 600_000, {})) is None


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("connects", [False, True])
def test_an_interruption_passes_and_the_next_call_gets_its_own_answer(
    store: RedisStore, connects: bool, error: type[BaseException]
) -> None:
    put(store, "interrupted")
    put(store, "next")

    def work() -> None:
        if connects:
            store.close()
        store.lookup("t", "interrupted", "g", ASKED)

    def check(passed: bool) -> None:
        assert passed
        for entry in ("next", "interrupted"):
            found = store.lookup("t", entry, "g", ASKED)
            assert isinstance(found, Hit)
            assert found.body == entry.encode() * 50

    assert at_every_call(work, check, error, step=97 if connects else 1) > 20


@pytest.mark.parametrize("error", ERRORS[:2])  # of an error that is a socket's too, only *failed* is told
def test_an_interruption_while_something_is_sent_without_waiting_leaves_nothing_out_of_step(
    store: RedisStore, error: type[BaseException]
) -> None:
    put(store, "next")
    changes = [Change("t", frozenset({"other"}))]
    store.stamp(changes, "5", ORIGIN, NOWHERE)  # the server learns the script

    def work() -> None:
        store.stamp_soon(changes, "5", ORIGIN, NOWHERE, lambda _error: None)
        store.stamp_soon(changes, "6", ORIGIN, NOWHERE, lambda _error: None)
        store.lookup("t", "next", "g", ASKED)

    def check(passed: bool) -> None:
        assert passed
        for _ in range(2):
            found = store.lookup("t", "next", "g", ASKED)
            assert isinstance(found, Hit)
            assert found.body == b"next" * 50

    assert at_every_call(work, check, error) > 20


class Request:
    tenant, guard = "t", "g"

    def __init__(self, entry: str) -> None:
        self.entry = entry
        self.queries = 0

    def query(self, _need: ReadRequirement) -> Answer:
        self.queries += 1
        return Answer("value", ORIGIN)

    def tags(self, _value: object) -> tuple[str, ...]:
        return ("g",)

    def ttl_ms(self, _value: object) -> int:
        return 600_000

    def freeze(self, value: object) -> tuple[bytes, Mapping[str, bytes]]:
        return str(value).encode(), {}

    def thaw(self, body: bytes, _hit: Hit | None) -> object:
        return body.decode()


class Reading:
    """A read path that may not wait for anybody."""

    def __init__(self, store: Store, *, early: bool = False) -> None:
        self.flights = Flights()
        self.clock_ms = 0
        limits = Limits(beta=1e12 if early else 0.0, longest_ms=1)
        recovery = RootRecovery(store, ClockPrimary("", 0))
        self.read = ReadThrough(
            store,
            recovery,
            lambda _tenant: ASKED,
            flights=self.flights,
            limits=limits,
            sleep=self._waits,
            now_ms=self._now_ms,
        )

    def _waits(self, _seconds: float) -> None:
        raise AssertionError("a read waits for one that was interrupted")

    def _now_ms(self) -> int:
        self.clock_ms += 1  # a query takes time, so it is worth to be early
        return self.clock_ms

    def check(self, request: Request) -> None:
        assert self.flights._flights == {}
        assert self.read(request).value == "value"
        assert self.flights._flights == {}


@pytest.mark.parametrize("error", [TimeLimitError, KeyboardInterrupt])
def test_an_interrupted_miss_leaves_no_flight_and_no_lease(store: RedisStore, error: type[BaseException]) -> None:
    reading, requests = Reading(store), [Request(secrets.token_hex(8))]

    def check(passed: bool) -> None:
        assert passed
        reading.check(requests[-1])
        requests.append(Request(secrets.token_hex(8)))

    assert at_every_call(lambda: reading.read(requests[-1]), check, error, step=23) > 100


@pytest.mark.parametrize("error", [TimeLimitError, KeyboardInterrupt])
def test_an_interrupted_early_refresh_makes_nobody_wait(store: RedisStore, error: type[BaseException]) -> None:
    reading, request = Reading(store, early=True), Request(secrets.token_hex(8))
    reading.read(request)
    before = request.queries
    reading.read(request)
    assert request.queries == before + 1, "it is refreshed early"

    def check(passed: bool) -> None:
        assert passed
        before = request.queries
        reading.check(request)
        assert request.queries == before + 1, "nobody else refreshes it, so this read does"

    assert at_every_call(lambda: reading.read(request), check, error, step=23) > 100


def test_no_call_is_too_short_to_be_interrupted() -> None:
    store = MemoryStore()
    store.roots["t"] = Root("n", ORIGIN, RootState.CLEAN)
    missing, early = Reading(store), Reading(store, early=True)
    requests = [Request(str(number)) for number in range(2_000)]
    early.read(Request("refreshed"))

    def check_miss(passed: bool) -> None:
        assert passed
        missing.check(requests.pop())

    def check_early(passed: bool) -> None:
        assert passed
        early.check(Request("refreshed"))

    assert at_every_call(lambda: missing.read(requests[-1]), check_miss) > 50
    assert at_every_call(lambda: early.read(Request("refreshed")), check_early) > 50


def test_an_interruption_is_no_damaged_body_and_no_failed_policy(store: RedisStore) -> None:
    reading, request = Reading(store), Request("d")

    class Slow(Request):
        def tags(self, value: object) -> tuple[str, ...]:
            interrupt(lambda: sorted("ab"), 1, ValueError)
            return super().tags(value)

    with pytest.raises(ValueError, match=r"^$"):
        reading.read(Slow("d"))
    reading.check(request)


def test_a_gate_whose_calls_are_interrupted_goes_on_answering_right(
    database_url: str, shared_valkey: ValkeyNode
) -> None:
    cache = CacheSettings(url=shared_valkey.url, connect_timeout_ms=5_000, read_timeout_ms=5_000)
    pair = Pair(database_url, cache, books=1)
    book = pair.books[0]
    try:

        def read() -> Any:
            return pair.gate.workflow_runs.get_workflow_run_by_id(book.tenant, book.app, book.run)

        def write() -> None:
            with pair.gate.session(book.tenant) as session:
                book.write(session)
                session.commit()

        def check(_passed: bool) -> None:
            assert pair.differences() == []

        assert at_every_call(read, check, step=211) > 211
        assert pair.events["Undecodable"] == 0
        assert at_every_call(write, check, step=1499) > 1499
    finally:
        pair.close()
