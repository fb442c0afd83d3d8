"""A host's program whose engine has options and listeners as Dify's has them, and reads from replicas."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import event
from sqlalchemy.pool import Pool

from real_servers.deadlines import patient
from real_servers.host_program_of import host_program
from real_servers.subprocesses import argument, hear, tell


def main() -> None:
    """Argument: see :func:`host_program_of.host_program`. Says what the listeners were told, and stays until told."""
    told: set[tuple[str, str]] = set()

    def listen(name: str, *, resets: bool) -> Any:
        def reset(raw: Any, _record: Any, _state: Any) -> None:
            told.add((name, str(raw.info.port)))
            if resets:
                raw.rollback()

        return reset

    event.listen(Pool, "reset", listen("all pools", resets=True))
    given = argument()
    host = host_program(given)
    event.listen(host.ENGINE, "reset", listen("the engine's pool", resets=False))
    runs, _ = host.repositories()
    until = time.monotonic() + patient(30)
    while len(told) < given["enough"] and time.monotonic() < until:
        assert runs.get_workflow_run_by_id(host.TENANT, host.APP, host.run_id(1)).total_tokens == 0
    tell(sorted(told))
    hear()


if __name__ == "__main__":
    main()
