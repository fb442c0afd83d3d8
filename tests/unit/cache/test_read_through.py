"""The read path on a store in memory: what is kept for how long, refreshed early, shared, and not shared."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tidegate.cache.codec.values import Uncacheable
from tidegate.cache.codec.values import Undecodable as Broken
from tidegate.cache.events import Missed, NotFilled, Served, StoreFailed, Undecodable
from tidegate.cache.marks import Noted, Refusal, Root, RootState
from tidegate.cache.memory_store import MemoryStore
from tidegate.cache.read_through import ReadThrough
from tidegate.cache.request import Answer, Limits, ReadRequirement
from tidegate.cache.root_recovery import RootRecovery
from tidegate.cache.single_flight import Flights, Turn
from tidegate.cache.store import Change, Filling, Miss, StoreUnavailable
from tidegate.position import NOWHERE, AskedFor, History, Origin, Position
from tidegate.proxy.database.primary import ClockPrimary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tidegate.cache.store import Hit

ORIGIN = Origin(0, History(0), "")
ASKED = AskedFor(ORIGIN.history)
MISS = Miss(Noted("n", 0), Refusal.NO_ENTRY, RootState.CLEAN, ORIGIN, NOWHERE, {})


class Request:
    tenant, entry, guard = "t", "e", "g"

    def __init__(self, value: str = "value", origin: Origin | None = ORIGIN) -> None:
        self.value = value
        self.origin = origin
        self.queries: list[ReadRequirement] = []
        self.broken = False

    def query(self, need: ReadRequirement) -> Answer:
        self.queries.append(need)
        return Answer(self.value, self.origin)

    def tags(self, _value: object) -> tuple[str, ...]:
        return ("g",)

    def ttl_ms(self, _value: object) -> int:
        return 1_000

    def freeze(self, value: object) -> tuple[bytes, Mapping[str, bytes]]:
        if value == "odd":
            raise Uncacheable("odd")
        return str(value).encode(), {}

    def thaw(self, body: bytes, _hit: Hit | None) -> object:
        if self.broken:
            raise Broken("spoilt")
        return body.decode()


class Here:
    """A read path with a clock of its own."""

    def __init__(self, **limits: Any) -> None:
        self.now_ms = 10_000
        self.epoch, self.history = 0, ORIGIN.history
        self.events: list[Any] = []
        self.store = MemoryStore(now_ms=lambda: self.now_ms)
        self.store.roots["t"] = Root("n", ORIGIN, RootState.CLEAN)
        self.recovery = RootRecovery(self.store, ClockPrimary("", 0, lambda: self.now_ms))
        self.flights = Flights()
        self.read = ReadThrough(
            self.store,
            self.recovery,
            lambda _tenant: AskedFor(self.history, self.epoch),
            flights=self.flights,
            limits=Limits(**({"beta": 0} | limits)),
            observe=self.events.append,
            sleep=self.sleep,
            now_ms=lambda: self.now_ms,
        )

    def sleep(self, seconds: float) -> None:
        self.now_ms += max(1, int(seconds * 1000))


def test_a_miss_fills_and_the_next_read_asks_nobody() -> None:
    here, request = Here(), Request()
    assert [here.read(request).value for _ in range(3)] == ["value"] * 3
    assert len(request.queries) == 1


@pytest.mark.parametrize("dirty", [False, True])
def test_by_an_old_map_nothing_is_served_led_or_stored_and_those_below_are_told(dirty: bool) -> None:
    here, request = Here(), Request(origin=Origin(2, History(0), "s1"))
    here.epoch = 2
    here.store.roots["t"] = Root("n", Origin(2, History(0), "s1"), RootState.CLEAN, position=Position(1, 7))
    assert [here.read(request).value for _ in range(2)] == ["value"] * 2
    assert len(request.queries) == 1
    if dirty:
        here.store.open([Change("t", frozenset({"g"}))], "9", Origin(2, History(0), "s1"), ["n2"])
    here.epoch = 1
    here.events.clear()
    assert here.read(request).value == "value"
    assert request.queries[1:] == [ReadRequirement(Position(1, 7), primary=dirty, root=Origin(2, History(0), "s1"))]
    assert here.events == [Missed("t", Refusal.EPOCH)]


def test_who_learns_of_a_move_while_it_waits_for_a_lease_waits_no_more() -> None:
    here, request = Here(), Request()
    noted: Any = here.store.lookup("t", "e", "g", ASKED)
    assert here.store.lease("t", "e", noted, "of another", 60_000)

    def flips(_seconds: float) -> None:
        here.store.roots["t"] = Root("n2", Origin(1, History(0), "s1"), RootState.CLEAN)

    read = ReadThrough(
        here.store, here.recovery, lambda _tenant: AskedFor(ORIGIN.history, 0), observe=here.events.append, sleep=flips
    )
    assert read(request).value == "value"
    assert request.queries == [ReadRequirement(NOWHERE, primary=False, root=Origin(1, History(0), "s1"))]
    assert [event.reason for event in here.events] == [Refusal.NO_ENTRY, Refusal.EPOCH]


def test_an_entry_ends_with_its_time() -> None:
    here, request = Here(), Request()
    here.read(request)
    here.now_ms += 1_001
    here.read(request)
    assert len(request.queries) == 2


def test_lost_marks_are_brought_back_within_one_read() -> None:
    here, request = Here(), Request()
    here.store.roots.clear()
    here.read(request)
    here.read(request)
    assert len(request.queries) == 1


def test_while_an_intent_is_open_the_primary_is_read_and_nothing_is_stored() -> None:
    here, request = Here(), Request()
    here.read(request)
    here.store.open([Change("t", frozenset({"g"}))], f"{here.now_ms}-x", ORIGIN, ["n2"])
    here.read(request)
    assert request.queries[-1].primary
    here.now_ms += 200  # older than a moment: its transaction is asked about, and has ended
    here.read(request)
    here.read(request)
    assert len(request.queries) == 3


@pytest.mark.parametrize(("value", "origin"), [("odd", ORIGIN), ("value", None), ("value", Origin(0, History(5), ""))])
def test_what_cannot_be_stored_is_answered_all_the_same_and_gives_the_lease_back(
    value: str, origin: Origin | None
) -> None:
    here, request = Here(), Request(value, origin)
    assert [here.read(request).value for _ in range(2)] == [value] * 2
    assert len(request.queries) == 2
    assert here.now_ms == 10_000  # nobody waited for a lease
    assert sum(isinstance(event, NotFilled) for event in here.events) == 2


def test_an_answer_of_a_newer_timeline_voids_what_came_before_it() -> None:
    here, request = Here(), Request()
    here.read(request)
    promoted = Origin(0, History(1), "")
    here.recovery._primary = Promoted(promoted)  # and this process does not know yet
    other = Request("after", promoted)
    other.entry = "e2"
    assert here.read(other).value == "after"
    assert here.store.roots["t"].origin == promoted
    here.history = promoted.history
    assert here.read(other).value == "after"
    assert [here.read(other).value for _ in range(2)] == ["after"] * 2
    assert len(other.queries) == 2
    assert here.read(Request("anew", promoted)).value == "anew"


class Promoted(ClockPrimary):
    def __init__(self, origin: Origin) -> None:
        super().__init__("", 0)
        self._origin = origin


def test_a_query_that_raises_gives_the_lease_back_and_is_not_kept() -> None:
    here, request = Here(), Request()
    request.query = lambda _need: (_ for _ in ()).throw(ValueError("no"))  # type: ignore[assignment]
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            here.read(request)
    assert here.now_ms == 10_000


def test_an_entry_that_is_no_answer_is_reported_queried_and_replaced() -> None:
    here, request = Here(), Request()
    here.read(request)
    request.broken = True
    assert here.read(request).value == "value"
    request.broken = False
    assert here.read(request).value == "value"
    assert len(request.queries) == 2
    assert any(isinstance(event, Undecodable) for event in here.events)


@pytest.mark.parametrize("lease_ms", [50, 90])
def test_a_lease_whose_holder_has_died_is_taken_over(lease_ms: int) -> None:
    here, request = Here(wait_ms=100), Request()
    assert here.store.lease("t", "e", MISS, "dead", lease_ms)
    assert here.read(request).value == "value"
    assert 10_000 + lease_ms <= here.now_ms <= 10_000 + lease_ms + 50
    assert here.store.entries


def test_a_holder_that_lives_is_waited_for_as_long_as_its_query_takes() -> None:
    here, request = Here(wait_ms=100), Request()
    assert here.store.lease("t", "e", MISS, "alive", 5_000)

    def sleep(seconds: float) -> None:
        here.sleep(seconds)
        if here.now_ms > 13_000:
            filling = Filling("e", MISS.noted, "alive", ORIGIN, ("g",), bytes(12) + b"of another", 60_000, {})
            here.store.fill("t", filling)

    here.read._sleep = sleep
    assert here.read(request).value == "of another"
    assert request.queries == []


def test_whoever_has_waited_for_one_in_vain_waits_for_no_other_when_its_time_is_over() -> None:
    here, request = Here(wait_ms=100), Request()
    assert here.store.lease("t", "e", MISS, "first", 60_000)

    def sleep(seconds: float) -> None:
        here.sleep(seconds)
        if here.now_ms > 13_000 and here.store.holder("t", "e") == "first":  # it cannot store what it has
            here.store.release("t", "e", "first")
            assert here.store.lease("t", "e", MISS, "second", 60_000)

    here.read._sleep = sleep
    assert here.read(request).value == "value"
    assert 13_000 < here.now_ms < 13_200


def test_whoever_comes_to_the_lease_just_after_the_fill_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    here, request = Here(wait_ms=0), Request()
    lease = here.store.lease
    assert lease("t", "e", MISS, "another", 60_000)
    asked: list[bool] = []

    def filled_before(*args: Any, **kwargs: Any) -> bool:
        if asked:
            filling = Filling("e", MISS.noted, "another", ORIGIN, ("g",), bytes(12) + b"of another", 60_000, {})
            assert here.store.fill("t", filling) is None
        asked.append(lease(*args, **kwargs))
        return asked[-1]

    monkeypatch.setattr(here.store, "lease", filled_before)
    assert here.read(request).value == "of another"
    assert asked == [False, False]
    assert request.queries == []


def test_nobody_is_waited_for_without_end() -> None:
    here, request = Here(wait_ms=100, longest_ms=20_000), Request()
    assert here.store.lease("t", "e", MISS, "hangs", 10**9)
    assert here.read(request).value == "value"
    assert 30_000 < here.now_ms < 30_300
    assert here.store.entries == {}


def test_an_answer_that_takes_longer_than_its_lease_is_stored_and_shared() -> None:
    here = Here(wait_ms=100)
    waits: list[float | None] = []

    class Signal(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return super().wait(timeout)

    here.read._flights = Flights(Signal)
    leader, follower = Request(), Request()
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.append(here.read(follower).value))

    def slow(_need: ReadRequirement) -> Answer:
        thread.start()
        while not waits:
            threading.Event().wait(0.001)
        here.now_ms += 10_000
        return Answer("slow", ORIGIN)

    leader.query = slow  # type: ignore[assignment]
    assert here.read(leader).value == "slow"
    thread.join()
    assert answers == ["slow"]
    assert waits == [Limits().longest_ms / 1000], "as long as the query takes, and not until its own time is over"
    assert here.read(follower).value == "slow"
    assert follower.queries == []


def test_nobody_follows_a_thread_whose_fill_will_be_refused() -> None:
    here = Here()
    first, second = Request("old"), Request("new")

    class Signal(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            here.sleep(timeout or 0)
            return False

    here.read._flights = Flights(Signal)

    def slow(_need: ReadRequirement) -> Answer:
        here.store.bump([Change("t", frozenset({"g"}))], None, NOWHERE)
        assert here.read(second).value == "new"
        return Answer("old", ORIGIN)

    first.query = slow  # type: ignore[assignment]
    assert here.read(first).value == "old"
    assert here.read(second).value == "new"
    assert len(second.queries) == 1
    assert here.now_ms == 10_000


def test_an_entry_is_refreshed_before_it_ends_and_served_if_another_refreshes() -> None:
    here, request = Here(beta=1e9), Request()
    here.read(request)

    def dear(_need: ReadRequirement) -> Answer:
        here.now_ms += 5
        return Answer("newer", ORIGIN)

    request.query = dear  # type: ignore[assignment]
    assert here.read(request).value == "value"  # a query that took no time is never due early
    here.now_ms += 1_001
    assert here.read(request).value == "newer"
    other = Turn(here.flights, "t", "e", 0, 1)
    other.join(MISS)
    assert other.leads
    request.value = "newest"
    assert here.read(request).value == "newer"  # somebody else is at it
    other.leave()
    request.query = lambda _need: Answer("newest", ORIGIN)  # type: ignore[assignment]
    assert here.read(request).value == "newest"


@pytest.mark.parametrize("method", ["lookup", "lease", "fill", "make_root"])
def test_a_store_that_fails_anywhere_is_no_cache(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here, request = Here(), Request()
    here.store.roots.clear()

    def fail(*_args: object, **_kwargs: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(here.store, method, fail)
    assert here.read(request).value == "value"
    assert len(request.queries) == 1


def test_threads_that_miss_together_share_what_was_stored_after_they_came() -> None:
    here = Here(wait_ms=60_000)
    entered, go_on = threading.Event(), threading.Event()
    leader, followers = Request(), [Request() for _ in range(5)]

    def slow(_need: ReadRequirement) -> Answer:
        entered.set()
        assert go_on.wait(10)
        return Answer("shared", ORIGIN)

    leader.query = slow  # type: ignore[assignment]
    answers: list[object] = []
    threads = [threading.Thread(target=lambda r=r: answers.append(here.read(r).value)) for r in [leader, *followers]]
    threads[0].start()
    assert entered.wait(10)
    for thread in threads[1:]:
        thread.start()
    while len(here.events) < 6:  # every follower has missed
        entered.wait(0.001)
    go_on.set()
    for thread in threads:
        thread.join()
    assert answers == ["shared"] * 6
    assert all(follower.queries == [] for follower in followers)
    assert sum(isinstance(event, Served) for event in here.events) == 5


def test_followers_get_nothing_from_a_fill_that_was_refused() -> None:
    here = Here(wait_ms=60_000)
    leader, follower = Request(), Request("fresh")
    started = threading.Event()
    answers: list[object] = []

    def slow(_need: ReadRequirement) -> Answer:
        thread = threading.Thread(target=lambda: answers.append(here.read(follower).value))
        thread.start()
        while len(here.events) < 2:
            started.wait(0.001)
        here.store.bump([Change("t", frozenset({"g"}))], None, NOWHERE)
        leader.thread = thread  # type: ignore[attr-defined]
        return Answer("stale", ORIGIN)

    leader.query = slow  # type: ignore[assignment]
    assert here.read(leader).value == "stale"  # it began before the bump
    leader.thread.join()  # type: ignore[attr-defined]
    assert answers == ["fresh"]


def test_a_clock_that_goes_back_and_a_policy_that_fails_do_not_reach_the_reader() -> None:
    here, request = Here(), Request()

    def backwards(_need: ReadRequirement) -> Answer:
        here.now_ms -= 5_000
        return Answer("value", ORIGIN)

    request.query = backwards  # type: ignore[assignment]
    assert here.read(request).value == "value"

    class Failing(Request):
        def tags(self, _value: object) -> tuple[str, ...]:
            raise KeyError("no such argument")

    assert Here().read(Failing()).value == "value"


def test_a_process_forked_off_leads_its_own_flights() -> None:
    flights = Flights()
    leads(flights)
    child = os.fork()
    if child == 0:
        os._exit(0 if leads(flights) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not leads(flights)


def leads(flights: Flights) -> bool:
    turn = Turn(flights, "t", "e", 0, 1)
    turn.join(MISS)
    return turn.leads


def test_a_primary_that_fails_once_the_answer_is_there_is_no_matter() -> None:
    here, request = Here(), Request(origin=Origin(0, History(1), ""))

    def fails(_tenant: str) -> None:
        raise OSError("gone")

    here.recovery.create_root = fails  # type: ignore[assignment,method-assign]
    assert here.read(request).value == "value"
    assert StoreFailed("make", "gone") in here.events
