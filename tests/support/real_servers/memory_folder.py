"""Temporary files of tests in memory, where the machine has enough of it: on a disk a server takes twice as long.

Whoever sets TMPDIR has them there.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

import psutil

_FOLDER: Final = Path("/dev/shm")  # noqa: S108  # each user of it makes a folder of its own in it
_NEEDED_BYTES: Final = 6 << 30
"""Two workers take less than half of it, with the servers' own memory."""


def pytest_configure() -> None:
    """Before anything has a temporary folder; the workers and all other children inherit it."""
    if "TMPDIR" not in os.environ and _has_room(_FOLDER):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # pytest keeps its folders for days
        os.environ["TMPDIR"] = str(_FOLDER)
        tempfile.tempdir = None


def _has_room(folder: Path) -> bool:
    """Whether files can be made there, and programs run: containers have small ones where nothing can."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    found = os.statvfs(folder)
    room = min(found.f_bavail * found.f_frsize, psutil.virtual_memory().available)
    return room >= _NEEDED_BYTES and not found.f_flag & os.ST_NOEXEC
