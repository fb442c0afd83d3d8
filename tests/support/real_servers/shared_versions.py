"""What several processes know of each tenant's versions, in memory that they share: a file of numbers of 8 bytes.

Every number has one process that writes it, so that none is lost; who reads takes the greatest of all processes. A
process writes after what it tells of has happened, and so nobody is told of what has not.
"""

from __future__ import annotations

import mmap
import threading
from pathlib import Path
from typing import Final

_BYTES: Final = 8
_WORKER_CELLS: Final = 1
_PRIMARY, _OVER, _SPEED, _HEAD_CELLS = 0, 1, 2, 3
_FINE: Final = 1_000


class Board:
    """The numbers.

    Args:
        path: the file; made by whoever comes first.
        workers: how many processes.
        tenants: how many.
    """

    def __init__(self, path: str, workers: int, tenants: int) -> None:
        self._tenants = tenants
        self._size = _WORKER_CELLS + 4 * tenants
        self._starts = [_HEAD_CELLS + worker * self._size + _WORKER_CELLS for worker in range(workers)]
        bytes_needed = _BYTES * (_HEAD_CELLS + workers * self._size)
        file = Path(path)
        if not file.exists():
            file.write_bytes(bytes(bytes_needed))
        with file.open("r+b") as opened:
            self._cells = memoryview(mmap.mmap(opened.fileno(), bytes_needed)).cast("Q")
        self._lock = threading.Lock()

    @property
    def primary(self) -> int:
        """Which of the nodes is the primary, for rules that must be told."""
        return self._cells[_PRIMARY]

    @primary.setter
    def primary(self, number: int) -> None:
        self._cells[_PRIMARY] = number

    @property
    def over(self) -> bool:
        """Whether all are to end."""
        return bool(self._cells[_OVER])

    def end(self) -> None:
        """Have all end."""
        self._cells[_OVER] = 1

    @property
    def speed(self) -> float:
        """How many times the usual pace all keep; 0: as fast as they can, and nothing is counted."""
        return self._cells[_SPEED] / _FINE

    @speed.setter
    def speed(self, times: float) -> None:
        self._cells[_SPEED] = max(1, round(times * _FINE))

    def count(self, worker: int, calls: int) -> None:
        """*worker* has made so many calls more."""
        with self._lock:
            self._cells[self._starts[worker] - 1] += calls

    @property
    def calls(self) -> int:
        """Of all workers."""
        return sum(self._cells[start - 1] for start in self._starts)

    def acknowledge(self, worker: int, tenant: int, version: int, now_ns: int) -> None:
        """A COMMIT of *version* has returned to *worker*."""
        with self._lock:
            self._raise(self._starts[worker] + tenant, version)
            self._raise(self._starts[worker] + 2 * self._tenants + tenant, now_ns)

    def see(self, worker: int, tenant: int, version: int) -> None:
        """A read of *worker* has returned *version*."""
        with self._lock:
            self._raise(self._starts[worker] + self._tenants + tenant, version)

    def committing(self, worker: int, tenant: int, more: int) -> None:
        """*worker* sends so many COMMITs more for the tenant, or has heard of one (-1)."""
        with self._lock:
            self._cells[self._starts[worker] + 3 * self._tenants + tenant] += more

    def is_committing(self, tenant: int) -> bool:
        """Whether anybody has sent a COMMIT that has not returned."""
        return any(self._cells[start + 3 * self._tenants + tenant] for start in self._starts)

    def acknowledged(self, tenant: int) -> int:
        """The newest version whose COMMIT has returned."""
        return max(self._cells[start + tenant] for start in self._starts)

    def seen(self, tenant: int) -> int:
        """The newest version that a read has returned."""
        return max(self._cells[start + self._tenants + tenant] for start in self._starts)

    def written_ns(self, tenant: int) -> int:
        """When a COMMIT has last returned, by the monotonic clock, which all processes share."""
        return max(self._cells[start + 2 * self._tenants + tenant] for start in self._starts)

    def _raise(self, cell: int, number: int) -> None:
        self._cells[cell] = max(self._cells[cell], number)
