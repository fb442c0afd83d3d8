"""Every setting that a message, a docstring or a document names is a setting."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from pydantic import BaseModel

from tidegate.proxy.settings import ReplicaSettings, Settings, ShardSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = ("proxy", "cache", "routing", "repositories", "benchmarks")
SECTIONS: Final[dict[str, type[BaseModel]]] = {
    name: annotation
    for name, field in Settings.model_fields.items()
    if isinstance(annotation := field.annotation, type) and issubclass(annotation, BaseModel)
}
NAMED: Final = re.compile(rf"(?<![\w./*-])(?P<section>{'|'.join(SECTIONS)})\.(?P<name>[a-z][a-z0-9_]*)(?![\w/(])")


def texts() -> Iterator[tuple[str, str]]:
    """The texts of the code, and the documents, with where they stand."""
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    for path in (*files, *(ROOT / "src" / "tidegate").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def unknown(text: str) -> list[str]:
    """The settings that *text* names and nobody has; modules and files are called like that, too."""
    return [
        found[0]
        for found in NAMED.finditer(text)
        if found["name"] not in SECTIONS[found["section"]].model_fields and not is_module(found[0])
    ]


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file() or name.endswith((".py", ".md", ".svg", ".d2"))


def test_every_setting_that_is_named_exists() -> None:
    named = [(where, found[0]) for where, text in texts() for found in NAMED.finditer(text)]
    assert {"cache.when_away", "cache.url", "sharding.catalogue", "routing.primary_reads"} <= {
        name for _, name in named
    }
    wrong = [f"{where}: {name}" for where, text in texts() for name in unknown(text)]
    assert not wrong, "no such setting:\n" + "\n".join(wrong)


@pytest.mark.parametrize("text", ["set cache.consistency = true", "`routing.max_lag` seconds", "(pool.most)"])
def test_one_that_does_not_exist_is_found(text: str) -> None:
    assert len(unknown(text)) == 1


@pytest.mark.parametrize("section", [*SECTIONS.values(), ShardSettings, ReplicaSettings])
def test_every_setting_of_a_section_is_described_and_every_one_described_exists(section: type[BaseModel]) -> None:
    described = re.findall(r"^    +([a-z_]+): ", section.__doc__ or "", flags=re.MULTILINE)
    assert described == list(section.model_fields)
