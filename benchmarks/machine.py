"""What a benchmark ran on: the machine, and the versions of what took part."""

from __future__ import annotations

import os
import platform
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil
from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy import Engine

_PACKAGES: Final = ("tidegate", "sqlalchemy", "psycopg")


def machine() -> dict[str, Any]:
    """Return the cores that this process may use, the memory in bytes, the processor's name, and the system."""
    # os.process_cpu_count() says the same from Python 3.13 on.
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cores": usable,
        "memory_bytes": psutil.virtual_memory().total,
        "cpu": _cpu(),
        "system": platform.platform(),
    }


def versions(engine: Engine) -> dict[str, str]:
    """Return the versions of Python, of the packages that took part, and of the server of *engine*."""
    with engine.connect() as connection:
        server = connection.scalar(text("SHOW server_version"))
    packages = {name: version(name) for name in _PACKAGES}
    # Ask the module, not the package: that is called psycopg2 or psycopg2-binary.
    psycopg2 = str(import_module("psycopg2").__version__).split()[0]
    return {"python": platform.python_version(), **packages, "psycopg2": psycopg2, "postgresql": str(server)}


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
