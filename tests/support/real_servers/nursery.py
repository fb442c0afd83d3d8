"""A process that has imported what the children of tests need, and forks each of them: the import takes a second."""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import sys
from typing import Final

import psycopg
import redis
import sqlalchemy.orm

import tidegate
from real_servers import versioned_tenant

IMPORTED: Final = (psycopg, redis, sqlalchemy.orm, tidegate, versioned_tenant)
LONGEST: Final = 1 << 20
"""Bytes of a request, at most: the module's name, the argument of the child, and whether it imports all anew."""


def serve(line: socket.socket) -> None:
    """Fork a child for each request, with the request's pipes as its standard input and output; answer with its id."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them here
    while True:
        request, pipes, _, _ = socket.recv_fds(line, LONGEST, 2)
        if not request:
            return
        child = os.fork()
        if child == 0:
            line.close()
            _become(*json.loads(request), *pipes)
        line.send(str(child).encode())
        for pipe in pipes:
            os.close(pipe)


def _become(module: str, argument: str, fresh: bool, standard_input: int, standard_output: int) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(standard_input, 0)
    os.dup2(standard_output, 1)
    os.close(standard_input)
    os.close(standard_output)
    if fresh:
        os.execv(sys.executable, [sys.executable, "-m", f"real_servers.{module}", argument])  # noqa: S606  # our own
    sys.argv = [module, argument]
    try:
        runpy.run_module(f"real_servers.{module}", run_name="__main__", alter_sys=True)
    finally:
        sys.stdout.flush()
    sys.exit()


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
