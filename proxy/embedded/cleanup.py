"""Leaving no trace: servers and folders are removed as a cluster ends, or at the next start if its owner was killed.

Only a folder with a mark is ever removed. The mark names the folder and its inode, so that a copy has none, and neither
has a folder that somebody renamed. The owner holds a lock on the mark as long as it lives: a lock ends with its holder,
whatever kills it, whereas a process's number is given again, and its age changes with the clock.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PREFIX: Final = "tidegate_"
_MARK: Final = "owner.json"
_MAKER: Final = "tidegate.proxy.embedded"
_MOST_BYTES: Final = 4096
_SEGMENT_LINE: Final = 6  # the line of postmaster.pid with the key and the id of a SysV shared memory segment
_SEGMENT_MAGIC: Final = 679834894  # PGShmemMagic; PostgreSQL has it since 8.2
_IPC_RMID: Final = 0
_SHM_RDONLY: Final = 0o10000


@dataclass(frozen=True, slots=True)
class Owned:
    """A folder of this process, and the open file whose lock says that its owner lives."""

    path: Path
    mark: int

    def remove(self) -> None:
        """End what still runs in the folder, and remove it and its shared memory."""
        remove(self.path)
        os.close(self.mark)


def make(parent: Path) -> Owned:
    """Make a folder below *parent* that this process owns.

    It gets its name when its mark is in it: whatever has the name of a cluster and no mark is somebody else's.
    """
    hidden = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))
    path = hidden.with_name(hidden.name.removeprefix("."))
    try:
        mark = _locked_mark(hidden)
        _rename_to_nothing(hidden, path)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    return Owned(path, mark)


def remove(folder: Path) -> None:
    """End what still runs in *folder*, which has the mark, and remove the folder and its shared memory."""
    for note in folder.glob("*.process.json"):
        _kill(note, folder)
    for lock in folder.glob("*/postmaster.pid"):
        _remove_segment(lock)
    for entry in list(folder.iterdir()):
        if entry.name != _MARK:
            _remove_entry(entry)
    # The mark goes last: what a removal that is broken off leaves behind is still known as ours.
    with contextlib.suppress(OSError):
        (folder / _MARK).unlink(missing_ok=True)
        folder.rmdir()


def remove_orphans(parent: Path) -> list[Path]:
    """Remove the clusters below *parent* whose owner is gone, and return their folders."""
    removed = []
    for folder in (*parent.glob(f"{PREFIX}*"), *parent.glob(f".{PREFIX}*")):
        with contextlib.suppress(OSError), _orphaned(folder) as orphaned:  # another start may be removing it
            if orphaned:
                remove(folder)
                removed.append(folder)
    return removed


def _rename_to_nothing(folder: Path, name: Path) -> None:
    if os.path.lexists(name):  # a rename would take the place of an empty folder
        raise FileExistsError(f"{name} is there already")
    folder.rename(name)


def _locked_mark(folder: Path) -> int:
    new = folder / f"{_MARK}.new"
    mark = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    # Locked before it is the mark: another start must not see a mark whose owner seems to be gone.
    fcntl.flock(mark, fcntl.LOCK_EX)
    os.write(mark, json.dumps(_mark_of(folder) | {"pid": os.getpid()}).encode())
    new.rename(folder / _MARK)
    return mark


def _mark_of(folder: Path) -> dict[str, object]:
    return {"made_by": _MAKER, "folder": folder.name.removeprefix("."), "inode": folder.lstat().st_ino}


@contextlib.contextmanager
def _orphaned(folder: Path) -> Iterator[bool]:
    """Tell whether *folder* has the mark of a cluster of this user whose owner is gone; if so, own it meanwhile."""
    if not _is_own(folder.lstat(), stat.S_ISDIR):
        yield False
        return
    mark = os.open(folder / _MARK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        yield _is_own(os.fstat(mark), stat.S_ISREG) and _marks(mark, folder) and _lock(mark)
    finally:
        os.close(mark)


def _is_own(found: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    return found.st_uid == os.geteuid() and is_kind(found.st_mode)


def _marks(mark: int, folder: Path) -> bool:
    try:
        noted = json.loads(os.read(mark, _MOST_BYTES))
    except ValueError:
        return False
    return isinstance(noted, dict) and _mark_of(folder).items() <= noted.items()


def _lock(mark: int) -> bool:
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_entry(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            entry.unlink()


def _kill(note: Path, folder: Path) -> None:
    """End the server that a note names; another process that has its number now works elsewhere."""
    with contextlib.suppress(psutil.Error, ValueError, KeyError, OSError):
        process = psutil.Process(int(json.loads(note.read_text(encoding="utf-8"))["pid"]))
        if not Path(process.cwd()).is_relative_to(folder.resolve()):
            return
        family = [process, *process.children(recursive=True)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=10)


def _remove_segment(lock: Path) -> None:
    """Remove the shared memory that a killed postmaster left, if it is the one that it made."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = lock.read_text(encoding="utf-8").splitlines()
        segment = int(lines[_SEGMENT_LINE].split()[1])
        if _segment_maker(segment) == int(lines[0]):
            ctypes.CDLL(None).shmctl(segment, _IPC_RMID, None)


def _segment_maker(segment: int) -> int | None:
    """Return the process that made a segment of PostgreSQL's; None: there is none, or it is another program's.

    After the machine's restart ids are given again, to whomever comes.
    """
    library = ctypes.CDLL(None)
    library.shmat.restype = ctypes.c_void_p
    address = library.shmat(segment, None, _SHM_RDONLY)
    if address in (None, ctypes.c_void_p(-1).value):
        return None
    try:
        magic, maker = (ctypes.c_int32 * 2).from_address(address)
    finally:
        library.shmdt(ctypes.c_void_p(address))
    return int(maker) if magic == _SEGMENT_MAGIC else None
