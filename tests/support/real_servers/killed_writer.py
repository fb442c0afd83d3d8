"""A fork server whose children each make one write through a gate and are killed at a step of it.

A child shows that it has come to its step by a byte on a pipe, and goes no further; then it is sent SIGKILL. The steps
are hooks on the objects that the child holds: the product knows nothing of them.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Final, NoReturn

import tidegate
from real_servers.subprocesses import argument, hear, tell
from real_servers.versioned_tenant import Book

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS: Final = (
    "before the statement",
    "before the intent",
    "intent open",
    "COMMIT sent",
    "after COMMIT",
    "before the stamp",
    "after the stamp",
)
RETURNED: Final = "returned"
"""No step of a write, but its end: the caller has it back."""


class Killing:
    """Where one child is to stop."""

    def __init__(self, gate: tidegate.Gate, step: str, reached: int) -> None:
        self._step = step
        self._reached = reached
        store, commit = gate._parts.store, gate._shards.every[0].watch.protocol
        assert store is not None
        self._around(store, "open", before="before the intent", after="intent open")
        self._around(commit, "after_commit", before="after COMMIT")
        self._around(store, "stamp_soon", before="before the stamp", after="after the stamp")
        if step == "COMMIT sent":
            gate.engine.dialect.do_commit = self._send_commit  # type: ignore[method-assign,assignment]

    def at(self, step: str) -> None:
        """Stop for good if this is the step."""
        if step == self._step:
            os.write(self._reached, b".")
            while True:
                signal.pause()

    def _around(self, owner: Any, name: str, *, before: str = "", after: str = "") -> None:
        method: Callable[..., Any] = getattr(owner, name)

        def hooked(*args: Any, **kwargs: Any) -> Any:
            self.at(before)
            answer = method(*args, **kwargs)
            self.at(after)
            return answer

        setattr(owner, name, hooked)

    def _send_commit(self, raw: Any) -> None:
        if threading.current_thread() is not threading.main_thread():  # the outbox's
            raw.commit()
            return
        libpq = raw.driver_connection.pgconn
        libpq.send_query(b"COMMIT")
        while libpq.flush():
            pass
        self.at("COMMIT sent")


def _write(settings: tidegate.Settings, book: Book, step: str, reached: int, broken: str) -> None:
    gate = tidegate.connect(settings)
    if broken == "no intent":
        gate._parts.store.open = lambda *_: None  # type: ignore[method-assign,union-attr]
    killing = Killing(gate, step, reached)
    with gate.session(book.tenant) as session:
        session.connection()
        killing.at("before the statement")
        book.write(session)
        session.commit()
        killing.at(RETURNED)


def _child(*args: Any) -> NoReturn:
    try:
        _write(*args)
    except BaseException as error:  # noqa: BLE001  # the child must not go on as the server
        os.write(2, f"writer: {error!r}\n".encode())
    finally:
        os._exit(1)


def _kill_one(settings: tidegate.Settings, book: Book, step: str, dwell_s: float, broken: str) -> bool:
    """Whether the child came to its step, and was killed there."""
    arrival, reached = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(arrival)
        _child(settings, book, step, reached, broken)
    os.close(reached)
    arrived = os.read(arrival, 1) == b"."
    os.close(arrival)
    time.sleep(dwell_s)  # what is tried here: a writer that stands still for so long at that step
    os.kill(child, signal.SIGKILL)
    return arrived and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def _warm_up(settings: tidegate.Settings, book: Book) -> None:
    """Import and configure what a write needs, once for all children; nothing runs any more when this returns."""
    with tidegate.connect(settings) as gate, gate.session(book.tenant) as session:
        book.write(session)
        session.rollback()


def main() -> None:
    """Argument: settings, books, the seed. Each message names a step, and gets whether a child was killed there."""
    given = argument()
    settings = tidegate.Settings.model_validate(given["settings"])
    books = [Book(**book) for book in given["books"]]
    random.seed(given["seed"])
    _warm_up(settings, books[0])
    tell("ready")
    while (message := hear()) is not None:
        dwell_s = random.choice((0, 0, 0.002, 0.02))  # noqa: S311  # no secret
        tell(_kill_one(settings, random.choice(books), message["step"], dwell_s, message["broken"]))  # noqa: S311


if __name__ == "__main__":
    main()
