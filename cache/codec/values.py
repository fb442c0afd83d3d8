"""Values of a column as msgpack carries them, and back: exactly, or not at all.

A *kind* is one letter. In lower case it says that the value is the same in every row, and is stored once. In upper case
it says that there is one value for each row. None is None in every kind.

====  ==============================  ======================================================
kind  values                          stored as
====  ==============================  ======================================================
p     str, int, float, bool, bytes    themselves
b     str, some over the threshold    themselves, or the hash of a blob (16 bytes)
t     datetime, naive or UTC          ISO text: read back six times faster than microseconds
d     date                            ISO text
n     Decimal                         text
u     UUID                            16 bytes
e     members of the column's enum    their values
j     JSON: dict, list and plain      msgpack of its own, unpacked anew for every row made
====  ==============================  ======================================================
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgpack

from tidegate.interruptions import pass_interruption

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from enum import Enum

MOST_DEPTH: Final = 32
"""How deep lists and mappings of an answer may nest."""

_PLAIN: Final = frozenset({str, int, float, bool, bytes})
_JSON: Final = frozenset({dict, list, str, int, float, bool})
_ATOMS: Final = frozenset({type(None), bool, float, bytes})
_SAME_IF_EQUAL: Final = frozenset({type(None), str, int, bool, bytes})
_INT64: Final = range(-(2**63), 2**64)


class Uncacheable(Exception):  # noqa: N818  # a property of the answer, not a mistake
    """The answer cannot be stored so that exactly the same comes back. It must not be cached."""


class Unreadable(Exception):  # noqa: N818  # a property of what is stored, not a mistake
    """What is stored cannot be used. It must be treated as a miss, counted and reported."""


class Undecodable(Unreadable):
    """What is stored is broken: cut off, damaged, no body at all, or a blob that does not match its hash."""


class NotThisAnswer(Unreadable):
    """What is stored is whole, but of another tenant, call, schema or release than what was asked for."""


def is_plain(value: object, depth: int = MOST_DEPTH) -> bool:
    """Tell whether msgpack gives back exactly *value*.

    It does for plain dicts with str keys, lists and scalars, at most *depth* levels deep.
    """
    # By type(), not isinstance(): a member of a StrEnum is a str, and would come back as a mere one.
    match value:
        case int() if type(value) is int:
            return value in _INT64
        case str() if type(value) is str:
            return _is_utf8(value)
        case list() if type(value) is list:
            return depth > 0 and all(is_plain(item, depth - 1) for item in value)
        case dict() if type(value) is dict:
            keys = all(type(key) is str and _is_utf8(key) for key in value)
            return depth > 0 and keys and all(is_plain(item, depth - 1) for item in value.values())
        case _:
            return type(value) in _ATOMS


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


def pack(value: object) -> bytes:
    """Pack *value*, for which :func:`is_plain` is True, as bytes."""
    packed = msgpack.packb(value, strict_types=True)
    assert isinstance(packed, bytes)  # noqa: S101  # for the type checkers: only autoreset=False gives None
    return packed


def unpack(packed: bytes) -> Any:
    """Unpack what :func:`pack` has packed, anew at every call.

    Raises:
        Undecodable: *packed* was not packed so.
    """
    try:
        return msgpack.unpackb(packed, max_ext_len=0)
    except Exception as error:  # msgpack raises a dozen types of its own, and those of Unicode
        pass_interruption(error)
        raise Undecodable(f"a value is not msgpack: {type(error).__name__}") from error


def kind_of(values: Sequence[Any], enum: type[Enum] | None, blob_bytes: int) -> str:
    """Return the kind, in lower case, that carries all of *values*.

    Args:
        values: the values of one column; None may be among them.
        enum: the enum class of the column; None if it has none.
        blob_bytes: a text of more UTF-8 bytes than this becomes a blob.

    Raises:
        Uncacheable: there is no such kind.
    """
    types = set(map(type, values)) - {type(None)}
    if types == {str}:
        return _kind_of_text(values, blob_bytes)
    if types <= _PLAIN:
        if not _are_plain(values, types):
            raise Uncacheable("a column holds a whole number over 64 bits, or text that is not valid Unicode")
        return "p"
    if len(types) == 1:
        only = types.pop()
        found = _KIND_OF_TYPE.get(only) or ("e" if enum is not None and only is enum else None)
        if found is not None:
            return found
        types = {only}
    if types <= _JSON and all(map(is_plain, values)):
        return "j"
    names = ", ".join(sorted(kind.__qualname__ for kind in types))
    raise Uncacheable(f"a column holds values that no kind carries: {names}")


def _kind_of_text(values: Sequence[str | None], blob_bytes: int) -> str:
    text = "".join(filter(None, values))  # all texts at once: that is faster
    if not _is_utf8(text):
        raise Uncacheable("a column holds text that is not valid Unicode")
    large = len(text) * 4 > blob_bytes and any(is_large(value, blob_bytes) for value in values)
    return "b" if large else "p"


def _are_plain(values: Sequence[Any], types: set[type]) -> bool:
    """Tell whether :func:`is_plain` is True for all values.

    Most columns are of one type: they are tested as a whole.
    """
    if types == {int}:
        numbers = [value for value in values if value is not None]
        return min(numbers) in _INT64 and max(numbers) in _INT64
    return types <= _ATOMS or all(map(is_plain, values))


def is_same_throughout(values: Sequence[Any]) -> bool:
    """Tell whether a column is one value, to the bit, as far as that is seen without effort.

    1, 1.0 and True are equal, and so are 0.0 and -0.0, and datetimes with another ``fold``. So equality alone is no
    proof, and False is the answer where the types do not make it one.
    """
    if len(values) == 1:
        return True
    first = values[0]
    same_bits = type(first) in _SAME_IF_EQUAL or (type(first) is float and bool(first))
    return same_bits and values.count(first) == len(values) and len(set(map(type, values))) == 1


def is_large(value: str | None, blob_bytes: int) -> bool:
    """Tell whether a text goes into a blob."""
    return value is not None and len(value) * 4 > blob_bytes and len(value.encode()) > blob_bytes


def blob_hash(content: bytes) -> bytes:
    """Return the name of a blob: a hash of its content, 16 bytes."""
    return blake2b(content, digest_size=16).digest()


def _moments(values: Sequence[datetime | None]) -> list[str | None]:
    for value in values:
        if value is not None and (value.fold or (value.tzinfo is not None and value.tzinfo is not UTC)):
            raise Uncacheable(
                f"a column holds {value!r}: only naive datetimes and those in datetime.UTC come back unchanged"
            )
    return [None if value is None else value.isoformat() for value in values]


def _number(value: Decimal) -> str:
    if value.is_snan():
        raise Uncacheable("a column holds a signalling NaN")
    return str(value)


def _member(value: Enum) -> Any:
    if not is_plain(value.value):
        raise Uncacheable(f"a column holds {value!r}, whose value is not plain text or a plain number")
    return value.value


_KIND_OF_TYPE: Final[dict[type, str]] = {datetime: "t", date: "d", Decimal: "n", UUID: "u"}
_TO_WIRE: Final[dict[str, Callable[[Any], Any]]] = {
    "d": date.isoformat,
    "n": _number,
    "u": lambda value: value.bytes,
    "e": _member,
    "j": pack,
}
_FROM_WIRE: Final[dict[str, Callable[[Any], Any]]] = {
    "t": datetime.fromisoformat,
    "d": date.fromisoformat,
    "n": Decimal,
    "u": lambda packed: UUID(bytes=packed),
}


def to_wire(kind: str, values: Sequence[Any]) -> list[Any]:
    """Convert *values* of one kind to what msgpack carries; the caller replaces large texts by blobs.

    Raises:
        Uncacheable: one of the values would not come back as it was.
    """
    if kind == "t":
        return _moments(values)
    convert = _TO_WIRE.get(kind)
    if convert is None:
        return list(values)
    return [None if value is None else convert(value) for value in values]


def from_wire(kind: str, enum: type[Enum] | None) -> Callable[[Sequence[Any]], Sequence[Any]] | None:
    """Return a function that makes a column of *kind* from what msgpack gave; None if both are the same.

    The function raises errors of any type on what :func:`to_wire` cannot have made.
    """
    if kind == "e" and enum is not None:
        members: Mapping[Any, Enum] = {member.value: member for member in enum}
        convert: Callable[[Any], Any] | None = members.__getitem__
    else:
        convert = _FROM_WIRE.get(kind)
    if convert is None:
        return None
    one = convert

    def column(wire: Sequence[Any]) -> Sequence[Any]:
        if None in wire:
            return [None if value is None else one(value) for value in wire]
        return list(map(one, wire))

    return column
