"""Warm a server of several processes: each is asked everything once, so that nobody's start is measured."""

from __future__ import annotations

import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import psutil

from real_dify.checkout import DifyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_PATIENCE_S: Final = 600.0


def warm(master: int, workers: int, port: int, paths: Iterable[str], headers: Mapping[str, str]) -> None:
    """Ask each worker everything: a connection stays with the worker that has accepted it.

    Args:
        master: the id of the process whose children the workers are.
        workers: how many there are.
        port: of the server, on this machine.
        paths: everything that is asked.
        headers: of every request.

    Raises:
        DifyError: some worker accepts no connection.
    """
    asked, until, found = list(paths), time.monotonic() + _PATIENCE_S, dict[int, Any]()
    with ExitStack() as opened:
        while len(found) < workers:
            if time.monotonic() > until:
                raise DifyError(f"{workers - len(found)} of {workers} workers accept no connection")
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
            opened.callback(connection.close)
            connection.request("GET", "/health")
            connection.getresponse().read()
            found[_accepted_by(master, connection.sock.getsockname()[1])] = connection
        with ThreadPoolExecutor(workers) as pool:
            for done in [pool.submit(_ask, connection, asked, headers) for connection in found.values()]:
                done.result()


def _accepted_by(master: int, port: int) -> int:
    """Return the id of the worker that has the other end of a connection from *port*."""
    for worker in psutil.Process(master).children():
        if any(one.raddr and one.raddr.port == port for one in worker.net_connections("tcp")):
            return worker.pid
    raise DifyError(f"no worker has the connection from port {port}")


def _ask(connection: http.client.HTTPConnection, paths: Iterable[str], headers: Mapping[str, str]) -> None:
    for path in paths:
        connection.request("GET", path, headers=dict(headers))
        connection.getresponse().read()
