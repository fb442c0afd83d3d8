"""Reads of several shards that are content with what those give that answer, where their caller says so."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_missing: Final[ContextVar[dict[str, BaseException] | None]] = ContextVar("tidegate_missing", default=None)


@contextmanager
def partial_results() -> Iterator[Mapping[str, BaseException]]:
    """Have reads that ask all shards do without those that do not answer, within a ``with``; not if none does.

    What is yielded holds the errors of those that were missing, by shard. Reads of one tenant, writes, and methods that
    take a session are as ever.
    """
    missing: dict[str, BaseException] = {}
    token = _missing.set(missing)
    try:
        yield missing
    finally:
        _missing.reset(token)


def may_be_missing(failed: Mapping[str, BaseException]) -> bool:
    """Tell whether the caller does without the shards that have *failed*; if so, name them to it."""
    missing = _missing.get()
    if missing is None:
        return False
    missing.update(failed)
    return True
