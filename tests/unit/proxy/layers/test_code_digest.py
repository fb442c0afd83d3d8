"""The digest of a class's code: another release has another one, and each process finds the same."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from tidegate.proxy.layers.code_digest import code_digest

FIRST = '''
import functools

def logged(method):
    @functools.wraps(method)
    def call(*args, **kwargs):
        return method(*args, **kwargs)
    return call

class Base:
    """A base."""
    def kinds(self, kind="a"):
        return kind in {"a", "b", "c", "d"}

class Orders(Base):
    """Orders."""
    LIMIT = 20
    KINDS = ("x", 1, frozenset({"p", "q"}))
    @logged
    def page(self, app, *, limit=20):
        """Return a page."""
        return [number for number in range(limit) if number not in {"m", "n", "o"}]
    @staticmethod
    def total(app):
        return 1
    @classmethod
    def made(cls):
        return 2
    @property
    def size(self):
        return 3
    @functools.cached_property
    def shape(self):
        return 4
'''
ASKED = "\nfrom tidegate.proxy.layers.code_digest import code_digest\nprint(code_digest((Orders, Base)).hex())\n"


def digest(text: str) -> bytes:
    namespace: dict[str, Any] = {"__name__": "shop"}
    exec(compile(text, "<shop>", "exec"), namespace)  # noqa: S102  # it is the text above
    return code_digest((namespace["Orders"], namespace["Base"]))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("range(limit)", "range(1, limit)"),
        ("limit=20", "limit=21"),
        ('kind="a"', 'kind="b"'),
        ('"c", "d"', '"c", "e"'),
        ('"m", "n"', '"m", "k"'),
        ("LIMIT = 20", "LIMIT = 30"),
        ('"p", "q"', '"p", "r"'),
        ("return method(", "return not method("),
        ("return 1", "return 10"),
        ("return 2", "return 20"),
        ("return 3", "return 30"),
        ("return 4", "return 40"),
        ("def total(", "def sums("),
    ],
)
def test_other_code_has_another_digest(before: str, after: str) -> None:
    assert FIRST.count(before) == 1
    assert digest(FIRST) != digest(FIRST.replace(before, after))


def test_lines_and_documentation_of_a_class_do_not_count() -> None:
    assert digest(FIRST) == digest("\n\n# moved\n" + FIRST.replace('"""Orders."""', '"""Orders of a shop."""'))


def test_each_process_finds_the_same_one() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", FIRST + ASKED],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


def test_a_function_that_refers_to_itself_ends() -> None:
    class Orders:
        def page(self) -> Any:
            def again() -> Any:
                return again

            return again

    method: Any = Orders.page
    method.__wrapped__ = method
    assert code_digest((Orders,)) == code_digest((Orders,))
