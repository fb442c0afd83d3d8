"""The fingerprint of a call, under which its answer is stored: its method, on what, with which arguments."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import msgpack

from tidegate.cache.codec.values import Uncacheable

if TYPE_CHECKING:
    from tidegate.proxy.call import Call

DIGEST_BYTES: Final = 16


def fingerprint_of(call: Call) -> bytes | None:
    """Return the digest of *call*, 16 bytes; None where it cannot be told apart from others for sure.

    Of the repository its class counts, which may override what the method uses, and what it was made with, which may
    have changed since.
    """
    repository = call.repository
    try:
        packed = msgpack.packb((call.binding.made_with, *call.arguments.values()), default=_plain)
    except (Uncacheable, TypeError, ValueError, OverflowError):
        return None
    digest = _begun(repository.__class__, call.method.qualified_name).copy()
    digest.update(packed)
    return digest.digest()


@lru_cache(maxsize=1024)
def _begun(cls: type[Any], name: str) -> blake2b:
    """Return what all calls of a method on a class begin with; what follows cannot be taken for a part of it."""
    return blake2b(msgpack.packb([name, cls.__module__, cls.__qualname__]), digest_size=DIGEST_BYTES)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return msgpack.ExtType(1, value.isoformat().encode())  # with its offset, if it has one
    raise Uncacheable(f"an argument of type {type(value).__qualname__}")
