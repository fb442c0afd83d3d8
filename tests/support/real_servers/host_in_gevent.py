"""A host's program under gevent and psycogreen: one greenlet obeys the test, and others do what it says beside it."""

# ruff: noqa: E402  # the order is the point
from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import json
import sys
from typing import Any

import gevent
from gevent.fileobject import FileObject
from psycogreen.gevent import patch_psycopg

from real_servers.host_program_of import host_program
from real_servers.subprocesses import argument, tell


def main() -> None:
    """Argument: see :func:`host_program_of.host_program`, and ``patched``: whether psycogreen is used at all."""
    given = argument()
    if given["patched"]:
        patch_psycopg()
    host = host_program(given)
    runs, _ = host.repositories()

    def read(number: int) -> int | None:
        found = runs.get_workflow_run_by_id(host.TENANT, host.APP, host.run_id(number))
        return None if found is None else int(found.total_tokens)

    def write(number: int, tokens: int) -> int:
        with host.MAKER() as session, session.begin():
            session.get(sys.modules["models.workflow"].WorkflowRun, host.run_id(number)).total_tokens = tokens
        return tokens

    does: dict[str, Any] = {"read": read, "write": write}
    doing: list[Any] = []
    with FileObject(sys.stdin.fileno(), "r", close=False) as orders:
        for line in orders:
            order, *arguments = json.loads(line)
            if order == "stats":
                tell(host.stats())
            elif order == "alive":
                tell([greenlet.ready() for greenlet in doing])
            elif order == "result":
                tell(doing.pop().get())
            else:
                doing.append(gevent.spawn(does[order], *arguments))
                gevent.sleep(0)  # it goes on until it waits for the first time
                tell("begun")


if __name__ == "__main__":
    main()
