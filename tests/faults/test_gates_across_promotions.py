"""Gates that were suspended, forked, or made before and after a promotion: the first answer of each is right."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn, Self

import pytest
from real_servers.deadlines import patient
from real_servers.one_tenant import comes_to_read, goes_on_writing, warm
from real_servers.replicated import Scene, caught_up, opened, pair_of, written
from sqlalchemy.exc import DBAPIError

from tidegate.errors import RoutingError
from tidegate.proxy.embedded.process import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from tidegate.proxy.embedded import Cluster


class Forked:
    """A process that was forked from this one, and reads or writes when it is told to.

    Args:
        scene: makes or hands on the gate that it uses.
        tenant: whose notes.
    """

    def __init__(self, scene: Callable[[], AbstractContextManager[Scene]], tenant: str) -> None:
        (self._asked, self._ask), (self._answers, self._answer) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._serve(scene, tenant)

    def _serve(self, scene: Callable[[], AbstractContextManager[Scene]], tenant: str) -> NoReturn:
        try:
            with scene() as own, os.fdopen(self._asked) as asked:
                own.tenant = tenant
                for line in asked:
                    words = json.loads(line)
                    answer: list[str] | None = None
                    with suppress(DBAPIError, RoutingError):  # its primary is away
                        answer = own.read() if words is None else [own.write(words)]
                    os.write(self._answer, (json.dumps(answer) + "\n").encode())
        finally:
            os._exit(0)

    def does(self, words: str | None = None) -> list[str]:
        """What it reads, or its write of *words*, as soon as it can."""
        found: list[str] = []

        def answered() -> bool:
            os.write(self._ask, (json.dumps(words) + "\n").encode())
            answer = json.loads(self._line())
            if answer is not None:
                found[:] = answer
            return answer is not None

        wait_for(answered, "it answers", patient(20))
        return found

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(self._answers, 65_536)
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def test_a_process_that_was_suspended_through_a_promotion(two: Cluster) -> None:
    primary, replica, given = pair_of(two)
    with Forked(lambda: opened(given), "suspended") as other, opened(given) as scene:
        scene.tenant = "suspended"
        scene.write("one")
        assert warm(scene) == other.does() == other.does() == ["one"]
        os.kill(other.pid, signal.SIGSTOP)
        caught_up(primary, replica)
        primary.kill()
        replica.promote()
        goes_on_writing(scene, "two")
        assert warm(scene) == ["one", "two"]
        os.kill(other.pid, signal.SIGCONT)
        assert other.does() == ["one", "two"]
        other.does("three")
        assert scene.read() == warm(scene) == other.does() == ["one", "two", "three"]


def test_a_child_that_was_forked_before_a_promotion(two: Cluster) -> None:
    primary, replica, given = pair_of(two)
    with opened(given) as scene:
        scene.write("one")
        assert warm(scene) == ["one"]
        with Forked(lambda: Borrowed(scene), scene.tenant) as child:
            assert child.does() == ["one"]
            caught_up(primary, replica)
            primary.kill()
            replica.promote()
            goes_on_writing(scene, "two")
            assert child.does() == ["one", "two"]
            child.does("three")
            assert scene.read() == warm(scene) == child.does() == ["one", "two", "three"]
            assert written(replica, scene.tenant) == ["one", "two", "three"]


class Borrowed:
    """A scene that is another process's: it is not closed here."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def __enter__(self) -> Scene:
        return self._scene

    def __exit__(self, *exc: object) -> None:
        pass


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("flushed", [False, True])
def test_gates_of_before_and_of_after_a_promotion(left: bool, flushed: bool, two: Cluster) -> None:
    primary, replica, given = pair_of(two)
    with opened(given) as before:
        before.write("one")
        assert warm(before) == ["one"]
        caught_up(primary, replica)
        if not left:
            primary.kill()
        if flushed:
            two.cache.flush()
        replica.promote()
        with opened(given) as after:
            after.tenant = before.tenant
            goes_on_writing(after, "two")
            assert after.read() == ["one", "two"]
            comes_to_read(before, "one", "two")
            if flushed:
                two.cache.flush()
            so_far = ["one", "two"]
            for turn in range(5):
                (before, after)[turn % 2].write(f"{turn}")
                so_far.append(f"{turn}")
                assert before.read() == after.read() == so_far
            assert warm(before) == warm(after) == so_far == written(replica, before.tenant)
