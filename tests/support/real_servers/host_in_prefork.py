"""A host's program whose worker is forked by billiard, as Celery's prefork pool does it.

The program has a gate before it forks, and has used it. Its one worker does what the test says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from billiard.pool import Pool
from sqlalchemy import text

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
        found = self._runs.get_workflow_run_by_id(self._host.TENANT, self._host.APP, self._host.run_id(number))
        return None if found is None else int(found.total_tokens)

    def backend(self) -> int:
        """Tell which of the server's processes answers."""
        with self._host.ENGINE.connect() as connection:
            return int(connection.scalar(text("SELECT pg_backend_pid()")) or 0)


_work: list[Work] = []


def _do(does: str, arguments: list[int]) -> Any:
    return getattr(_work[0], does)(*arguments)


def main() -> None:
    """Argument: see :func:`host_program_of.host_program`. Each order names who does something, and what."""
    work = Work(host_program(argument()))
    _work.append(work)
    for _ in range(3):
        work.read(1)
    pool: Any = Pool(1)
    while (order := hear()) is not None:
        who, does, *arguments = order
        tell(pool.apply_async(_do, (does, arguments)).get() if who == "worker" else _do(does, arguments))
    pool.terminate()


if __name__ == "__main__":
    main()
