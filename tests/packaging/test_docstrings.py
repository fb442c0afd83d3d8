"""Every public docstring says the thing itself, and that of a function begins with a verb in the imperative."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDERS: Final = ("src/tidegate", "proxy", "cache", "routing", "repositories", "benchmarks")
VERBS: Final = """
Add Answer Apply Ask Assemble Begin Bind Build Call Check Choose Close Collect Come Commit Compute Connect Convert
Count Create Cut Decide Decode Delete Do Drop Encode End Enter Estimate Explain Find Finish Flip Forget Freeze
Give Go Guard Hand Have Hook Ignore Insert Invalidate Join Keep Kill Leave Let Limit Load Lock Look Make Mark
Measure Note Open Order Pack Parse Pause Prepare Print Prove Publish Put Raise Read Record Refuse Register
Remember Remove Renew Replace Resume Return Run Say See Send Set Show Shut Split Stamp Start Stop Store Sum Switch
Take Tell Track Unpack Use Void Wait Watch Write Yield
"""
"""The verbs with which a docstring may begin, sorted. Add one if no verb here says what a function does."""

_REFERENCE: Final = re.compile(r"See (?!that\b)")
Function: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef"


class Definition(NamedTuple):
    """A function or class of a module, and whether it is part of what others may use."""

    node: Function | ast.ClassDef
    public: bool


def definitions(body: Sequence[ast.stmt], *, public: bool = True) -> Iterator[Definition]:
    """Yield the functions and classes of a module or class, those of its classes too, but none inside a function."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield Definition(node, public=public and not node.name.startswith("_") and not _is_variant(node))
        elif isinstance(node, ast.ClassDef):
            inside = public and not node.name.startswith("_")
            yield Definition(node, public=inside)
            yield from definitions(node.body, public=inside)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            for part in ("body", "orelse", "finalbody"):
                yield from definitions(getattr(node, part, ()), public=public)
            for handler in getattr(node, "handlers", ()):
                yield from definitions(handler.body, public=public)


def _is_variant(function: Function) -> bool:
    """Tell whether a function only adds to another one of its name, which has the docstring."""
    names = {ast.unparse(decorator).rpartition(".")[2] for decorator in function.decorator_list}
    return bool(names & {"overload", "setter", "deleter"})


@cache
def modules() -> tuple[tuple[str, ast.Module], ...]:
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    names = [(path, path.relative_to(ROOT).as_posix()) for path in paths]
    return tuple((name, ast.parse(path.read_text(encoding="utf-8"))) for path, name in names)


def complaint(name: str, line: int, docstring: str | None) -> str:
    words = "no docstring" if docstring is None else " ".join(docstring.split()[:8])
    return f"{name}:{line}: {words}"


def test_the_verbs_are_sorted() -> None:
    assert VERBS.split() == sorted(set(VERBS.split()))


def test_the_docstring_of_every_public_function_begins_with_a_verb() -> None:
    verbs = set(VERBS.split())
    found = [
        complaint(name, one.node.lineno, docstring)
        for name, module in modules()
        for one in definitions(module.body)
        if one.public and not isinstance(one.node, ast.ClassDef)
        if not (docstring := ast.get_docstring(one.node)) or docstring.split()[0].rstrip(",") not in verbs
    ]
    assert not found, "these must begin with a verb in the imperative, one of VERBS:\n" + "\n".join(found)


def test_every_public_class_has_a_docstring() -> None:
    found = [
        complaint(name, one.node.lineno, None)
        for name, module in modules()
        for one in definitions(module.body)
        if one.public and isinstance(one.node, ast.ClassDef) and not ast.get_docstring(one.node)
    ]
    assert not found, "these classes must have a docstring:\n" + "\n".join(found)


def test_no_docstring_only_points_elsewhere() -> None:
    found = [
        complaint(name, getattr(node, "lineno", 1), docstring)
        for name, module in modules()
        for node in ast.walk(module)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if (docstring := ast.get_docstring(node)) is not None and _REFERENCE.match(docstring)
    ]
    assert not found, "these only point elsewhere, and must say the thing itself:\n" + "\n".join(found)
