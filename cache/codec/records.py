"""Lists of frozen dataclasses as columns, and back. Their classes are given: nothing is looked up by a body's word."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tidegate.cache.codec.encode_rows import MOST_ROWS
from tidegate.cache.codec.values import (
    NotThisAnswer,
    Uncacheable,
    Undecodable,
    from_wire,
    kind_of,
    pack,
    to_wire,
    unpack,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from enum import Enum

_KINDS: Final = frozenset("ptdnuj")
_ATOMS: Final = {type(None), bool, int, float, str, bytes}
_NO_BLOBS: Final = 1 << 62


class HostTypes(NamedTuple):
    """The classes of a host, besides mapped ones, of which answers are made.

    Args:
        page: of a page, made of ``data``, ``limit`` and ``has_more``, which are all its attributes; None: Tidegate's.
        records: frozen dataclasses; an answer may be a list of instances of one of them, whose fields are plain data.
    """

    page: type[Any] | None = None
    records: tuple[type[Any], ...] = ()


class Records:
    """Take lists of records apart, and put them together.

    Args:
        classes: frozen dataclasses.
        enums: the enumerations whose members their fields may hold.

    Raises:
        TypeError: one of them is none, so callers could change what others get.
    """

    def __init__(self, classes: Iterable[type[Any]], enums: Iterable[type[Enum]] = ()) -> None:
        self._by_name: Final = {f"{cls.__module__}.{cls.__qualname__}": cls for cls in classes}
        for name, cls in self._by_name.items():
            if not is_dataclass(cls) or not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]  # it has
                raise TypeError(f"{name} is no frozen dataclass")
        self._names: Final = {cls: name for name, cls in self._by_name.items()}
        self._enums: Final = {f"e{enum.__module__}.{enum.__qualname__}": enum for enum in enums}
        self._kinds: Final = {enum: kind for kind, enum in self._enums.items()}

    def are(self, answer: object) -> bool:
        """Tell whether *answer* is a list of records of one class."""
        return type(answer) is list and bool(answer) and type(answer[0]) in self._names

    def apart(self, records: Sequence[Any]) -> list[Any]:
        """Return records as [class, fields, kinds, columns].

        Raises:
            Uncacheable: they are not all of one class, are too many, or hold what no kind carries.
        """
        cls = type(records[0])
        if len(records) > MOST_ROWS or set(map(type, records)) != {cls}:
            raise Uncacheable(f"the answer has more than {MOST_ROWS} records, or others than {cls.__qualname__}")
        names = [field.name for field in fields(cls)]
        if any(vars(record).keys() != set(names) for record in records if hasattr(record, "__dict__")):
            raise Uncacheable(f"a {cls.__qualname__} has attributes that are no fields")
        columns = [[getattr(record, name) for record in records] for name in names]
        kinds = [self._kind(column) for column in columns]
        wire = [to_wire(kind[0], column) for kind, column in zip(kinds, columns, strict=True)]
        return [self._names[cls], names, kinds, pack(wire)]

    def _kind(self, column: Sequence[Any]) -> str:
        """Return the kind that carries a column; of an enumeration, with its name."""
        found = set(map(type, column)) - {type(None)}
        if len(found) == 1 and (kind := self._kinds.get(next(iter(found)))) is not None:
            return kind
        return kind_of(column, None, _NO_BLOBS)

    def checked(self, rest: Any) -> Any:
        """Return what a body has of records, once it is clear that they can be put together.

        Raises:
            NotThisAnswer: their class is not known here, or has other fields.
            Undecodable: they were not made by :meth:`apart`.
        """
        name, names, kinds, packed = rest
        cls = self._by_name.get(name)
        if cls is None or [field.name for field in fields(cls)] != list(names):
            raise NotThisAnswer("the records are of a class that is not known here, or has other fields")
        columns = unpack(packed)
        counts = {len(column) for column in columns}
        if len(kinds) != len(names) or len(columns) != len(names) or len(counts) != 1 or max(counts) > MOST_ROWS:
            raise Undecodable("the records' columns are not as long as each other, or too long")
        if unknown := [kind for kind in kinds if kind not in _KINDS and kind not in self._enums]:
            raise NotThisAnswer(f"the records have values of kinds that are not known here: {unknown}")
        if any(not set(map(type, column)) <= _ATOMS for column in columns):
            raise Undecodable("a record's field holds more than one value")
        self.together(rest)  # raises what values that were not made by us raise
        return rest

    def together(self, rest: Any) -> list[Any]:
        """Return the records of what :meth:`checked` has returned, new for every caller."""
        name, names, kinds, packed = rest
        columns = [
            _convert(kind, self._enums.get(kind))(column) for kind, column in zip(kinds, unpack(packed), strict=True)
        ]
        cls = self._by_name[name]
        return [cls(**dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)]


def _convert(kind: str, enum: type[Enum] | None) -> Callable[[Sequence[Any]], Sequence[Any]]:
    if kind == "j":
        return lambda wire: [None if value is None else unpack(value) for value in wire]
    return from_wire(kind[0], enum) or list
