"""A checkout of Dify on this machine, and the Python that has its packages: found, and asked whether they will do."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[3]
INSIDE: Final = ROOT / "tests" / "dify" / "inside"
"""What is imported by Dify's processes: the folder for their PYTHONPATH."""
STARTUP: Final = ROOT / "src" / "tidegate" / "proxy" / "dify" / "startup"
_NEEDED: Final = ("pytest", "testcontainers", "psycopg", "msgpack", "typer", "pydantic_settings", "tenacity")
_PROBE: Final = (
    "import importlib.util as u, json, sys; "
    "print(json.dumps({'version': sys.version.split()[0], 'there': [m for m in sys.argv[1:] if u.find_spec(m)]}))"
)


class DifyError(Exception):
    """Something is missing; the message says what, and what to do."""


@dataclass(frozen=True, slots=True)
class Dify:
    """A checkout that can be run.

    Args:
        api: its folder ``api``.
        python: the Python of its environment.
        version: of its ``pyproject.toml``.
        there: the modules beside the needed ones that its Python has.
    """

    api: Path
    python: Path
    version: str
    there: frozenset[str]

    def environment(self, *folders: Path, **more: str) -> dict[str, str]:
        """Return the environment of a process of Dify's: this one's, without what would change what it does.

        Args:
            folders: for PYTHONPATH, before this project's own code.
            more: further variables.
        """
        paths = os.pathsep.join(map(str, (*folders, ROOT / "src")))
        return _environment() | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"} | more


def checkout(api: Path) -> Path:
    """Return the folder ``api`` of a checkout.

    Raises:
        DifyError: it is none.
    """
    for folder in (api, api / "api"):
        if (folder / "models" / "workflow.py").is_file() and (folder / "app_factory.py").is_file():
            return folder.resolve()
    raise DifyError(f"there is no Dify in {api}: name the folder 'api' of a checkout, where app_factory.py is")


def version_of(api: Path) -> str:
    """Return the version that a checkout says it has."""
    found = re.search(r'^version = "([^"]+)"', (api / "pyproject.toml").read_text(), re.MULTILINE)
    return found.group(1) if found else "unknown"


def find_dify(api: Path, python: Path | None) -> Dify:
    """Return a checkout with a Python that can run it.

    Args:
        api: its folder ``api``, or the one that has it.
        python: the Python of its environment; None: the one beside.

    Raises:
        DifyError: there is none, or packages are missing there.
    """
    api = checkout(api)
    python = python or api / ".venv" / "bin" / "python"
    if not python.is_file():
        raise DifyError(
            f"there is no Python {python}: make Dify's environment (uv sync --frozen in {api}), or name one that has "
            "its packages by DIFY_PYTHON=path/to/python"
        )
    optional = ("pytest_cov", "pytest_timeout")
    found = _answer([str(python), "-c", _PROBE, *_NEEDED, *optional], api)
    there = frozenset(found["there"])
    missing = [name for name in _NEEDED if name not in there]
    if {"pytest", "testcontainers"} & set(missing):
        raise DifyError(f"{python} has no {' and no '.join(missing)}: Dify's own tests need its development packages")
    if missing:
        raise DifyError(f"{python} has no {' and no '.join(missing)}: uv pip install --python {python} {ROOT}")
    return Dify(api, python, version_of(api), there)


def _environment() -> dict[str, str]:
    """Return this process's environment without what would change how another Python runs, or what Tidegate does."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("TIDEGATE_", "PYTHON"))}


def _answer(command: list[str], folder: Path) -> Any:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=_environment())
    if done.returncode:
        raise DifyError(f"{command[0]} does not run: {done.stderr.strip().rpartition(chr(10))[2]}")
    return json.loads(done.stdout)
