"""The mark of what the package's menu offers."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def public(item: T) -> T:
    """Have a class or function of the menu name ``tidegate`` as its module, wherever its file lies.

    So no file's place is in the name of a counter, in the key of a cached answer or in a pickle, and a file can move.
    """
    item.__module__ = "tidegate"
    return item
