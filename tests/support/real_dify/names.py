"""The names in a Dify's two repositories, and in what gives pages of logs: facts, read without importing it.

They are those of classes, methods and parameters.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Final

from real_dify.checkout import ROOT, DifyError
from tidegate.proxy.dify.releases import LATER_LOG_PAGES, LOG_PAGES, LOG_SERVICE, REPOSITORIES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEPT: Final = ROOT / "tests" / "dify"
"""Where the lists of releases are kept, as names-RELEASE.txt."""


def names_of(api: Path) -> list[str]:
    """Return a line for each class, with its module, and for each of its public methods, with its parameters.

    A parameter that has a default ends with "=". Those after "*" are given by name.

    Raises:
        DifyError: this Dify has none of the modules in which Tidegate looks for them.
    """
    pages = [(LOG_SERVICE, LOG_PAGES[0]), *LATER_LOG_PAGES]
    logs = next(((name, [module]) for module, name in pages if _file(api, module).is_file()), None)
    known = [(one.class_name, [place.module for place in one.places]) for one in REPOSITORIES]
    return [line for name, modules in [*known, *([logs] if logs else [])] for line in _of_class(api, name, modules)]


def kept_lists() -> dict[str, list[str]]:
    """Return the lists that are kept, by the names of their releases."""
    files = sorted(KEPT.glob("names-*.txt"))
    return {file.stem.removeprefix("names-"): file.read_text().splitlines() for file in files}


def differences(here: list[str], kept: list[str]) -> list[str]:
    """Return the lines that one list has and the other has not: "+" here, "-" kept."""
    return [f"+ {line}" for line in here if line not in kept] + [f"- {line}" for line in kept if line not in here]


def _file(api: Path, module: str) -> Path:
    return api.joinpath(*module.split(".")).with_suffix(".py")


def _of_class(api: Path, class_name: str, modules: list[str]) -> Iterator[str]:
    for module in modules:
        file = _file(api, module)
        if not file.is_file():
            continue
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name == class_name:
                yield f"{module}.{class_name}"
                yield from sorted(f"{class_name}.{line}" for line in methods_of(node))
                return
    raise DifyError(f"{class_name} is in no module {' or '.join(modules)} of {api}: Tidegate does not know this Dify")


def methods_of(node: ast.ClassDef) -> Iterator[str]:
    """Return a line for each public method that a class itself defines: its name, and its parameters."""
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
            kinds = {one.id for one in method.decorator_list if isinstance(one, ast.Name)}
            unbound = bool(kinds & {"staticmethod"})
            yield f"{method.name}({', '.join(_parameters(method.args, skip=0 if unbound else 1))})"


def _parameters(arguments: ast.arguments, skip: int) -> Iterator[str]:
    given = [*arguments.posonlyargs, *arguments.args]
    first = len(given) - len(arguments.defaults)
    for number, one in enumerate(given):
        if number >= skip:
            yield f"{one.arg}=" if number >= first else one.arg
    if arguments.vararg or arguments.kwonlyargs:
        yield f"*{arguments.vararg.arg if arguments.vararg else ''}"
    for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield one.arg if default is None else f"{one.arg}="
    if arguments.kwarg:
        yield f"**{arguments.kwarg.arg}"
