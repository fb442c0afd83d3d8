"""Python processes beside a test, which talk to it by lines of JSON on their standard input and output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

_SUPPORT: Final = str(Path(__file__).parent.parent)


class Child:
    """A module of this package, run as a program; ends with its context.

    Args:
        module: its name in this package.
        argument: handed to it, as JSON on its command line.
    """

    def __init__(self, module: str, argument: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"real_servers.{module}", json.dumps(argument)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": _SUPPORT},
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, message: Any) -> None:
        """Send one message."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """The next message; what is wrong with the child stands on its standard error."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the child ended with {self._process.wait()}"
        return json.loads(line)

    def ask(self, message: Any) -> Any:
        """Send one message, and wait for the answer."""
        self.tell(message)
        return self.hear()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
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
