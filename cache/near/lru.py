"""The near cache: decoded answers in this process, within bounds.

It keeps what was parsed and checked, never instances: every caller gets new ones. It saves the body, its transfer and
its decoding. ``strict``: the marks are compared in one round trip. ``bounded``: not even that, while the stream of
``pushes`` is alive and has named nothing that the answer depends on.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from sys import getsizeof
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, Protocol

from tidegate.fork_hooks import reset_after_fork

if TYPE_CHECKING:
    from tidegate.cache.marks import Noted
    from tidegate.position import AskedFor


_PLACE_BYTES: Final = 512
"""What a place takes beside key and value, at most: its tuples, and its part of a dictionary that has just grown."""


class Sized(Protocol):
    """Know how much memory one takes."""

    def held_bytes(self) -> int:
        """Return how much memory this takes, in bytes, and never less."""
        ...


@dataclass(frozen=True, slots=True)
class NearEntry:
    """A decoded answer, what tells whether it is fresh, and when it ends, in ms since the epoch.

    *version* is of before it was looked up, and so is *asked*: whose marks were asked for.
    """

    decoded: Any
    noted: Noted
    tags: tuple[str, ...]
    until_ms: int
    version: int = 0
    asked: AskedFor | None = None

    def has_ended(self) -> bool:
        """Tell whether the time of its policy is over: the server has given the entry up by now."""
        return self.until_ms <= time_ns() // 1_000_000

    def held_bytes(self) -> int:
        """Return how much memory this takes, in bytes, and never less."""
        numbers = (self.noted.counter, self.version, self.until_ms)
        own = (self, self.noted, self.noted.nonce, *numbers, self.tags, *self.tags)
        decoded: Sized = self.decoded
        return decoded.held_bytes() + sum(map(getsizeof, own))


class LruCache:
    """Keep values, and forget first what was used longest ago.

    Args:
        most_bytes: of memory, for all values together with their keys and places.
        most_entries: how many values.
    """

    def __init__(self, most_bytes: int, most_entries: int) -> None:
        self._most_bytes = most_bytes
        self._most_entries = most_entries
        self._start_anew()
        reset_after_fork(self._start_anew)

    def _start_anew(self) -> None:
        # This also runs in a forked child: another thread may have held the lock, in the middle of a change.
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], tuple[Any, int]] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, tenant: str, name: str) -> Any:
        """Return the value, or None; it counts as used now."""
        with self._lock:
            found = self._kept.get((tenant, name))
            if found is None:
                return None
            self._kept.move_to_end((tenant, name))
            return found[0]

    def peek(self, tenant: str, name: str) -> Any:
        """Return the value, or None; it does not count as used."""
        with self._lock:
            found = self._kept.get((tenant, name))
            return None if found is None else found[0]

    def put(self, tenant: str, name: str, value: Sized | bytes) -> None:
        """Keep *value*; one that is larger than the bound of all is not kept."""
        held = getsizeof(value) if isinstance(value, bytes) else value.held_bytes()
        size = held + getsizeof(tenant) + getsizeof(name) + _PLACE_BYTES
        if size > self._most_bytes:
            return
        with self._lock:
            self._drop((tenant, name))
            self._kept[tenant, name] = (value, size)
            self.size += size
            while self.size > self._most_bytes or len(self._kept) > self._most_entries:
                self._drop(next(iter(self._kept)))

    def evict(self, tenant: str, name: str) -> None:
        """Drop one value."""
        with self._lock:
            self._drop((tenant, name))

    def clear(self) -> None:
        """Drop all."""
        with self._lock:
            self._kept.clear()
            self.size = 0

    def _drop(self, key: tuple[str, str]) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self.size -= found[1]
