"""Server processes: which user they run as, and how they are started, ended and found again."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from tidegate.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

START_TIMEOUT_S: Final = 120.0
"""Of a machine that has much else to do; a program that ends is noticed at once."""
_POLL_S: Final = 0.02
_LOG_LINES: Final = 15


def server_user() -> dict[str, Any]:
    """Return arguments for ``Popen``. PostgreSQL refuses to run as root, so root starts the servers as nobody."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def give_to_server(path: Path) -> None:
    """Make the servers' user the owner of *path* and of all in it."""
    user = server_user()
    if not user:
        return
    for entry in (path, *path.rglob("*")):
        os.chown(entry, user["user"], user["group"], follow_symlinks=False)


def servers_pass_through(folder: Path) -> bool:
    """Tell whether the servers' user can reach what is in *folder*, if it is another user than this process's."""
    return not server_user() or all(step.stat().st_mode & 0o001 for step in (folder, *folder.resolve().parents))


def temporary_folder() -> Path:
    """Return the folder for temporary files, one that the servers' user can enter."""
    # root's own temporary folder may be closed to others (macOS, pam_tmpdir), and root's servers run as nobody.
    usual = Path(tempfile.gettempdir())
    return usual if servers_pass_through(usual) else Path("/tmp")  # noqa: S108  # each caller makes a folder of its own in it


def run(command: Sequence[str], cwd: Path) -> None:
    """Run *command* to its end as the servers' user.

    Raises:
        EmbeddedServerError: it cannot be run, or it failed; the message ends with what it printed.
    """
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, **server_user())  # noqa: S603  # fixed programs
    except OSError as error:
        raise EmbeddedServerError(f"{command[0]} cannot be run in {cwd} by the servers' user: {error}") from error
    if done.returncode:
        raise EmbeddedServerError(f"{Path(command[0]).name} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def free_port() -> int:
    """Return a loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = START_TIMEOUT_S) -> None:
    """Wait until *condition* holds.

    Args:
        condition: is asked again and again.
        what: what is waited for, for the message.
        timeout_s: how long to wait, in seconds.

    Raises:
        EmbeddedServerError: *condition* does not hold in time.
    """
    try:
        Retrying(
            retry=retry_if_result(lambda holds: not holds),
            stop=stop_after_delay(timeout_s),
            wait=wait_fixed(_POLL_S),
        )(condition)
    except RetryError:
        raise EmbeddedServerError(f"{what}: this did not happen within {timeout_s:g} s") from None


class ServerProcess:
    """Start and end one server program, as often as needed.

    Args:
        name: for messages and file names.
        folder: its working folder. Its log and a note of its process are beside that folder.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = folder
        self._log = folder.parent / f"{name}.log"
        self._note = folder.parent / f"{name}.process.json"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Tell whether the program runs; one that is stopped by a signal counts as running."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Return the number of the process that was started last; None: none was."""
        return None if self._process is None else self._process.pid

    def start(self, command: Sequence[str], answers: Callable[[], bool]) -> None:
        """Start the program, and wait until it *answers*.

        Raises:
            EmbeddedServerError: it runs already, ended at once, or does not answer in time; the message ends with its
                log.
        """
        if self.running:
            raise EmbeddedServerError(f"{self.name} runs already")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  # fixed programs
                command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **server_user(),
            )
        self._note.write_text(json.dumps({"pid": self._process.pid}), encoding="utf-8")
        try:
            wait_for(lambda: not self.running or answers(), f"{self.name} answers")
        except EmbeddedServerError as error:
            raise EmbeddedServerError(f"{error}\n{self.log_tail()}") from None
        if not self.running:
            raise EmbeddedServerError(f"{self.name} ended while it started\n{self.log_tail()}")

    def signal(self, signum: int) -> None:
        """Send *signum* to the program, if it runs."""
        if self._process is not None and self.running:
            self._process.send_signal(signum)

    def signal_all(self, signum: int) -> None:
        """Send *signum* to the program, and then to its children: a program that is stopped starts no more of them."""
        self.signal(signum)
        for process in self._family()[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signum)

    def end(self, signum: int, timeout_s: float = 60.0) -> None:
        """Send *signum*, and wait until the program and its children are gone; kill them after *timeout_s* seconds."""
        if self._process is None or not self.running:
            return
        family = self._family()
        self._process.send_signal(signum)
        for process in family:  # a stopped process notices nothing, not even that its parent is gone
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        _, alive = psutil.wait_procs(family, timeout=timeout_s)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=timeout_s)
        self._process.wait()

    def _family(self) -> list[psutil.Process]:
        if self._process is None or not self.running:
            return []
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    def log_tail(self) -> str:
        """Return the last lines of the log."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines() if self._log.exists() else []
        return "\n".join(lines[-_LOG_LINES:])
