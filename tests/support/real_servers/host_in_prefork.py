"""A host's program whose workers are forked, and time-limited, as Celery's prefork pool does it: by billiard.

The program has a gate before it forks, and has used it. Its one worker does what the test says.
"""

from __future__ import annotations

import gc
import os
import time
from typing import TYPE_CHECKING, Any

from billiard.exceptions import SoftTimeLimitExceeded
from billiard.pool import Pool
from sqlalchemy import text

from real_servers.deadlines import patient
from real_servers.host_program_of import host_program
from real_servers.subprocesses import argument, hear, tell

if TYPE_CHECKING:
    from types import ModuleType


class Work:
    """What a worker does; it has it from its parent.

    Args:
        host: the host's program.
    """

    def __init__(self, host: ModuleType) -> None:
        self._host = host
        self._runs, _ = host.repositories()

    def read(self, number: int) -> int | None:
        """Read a run by a gated repository; its tokens."""
        found = self._found(number)
        return None if found is None else int(found.total_tokens)

    def _found(self, number: int) -> Any:
        return self._runs.get_workflow_run_by_id(self._host.TENANT, self._host.APP, self._host.run_id(number))

    def hit(self, number: int) -> int | None:
        """Read a run until the cache answers: a process that was forked first looks what it is not told of."""
        before, until = self._hits(), time.monotonic() + patient(10)
        found = self.read(number)
        while self._hits() == before and time.monotonic() < until:
            found = self.read(number)
        return found

    def _hits(self) -> int:
        return int(self._host.stats().get("get_workflow_run_by_id", {}).get("served", 0))

    def write(self, number: int, tokens: int) -> int:
        """Change a run as the host's own code does."""
        with self._host.MAKER() as session, session.begin():
            session.execute(
                text("UPDATE workflow_runs SET total_tokens = :tokens WHERE id = :id"),
                {"id": self._host.run_id(number), "tokens": tokens},
            )
        return tokens

    def late(self, begun: int, does: str, *arguments: int) -> Any:
        """Say that it has begun, on the pipe *begun*, and do it."""
        os.write(begun, b".")
        return getattr(self, does)(*arguments)

    def left(self) -> dict[str, int]:
        """Tell what is left of what was done before: connections in use, and flights."""
        from tidegate.cache.single_flight import Flights

        flights = sum(len(one._flights) for one in gc.get_objects() if isinstance(one, Flights))
        until = time.monotonic() + patient(10)
        # The thread beside uses one now and then, and an exception holds the frames that it came through.
        while (connections := self._host.ENGINE.pool.checkedout()) and time.monotonic() < until:
            gc.collect()
            time.sleep(0.01)
        return {"connections": connections, "flights": flights}

    def backend(self) -> int:
        """Tell which of the server's processes answers."""
        with self._host.ENGINE.connect() as connection:
            return int(connection.scalar(text("SELECT pg_backend_pid()")) or 0)


_work: list[Work] = []


def _do(does: str, arguments: list[Any]) -> Any:
    return getattr(_work[0], does)(*arguments)


def main() -> None:
    """Argument: see :func:`host_program_of.host_program`. Each order names who does something, and what."""
    work = Work(host_program(argument()))
    _work.append(work)
    for _ in range(3):
        work.read(1)
    begun, told = os.pipe()
    pool = Pool(1, soft_timeout=3600.0)  # the limit comes when the test says so
    asked: Any = None
    while (order := hear()) is not None:
        who, *rest = order
        does, arguments = (rest[0], rest[1:]) if rest else ("", [])
        if who == "parent":
            tell(getattr(work, does)(*arguments))
        elif who == "worker":
            tell(_outcome(pool.apply_async(_do, (does, arguments))))
        elif who == "late":
            asked = pool.apply_async(_do, ("late", [told, does, *arguments]))
            os.read(begun, 1)
            tell(pool._pool[0].pid)
        else:
            tell(_outcome(asked))
    pool.terminate()


def _outcome(asked: Any) -> Any:
    try:
        return asked.get()
    except SoftTimeLimitExceeded as error:
        return type(error).__name__


if __name__ == "__main__":
    main()
