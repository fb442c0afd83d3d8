"""What is counted of calls and events, and what is logged."""

from __future__ import annotations

import logging
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tidegate.cache.events import Bumped, Event, Missed, NotFilled, Served, StoreFailed
from tidegate.cache.marks import Refusal
from tidegate.cache.request import Answer, AnsweredBy
from tidegate.proxy.call import Call, Method
from tidegate.proxy.explanation import Explanation, uncached
from tidegate.proxy.layers.telemetry import Telemetry
from tidegate.proxy.observe import Counters, Log, all_of
from tidegate.proxy.observe import Event as AnyEvent
from tidegate.repositories.policies import Read

if TYPE_CHECKING:
    from collections.abc import Callable


def call(name: str = "Runs.read") -> Call:
    return Call(object(), Method(name.partition(".")[2], name, lambda: None), Read(), {}, "t", None)


class Below:
    """The layer below, which answers by *answer*."""

    def __init__(self, answer: Callable[[], Answer]) -> None:
        self._answer = answer

    def __call__(self, _call: Call) -> Answer:
        return self._answer()

    def explain(self, call: Call) -> Explanation:
        return uncached(call.shown())


def test_calls_are_counted_by_who_answered_them_and_timed() -> None:
    answers: list[AnsweredBy] = ["near", "store", "store", "flight", "node", "plain"]
    counters, who = Counters(), iter(answers)
    layer = Telemetry(counters, Below(lambda: Answer("value", None, "db:5432", next(who))))
    assert [layer(call()).answered_by for _ in range(6)] == answers
    assert counters.stats().nodes == {"db:5432": 6}
    (stats,) = counters.stats().methods.values()
    assert (stats.calls, stats.errors, stats.served, stats.missed) == (6, 0, 4, 1)
    assert stats.answered == {"near": 1, "store": 2, "flight": 1, "node": 1, "plain": 1}
    assert 0 < stats.seconds < 1


def test_an_exception_is_counted_and_raised_unchanged() -> None:
    counters, error = Counters(), LookupError("gone")

    def fail() -> Answer:
        raise error

    for guard, cached in ((None, True), ("g", True), ("g", False)):
        failing = call()._replace(policy=Read(guard=guard))
        with pytest.raises(LookupError) as raised:
            Telemetry(counters, Below(fail), cached=cached)(failing)
        assert raised.value is error
    stats = counters.stats().methods["Runs.read"]
    assert (stats.calls, stats.errors, stats.missed) == (3, 3, 1), "a query that failed was a miss"
    assert stats.answered == {"node": 1, "plain": 2}


def test_no_call_of_many_threads_is_lost() -> None:
    counters = Counters()
    layer = Telemetry(counters, Below(lambda: Answer(None)))
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=lambda: [layer(call()) for _ in range(500)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(usual)
    assert counters.stats().methods["Runs.read"].calls == 2_000


def test_events_other_than_answers_are_counted_by_name_and_reason() -> None:
    counters = Counters()
    told: list[Any] = []
    observer = all_of(counters, told.append)
    events: list[Event] = [
        Served("t", "near"),
        Served("u", "near"),
        Missed("t", Refusal.BUMPED),
        StoreFailed("read", "away"),
    ]
    events.append(Bumped(1, 3))
    for event in events:
        observer(event)
    assert counters.stats().events == {
        "Missed: a tag was bumped": 1,
        "StoreFailed: read": 1,
        "Bumped": 1,
    }
    assert told == events


def test_a_snapshot_does_not_change() -> None:
    counters = Counters()
    counters(Bumped(1, 1))
    before = counters.stats()
    counters(Bumped(1, 1))
    assert before.events == {"Bumped": 1}


def test_a_cache_that_is_away_is_one_line_in_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    log = Log(logging.getLogger("tidegate.test"), every_s=10, clock=lambda: now[0])
    with caplog.at_level(logging.WARNING, "tidegate.test"):
        for _ in range(5):
            log(StoreFailed("read", "away"))
        log(StoreFailed("stamp", "away"))
        log(Served("t", "near"))
        log(NotFilled("t", "too large"))
        now[0] = 10.0
        log(StoreFailed("read", "away"))
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "StoreFailed(where='read', detail='away')",
        "StoreFailed(where='stamp', detail='away')",
        "StoreFailed(where='read', detail='away') (and 4 more like it)",
    ]


def test_an_observer_that_raises_is_logged_once_and_the_others_are_told(caplog: pytest.LogCaptureFixture) -> None:
    told: list[AnyEvent] = []

    class Broken:
        __hash__ = None  # type: ignore[assignment]  # a program's own need not be hashable

        def __call__(self, _event: AnyEvent) -> None:
            raise LookupError("no such thing")

    tell = all_of(Broken(), told.append)
    for _ in range(3):
        tell(StoreFailed("read", "away"))
    assert len(told) == 3
    assert [line.count("no such thing") > 0 for line in caplog.messages] == [True]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_passes_an_observer(error: type[BaseException]) -> None:
    def broken(_event: AnyEvent) -> None:
        raise error

    with pytest.raises(error):
        all_of(broken)(StoreFailed("read", "away"))
