"""What a session of a shard must see first: that the shard owns some units, or that it knows of no later map."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.routing.sharding.shard_map import Ownership

_NOTHING: Final[tuple[Sequence[Ownership], int | None]] = ((), None)
_to_check: ContextVar[tuple[Sequence[Ownership], int | None]] = ContextVar("tidegate_to_check", default=_NOTHING)


class ownership_checks:  # noqa: N801  # used as a function is; a generator in its place takes a microsecond of every read
    """Have the sessions of a shard that begin meanwhile check first that the shard owns these units.

    Sessions of such a block check these units only: the innermost block counts.

    Args:
        ownerships: the units, and since which epoch each must be owned.
        epoch: check also that the shard knows no later epoch than this; None: it may.
    """

    __slots__ = ("_to_check", "_token")

    def __init__(self, *ownerships: Ownership, epoch: int | None = None) -> None:
        self._to_check = ownerships, epoch

    def __enter__(self) -> None:
        self._token = _to_check.set(self._to_check)

    def __exit__(self, *_: object) -> None:
        _to_check.reset(self._token)


def current_checks() -> tuple[Sequence[Ownership], int | None]:
    """Return what a session that begins now must check: ownerships, and an epoch or None."""
    return _to_check.get()
