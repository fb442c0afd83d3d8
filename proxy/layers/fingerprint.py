"""The fingerprint of a call, under which its answer is stored: its method, on what, with which arguments."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import msgpack

from tidegate.cache.codec.values import Uncacheable
from tidegate.proxy.layers.code_digest import code_digest

if TYPE_CHECKING:
    from tidegate.proxy.call import Call
    from tidegate.repositories.base import Binding

WRAPPED: Final = "_tidegate_wrapped"
"""The attribute in which a class that a gate has made keeps the class that it wraps."""
DIGEST_BYTES: Final = 16
_PLAIN_DATA: Final = (type(None), bool, int, float, str, bytes)
_MAYBE_DATA: Final = (bytearray, memoryview, list, tuple, dict, Enum, datetime, msgpack.Timestamp)
"""What msgpack packs besides, and what :func:`_plain` does, if what is in it can be packed too."""


def fingerprint_of(call: Call) -> bytes | None:
    """Return the digest of *call*, 16 bytes; None where it cannot be told apart from others for sure.

    Of the repository its class counts, which may override what the method uses, and what the methods of the class do,
    which may differ between releases of a program; what it was made with, which may have changed since; and its
    attributes.
    """
    repository = call.repository
    binding: Binding = repository.tidegate_binding
    try:
        given = (binding.made_with, *_attributes(repository, binding), *call.arguments.values())
        packed = msgpack.Packer(default=_plain).pack(given)
    except (Uncacheable, TypeError, ValueError, OverflowError):
        return None
    digest = _begun(repository.__class__, call.method.qualified_name).copy()
    digest.update(packed)
    return digest.digest()


@lru_cache(maxsize=1024)
def _begun(cls: type[Any], name: str) -> blake2b:
    """Return what all calls of a method on a class begin with; what follows cannot be taken for a part of it."""
    named = [name, cls.__module__, cls.__qualname__]
    named += [_own_name(base) for base in cls.__mro__ if not _is_found_by_name(base)]
    own = tuple(base for base in cls.__mro__ if WRAPPED not in vars(base))
    return blake2b(msgpack.packb([*named, code_digest(own)]), digest_size=DIGEST_BYTES)


@lru_cache(maxsize=1024)
def _own_name(_cls: type[Any]) -> str:
    """Name a class of which only this process, and those forked off it, can tell which one it is.

    A factory makes many classes of one name, so their answers must not be shared by it.
    """
    return os.urandom(DIGEST_BYTES).hex()


def _is_found_by_name(cls: type[Any]) -> bool:
    """Tell whether the name of *cls* means this class in every process; a class that a gate has made has none."""
    if WRAPPED in vars(cls):  # the class that it wraps is looked at, too
        return True
    if cls.__module__ == "__main__":  # another one in each program
        return False
    found: Any = sys.modules.get(cls.__module__)
    for part in cls.__qualname__.split("."):
        found = getattr(found, part, None)
    return isinstance(found, type) and vars(found).get(WRAPPED, found) is cls


def _attributes(repository: Any, binding: Binding) -> list[Any]:
    """Return the attributes that may tell *repository* from another of its class, with their names.

    What was there when it was made, and is the same object still, follows from what it was made with, unless it is
    plain data, which may have been changed.

    Raises:
        Uncacheable: an attribute that was set since is no plain data.
    """
    found: list[Any] = []
    made, home = binding.attributes, binding.home
    attributes = repository.__dict__ if hasattr(repository, "__dict__") else {}
    names = sorted(attributes)
    if slots := _slots(repository.__class__):
        slotted = {name: getattr(repository, name) for name in slots if hasattr(repository, name)}
        attributes, names = {**attributes, **slotted}, [*slotted, *names]
    for name in names:
        value = attributes[name]
        if value is home or value is binding or (made.get(name) is value and not _is_data(value)):
            continue
        found += (name, value)
    return found


def _is_data(value: Any) -> bool:
    if isinstance(value, _PLAIN_DATA):
        return True
    if not isinstance(value, _MAYBE_DATA):  # mostly an engine or a logger, and an exception takes long
        return False
    try:
        msgpack.packb(value, default=_plain)
    except (Uncacheable, TypeError, ValueError, OverflowError):
        return False
    return True


@lru_cache(maxsize=1024)
def _slots(cls: type[Any]) -> tuple[str, ...]:
    slots = [vars(base).get("__slots__", ()) for base in cls.__mro__]
    names = {name for some in slots for name in ((some,) if isinstance(some, str) else some)}
    return tuple(sorted(names - {"__dict__", "__weakref__"}))


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return msgpack.ExtType(1, value.isoformat().encode())  # with its offset, if it has one
    raise Uncacheable(f"an argument of type {type(value).__qualname__}")
