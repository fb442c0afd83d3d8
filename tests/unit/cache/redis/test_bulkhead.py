"""Who waits for a silent server, step by step, without one."""

from __future__ import annotations

import threading

from real_servers.deadlines import patient

from tidegate.cache.redis.bulkhead import Bulkhead


def entered(waiters: Bulkhead, calls: int = 20) -> int:
    return sum(waiters.enter() for _ in range(calls))


def test_there_are_ten_places() -> None:
    waiters = Bulkhead(0.05)
    assert entered(waiters) == 10
    waiters.leave()
    assert entered(waiters) == 1


def test_a_place_that_waited_in_vain_is_free_again_when_somebody_is_answered() -> None:
    waiters = Bulkhead(0.05)
    assert entered(waiters, 4) == 4
    for _ in range(4):
        waiters.spend()
    assert entered(waiters) == 6
    waiters.answered()
    assert entered(waiters) == 4


def test_one_place_always_comes_back() -> None:
    waiters = Bulkhead(0.05)
    for _ in range(50):
        assert waiters.enter()
        waiters.spend()
    assert entered(waiters) == 1
    waiters.answered()
    assert entered(waiters) == 9


def test_silence_lasts_until_somebody_is_answered() -> None:
    waiters = Bulkhead(0.05)
    assert not waiters.silent
    assert not waiters.is_answering()
    assert waiters.silent
    waiters.answered()
    assert not waiters.silent


def test_a_late_report_of_silence_says_nothing_of_now() -> None:
    waiters = Bulkhead(0.05)
    before = waiters.answers
    waiters.answered()
    waiters.fell_silent(before)
    assert not waiters.silent


def test_whoever_waits_for_an_answer_hears_of_it() -> None:
    waiters = Bulkhead(300.0)
    heard: list[bool] = []
    listening = threading.Thread(target=lambda: heard.append(waiters.is_answering()))
    listening.start()
    while not waiters._listening:
        pass
    waiters.answered()
    listening.join(patient(30))
    assert heard == [True]
