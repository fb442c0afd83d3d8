"""Python processes beside a test, which talk to it by lines of JSON on their standard input and output."""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

import psutil

_SUPPORT: Final = str(Path(__file__).parent.parent)


@cache
def _nursery() -> socket.socket:
    """The line to the process that forks children; there is one for each process of the suite."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "real_servers.nursery", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=os.environ | {"PYTHONPATH": _SUPPORT},
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


class Child:
    """A module of this package, run as a program; ends with its context.

    Args:
        module: its name in this package.
        argument: handed to it, as JSON on its command line.
        fresh: it must come before all imports, and so takes a second longer.
    """

    def __init__(self, module: str, argument: Any, *, fresh: bool = False) -> None:
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        line = _nursery()
        socket.send_fds(line, [json.dumps([module, json.dumps(argument), fresh]).encode()], [theirs_in, theirs_out])
        self.pid = int(line.recv(32))
        self._process = psutil.Process(self.pid)
        os.close(theirs_in)
        os.close(theirs_out)
        self._input = os.fdopen(ours_in, "w", encoding="utf-8")
        self._output = os.fdopen(ours_out, encoding="utf-8")

    def tell(self, message: Any) -> None:
        """Send one message."""
        self._input.write(json.dumps(message) + "\n")
        self._input.flush()

    def hear(self) -> Any:
        """The next message; what is wrong with the child stands on its standard error."""
        line = self._output.readline()
        assert line, "the child has ended"
        return json.loads(line)

    def ask(self, message: Any) -> Any:
        """Send one message, and wait for the answer."""
        self.tell(message)
        return self.hear()

    def kill(self) -> None:
        """SIGKILL."""
        with suppress(psutil.NoSuchProcess):
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        for pipe in (self._input, self._output):
            with suppress(BrokenPipeError):
                pipe.close()


def argument() -> Any:
    """What this child was given."""
    return json.loads(sys.argv[1])


def hear() -> Any:
    """The next message of the test, None when there is none to come."""
    line = sys.stdin.readline()
    return json.loads(line) if line else None


def tell(message: Any) -> None:
    """Send the test one message."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
