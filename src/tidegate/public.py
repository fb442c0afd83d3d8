"""The mark of everything that the package offers: its menu."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def public(item: T) -> T:
    """Make ``tidegate`` the module of a class or function of the menu, wherever its file lies.

    So the place of a file is in no name of a counter, no key of a cached answer and no pickle, and a file can move.
    """
    item.__module__ = "tidegate"
    return item
