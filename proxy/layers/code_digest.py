"""The digest of what a class's methods do: answers of other code are not served, whatever release it came with.

Two releases of a program may run side by side on one cache. Their methods have the same names, and may answer the same
call differently.
"""

from __future__ import annotations

import functools
import sys
from hashlib import blake2b
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_BYTES: Final = 16
_ENDS: Final = (str, bytes, int, float, complex, type(None), type(...))
"""Kinds of constants that are told apart by how they are written."""


def code_digest(classes: tuple[type[Any], ...]) -> bytes:
    """Return the digest of the methods and plain attributes of *classes*, 16 bytes: the same in each process.

    The names of files and the numbers of lines do not count, nor do classes of Python itself. What a method calls
    outside its classes does not count either.
    """
    digest = blake2b(digest_size=_BYTES)
    for cls in classes:
        if cls.__module__.partition(".")[0] not in sys.stdlib_module_names:
            for name, value in sorted(vars(cls).items()):
                # Python writes names, places and texts of documentation into classes, in an order of its own.
                if not name.startswith("__") or isinstance(value, FunctionType):
                    for part in _parts(value, set()):
                        digest.update(repr((name, part)).encode())
    return digest.digest()


def _parts(value: Any, seen: set[int]) -> Iterator[Any]:
    """Yield what a class attribute consists of: the code of functions, and plain data."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, FunctionType):
        yield _plain(value.__code__)
        yield _plain((value.__defaults__, *sorted((value.__kwdefaults__ or {}).items())))
        for cell in value.__closure__ or ():  # what a decorator was given
            yield from _parts(_content(cell), seen)
        yield from _parts(getattr(value, "__wrapped__", None), seen)
    elif isinstance(value, classmethod | staticmethod):
        yield from _parts(value.__func__, seen)
    elif isinstance(value, property):
        yield from _parts(value.fget, seen)
    elif isinstance(value, functools.cached_property):
        yield from _parts(value.func, seen)
    elif isinstance(value, (*_ENDS, tuple, frozenset)):
        yield _plain(value)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


def _plain(value: Any) -> Any:
    """Return a constant in a form that is written in the same way in each process: sets have no order of their own."""
    if isinstance(value, CodeType):
        names = (value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars, value.co_flags)
        return (value.co_code, names, [_plain(each) for each in value.co_consts])
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if isinstance(value, frozenset):
        return sorted(repr(_plain(each)) for each in value)
    return value if isinstance(value, _ENDS) else type(value).__qualname__
