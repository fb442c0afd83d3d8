"""Leaving no trace: servers and folders are removed as a cluster ends, or at the next start if its owner was killed."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import time
from typing import TYPE_CHECKING, Final

import psutil

if TYPE_CHECKING:
    from pathlib import Path

PREFIX: Final = "tidegate-"
_OWNER: Final = "owner.json"
_UNOWNED_S: Final = 60.0
_SEGMENT_LINE: Final = 6  # the line of postmaster.pid with the key and the id of a SysV shared memory segment
_IPC_RMID: Final = 0
_CLOCK_SLACK_S: Final = 1.0


def claim(folder: Path) -> None:
    """Record that this process owns *folder*."""
    me = psutil.Process()
    note = folder / (_OWNER + ".new")
    note.write_text(json.dumps({"pid": me.pid, "created": me.create_time()}), encoding="utf-8")
    note.rename(folder / _OWNER)


def remove(folder: Path) -> None:
    """End what still runs in *folder*, and remove the folder and its shared memory."""
    for note in folder.glob("*.process.json"):
        _kill(note)
    for lock in folder.glob("*/postmaster.pid"):
        _remove_segment(lock)
    shutil.rmtree(folder, ignore_errors=True)


def remove_orphans(parent: Path) -> list[Path]:
    """Remove the clusters below *parent* whose owner is gone, and return their folders."""
    removed = []
    for folder in parent.glob(PREFIX + "*"):
        with contextlib.suppress(OSError):  # another start may be removing it, or it belongs to another user
            if folder.stat().st_uid in _uids() and _orphaned(folder):
                remove(folder)
                removed.append(folder)
    return removed


def _uids() -> set[int]:
    return {os.geteuid()}


def _orphaned(folder: Path) -> bool:
    owner = folder / _OWNER
    if not owner.exists():
        # It was made a moment ago and is not claimed yet; or its owner died before it claimed it.
        return time.time() - folder.stat().st_mtime > _UNOWNED_S
    return _process(owner) is None


def _process(note: Path) -> psutil.Process | None:
    """Return the process that a note names; None if it is gone, also if another process has its number now."""
    try:
        noted = json.loads(note.read_text(encoding="utf-8"))
        process = psutil.Process(int(noted["pid"]))
        same = abs(process.create_time() - float(noted["created"])) < _CLOCK_SLACK_S
    except (psutil.Error, ValueError, KeyError, OSError):
        return None
    return process if same and process.status() != psutil.STATUS_ZOMBIE else None


def _kill(note: Path) -> None:
    process = _process(note)
    if process is None:
        return
    with contextlib.suppress(psutil.Error):
        family = [process, *process.children(recursive=True)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=10)


def _remove_segment(lock: Path) -> None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        segment = int(lock.read_text(encoding="utf-8").splitlines()[_SEGMENT_LINE].split()[1])
        ctypes.CDLL(None).shmctl(segment, _IPC_RMID, None)
