"""The monitor's thread, with lines that are the test's: it is asked when, told what, and waits for nothing else."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING

import pytest
from real_servers.deadlines import patient

from tidegate.position import NOWHERE
from tidegate.routing.replicas.monitor import Monitor, Pace
from tidegate.routing.replicas.topology import ServerId, View

if TYPE_CHECKING:
    from collections.abc import Iterator

VIEW = View(0.0, ServerId("1", "a"), standby=True, position=NOWHERE)
NEVER_S, SOON_S = 3600.0, 0.001


class Line:
    """Answers what it is given; a question for which there is nothing waits, until it is cut."""

    def __init__(self) -> None:
        self.answers: queue.Queue[View | Exception] = queue.Queue()
        self.asked = threading.Semaphore(0)
        self.was_cut = threading.Event()
        self.closed = threading.Event()

    def ask(self) -> View:
        self.asked.release()
        answer = self.answers.get(timeout=patient(30))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def cut(self) -> None:
        self.was_cut.set()
        self.answers.put(OSError("cut"))

    def close(self) -> None:
        self.closed.set()


class Watched:
    """A monitor, and what it told."""

    def __init__(self, pace: Pace) -> None:
        self.now_s = 0.0
        self.line = Line()
        self.told: queue.Queue[View | str] = queue.Queue()
        self.monitor = Monitor("a", self.line, self.told.put, self.told.put, pace, lambda: self.now_s)

    def asked(self) -> bool:
        return self.line.asked.acquire(timeout=patient(10))

    def answers(self, answer: View | Exception) -> View | str:
        self.line.answers.put(answer)
        return self.told.get(timeout=patient(10))


@pytest.fixture
def watched() -> Iterator[Watched]:
    made = Watched(Pace(idle_s=NEVER_S, wanted_s=SOON_S, most_s=1.0))
    yield made
    made.monitor.close()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (VIEW, VIEW),
        (OSError("connection refused\nIs the server running?"), "connection refused"),
        (OSError("x" * 1000), "x" * 200),
        (OSError(), "OSError"),
    ],
    ids=["a view", "the first line of an error", "which is cut short", "its type if it has no words"],
)
def test_an_answer_is_told(watched: Watched, answer: View | Exception, told: View | str) -> None:
    watched.monitor.ensure_started()
    assert watched.answers(answer) == told


def test_starting_twice_starts_one_thread(watched: Watched) -> None:
    for _ in range(2):
        watched.monitor.ensure_started()
    assert watched.asked()
    watched.answers(VIEW)
    assert [thread.name for thread in threading.enumerate()].count("tidegate-monitor a") == 1


def test_an_idle_node_is_asked_again_once_it_is_wanted(watched: Watched) -> None:
    watched.monitor.ensure_started()
    assert watched.asked()
    watched.answers(VIEW)
    watched.monitor.want()
    for _ in range(5):  # and goes on at that pace, without further wants
        assert watched.asked()
        watched.answers(VIEW)


def test_wants_do_not_make_it_ask_without_a_pause() -> None:
    watched = Watched(Pace(idle_s=NEVER_S, wanted_s=0.05, most_s=1.0))
    watched.monitor.ensure_started()
    began_s = time.monotonic()
    for _ in range(4):
        assert watched.asked()
        watched.answers(VIEW)
        for _ in range(100):
            watched.monitor.want()
    assert watched.asked()
    assert time.monotonic() - began_s > 3 * 0.05 * 0.8
    watched.monitor.close()


def test_the_pace_is_idle_again_when_nobody_has_wanted_it_for_a_while(watched: Watched) -> None:
    watched.monitor.ensure_started()
    assert watched.asked()
    watched.answers(VIEW)
    watched.monitor.want()
    assert watched.asked()
    watched.now_s += NEVER_S + 1
    watched.answers(VIEW)
    assert not watched.line.asked.acquire(timeout=20 * SOON_S)


STUCK = {
    "no question is under way": (None, 100.0, False),
    "not yet": (5.0, 5.9, False),
    "for too long": (5.0, 6.0, True),
}


@pytest.mark.parametrize(("asked_s", "now_s", "cut"), STUCK.values(), ids=STUCK)
def test_a_question_that_takes_too_long_is_cut(
    watched: Watched, asked_s: float | None, now_s: float, *, cut: bool
) -> None:
    if asked_s is not None:
        watched.now_s = asked_s
        watched.monitor.ensure_started()
        assert watched.asked()
    assert watched.monitor.cut_if_stuck(now_s) is cut
    assert watched.line.was_cut.is_set() is cut
    if cut:
        assert watched.told.get(timeout=patient(10)) == "cut"


def test_closing_ends_a_question_under_way_and_tells_nobody(watched: Watched) -> None:
    watched.monitor.ensure_started()
    assert watched.asked()
    watched.monitor.close()
    assert watched.line.closed.wait(patient(10))
    assert watched.told.empty()


def test_what_is_closed_is_not_started_again(watched: Watched) -> None:
    watched.monitor.close()
    watched.monitor.ensure_started()
    assert [thread.name for thread in threading.enumerate()].count("tidegate-monitor a") == 0


def test_asking_now_needs_no_thread(watched: Watched) -> None:
    watched.line.answers.put(VIEW)
    watched.monitor.ask_now()
    assert watched.told.get_nowait() == VIEW
    assert [thread.name for thread in threading.enumerate()].count("tidegate-monitor a") == 0
