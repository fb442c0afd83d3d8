"""Whom the primary lets in. The clock is the test's; who waits does so in a thread."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from real_servers.deadlines import patient

from tidegate.errors import Overloaded
from tidegate.proxy.embedded.process import wait_for
from tidegate.routing.replicas.admission import Admission

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT_S = 20.0


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Door:
    """An admission with a clock of its own, and threads that wait before it."""

    def __init__(self, limit: int, most_wait_s: float = WAIT_S) -> None:
        self.clock = Clock()
        self.admission = Admission(limit, most_wait_s=most_wait_s, clock=self.clock)
        self.came_in: list[str] = []
        self._pool = ThreadPoolExecutor(max_workers=64)

    def occupied(self, places: int, tenant: str = "inside") -> ExitStack:
        """These places are taken until the stack is closed."""
        stack = ExitStack()
        for _ in range(places):
            stack.enter_context(self.admission.admitted(tenant))
        return stack

    def take(self, seconds: float) -> None:
        """One call that takes so long."""
        with self.admission.admitted("inside"):
            self.clock.now_s += seconds

    def comes(self, tenant: str) -> Future[None]:
        """Somebody comes, and waits when this returns, or has been refused."""
        before = self.waiting()
        come = self._pool.submit(self._comes, tenant)
        wait_for(lambda: come.done() or self.waiting() > before, f"{tenant} waits")
        return come

    def waiting(self) -> int:
        return len(self.admission._waiting)

    def close(self) -> None:
        self._pool.shutdown()

    def _comes(self, tenant: str) -> None:
        with self.admission.admitted(tenant):
            self.came_in.append(tenant)


@pytest.fixture
def one() -> Iterator[Door]:
    door = Door(1)
    yield door
    door.close()


@pytest.fixture
def four() -> Iterator[Door]:
    door = Door(4)
    yield door
    door.close()


def test_as_many_are_in_as_there_are_places(four: Door) -> None:
    with four.occupied(4):
        come = four.comes("a")
        assert not come.done()
    come.result(patient(10))
    assert (four.admission._in, four.waiting()) == (0, 0)


def test_who_waits_longest_comes_first(one: Door) -> None:
    one.take(0.01)
    with one.occupied(1):
        come = [one.comes(tenant) for tenant in "abc"]
    wait(come, 10)
    assert one.came_in == ["a", "b", "c"]


def test_nobody_overtakes_those_who_wait() -> None:
    admission = Admission(1, most_wait_s=0.0)
    admission._waiting.append(("a", threading.Event()))
    with pytest.raises(Overloaded), admission.admitted("b"):
        pass


def test_who_would_wait_for_too_long_is_told_at_once(one: Door) -> None:
    one.take(8.0)  # so that a third would wait for 24 s
    with one.occupied(1):
        come = [one.comes("a"), one.comes("b")]
        with pytest.raises(Overloaded, match="serves 1 reads of this process at a time, and 2 wait already"):
            one.comes("c").result(0)
    wait(come, 10)
    assert sorted(one.came_in) == ["a", "b"]


def test_how_long_calls_take_is_learned(one: Door) -> None:
    one.take(30.0)
    with one.occupied(1), pytest.raises(Overloaded):
        one.comes("a").result(0)
    for _ in range(60):
        one.take(0.01)
    with one.occupied(1):
        come = one.comes("a")
    come.result(patient(10))


def test_one_tenant_does_not_take_the_places_of_all(four: Door) -> None:
    four.take(10.0)  # eight can wait for two rounds
    with four.occupied(4):
        come = [four.comes("loud") for _ in range(4)]
        assert not any(one.done() for one in come)
        with pytest.raises(Overloaded):
            four.comes("loud").result(0)
        come.append(four.comes("quiet"))
        assert not come[-1].done()
    wait(come, 10)
    assert sorted(four.came_in) == ["loud"] * 4 + ["quiet"]


def test_a_tenant_may_always_wait_once(one: Door) -> None:
    one.take(19.0)
    with one.occupied(1):
        come = one.comes("a")
        assert not come.done()
    come.result(patient(10))


def test_waiting_ends_after_its_time() -> None:
    door = Door(1, most_wait_s=0.05)
    with door.occupied(1):
        come = door.comes("a")
        with pytest.raises(Overloaded, match=r"not this call's turn within 0\.05 s"):
            come.result(patient(10))
        assert (door.waiting(), dict(door.admission._waiting_of)) == (0, {})
    assert door.admission._in == 0
    door.close()


def test_what_fails_inside_gives_its_place_back(one: Door) -> None:
    with pytest.raises(ZeroDivisionError), one.admission.admitted("a"):
        raise ZeroDivisionError
    one.take(1.0)
    assert one.admission._in == 0


class GiveUp(BaseException):
    """As a time-out of gevent's, or SystemExit by a signal."""


@pytest.mark.parametrize("let_in", [False, True], ids=["before its turn", "as its turn comes"])
def test_who_is_torn_away_from_waiting_leaves_no_place_behind(
    one: Door, monkeypatch: pytest.MonkeyPatch, *, let_in: bool
) -> None:
    inside = one.occupied(1)

    class Torn(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if let_in:
                inside.close()
            raise GiveUp(timeout)

    with monkeypatch.context() as patched:
        patched.setattr("tidegate.routing.replicas.admission.threading.Event", Torn)
        with pytest.raises(GiveUp), one.admission.admitted("a"):
            pass
    inside.close()
    assert (one.admission._in, one.waiting(), dict(one.admission._waiting_of)) == (0, 0, {})
