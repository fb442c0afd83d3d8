"""The documents point to what is there: links, anchors, files, names, commands; and their code is code."""

from __future__ import annotations

import importlib
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import typer.main

from tidegate.proxy.cli.app import app

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md")])
URLS: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
BLOB: Final = URLS["Source"] + "/blob/main/"
"""A link to a file of the project that works outside of it too."""

_LINK: Final = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE: Final = re.compile(r"`([^`\n]+)`")
_FILE: Final = re.compile(r"[\w.-]+(/[\w.-]+)*(/|\.(py|md|toml|d2|svg|lua|yml|cfg|typed))")
_NAME: Final = re.compile(r"tidegate(\.\w+)+")
_SETTINGS: Final = {f"tidegate.{name}" for name in ("notes", "watched", "held", "checked", "slots_")}
_IN_DIFY: Final = {f"tidegate.proxy.dify.Workflow{kind}Repository" for kind in ("Run", "NodeExecution")}
_OTHERS: Final = {"tidegate.toml", "report.json", *_SETTINGS, *_IN_DIFY}
"""Files of a user's, settings of PostgreSQL, and classes that are made of Dify's."""


class Fence(NamedTuple):
    """A block of code.

    Args:
        line: where it begins.
        language: what stands behind the backticks.
        code: what is in it.
    """

    line: int
    language: str
    code: str


class Document(NamedTuple):
    """A page as its blocks of code, and the lines of text around them, which are empty where code is."""

    fences: list[Fence]
    text: list[str]


@cache
def read(page: Path) -> Document:
    document = Document([], [])
    opened: Fence | None = None
    code: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        is_mark = line.lstrip().startswith("```")
        document.text.append("" if is_mark or opened is not None else line)
        if not is_mark:
            code.append(line)
        elif opened is None:
            opened, code = Fence(number, line.strip()[3:], ""), []
        else:
            document.fences.append(opened._replace(code="\n".join(code) + "\n"))
            opened = None
    assert opened is None, f"the block of code in line {opened.line} has no end"
    return document


@cache
def anchors(page: Path) -> set[str]:
    """What a link to a heading may say, as it is made of the heading: lower case, hyphens, no other signs."""
    found: dict[str, int] = {}
    made = set()
    for line in read(page).text:
        if line.startswith("#"):
            heading = line.lstrip("#").strip().lower().replace("`", "")
            slug = re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")
            count = found[slug] = found.get(slug, -1) + 1
            made.add(f"{slug}-{count}" if count else slug)
    return made


def fences(*languages: str) -> list[Any]:
    return [
        pytest.param(fence.code, id=f"{page.relative_to(ROOT)}:{fence.line}")
        for page in PAGES
        for fence in read(page).fences
        if fence.language in languages
    ]


pages: Final = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@pages
def test_every_link_leads_somewhere(page: Path) -> None:
    wrong = []
    for target in _LINK.findall("\n".join(read(page).text)):
        path, _, anchor = target.removeprefix(BLOB).partition("#")
        if "://" in path:
            assert path in URLS.values(), f"{target}: a link out of the project, to a place that may cease"
            continue
        base = ROOT if target.startswith(BLOB) else page.parent
        there = (base / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            wrong.append(target)
    assert wrong == []


def test_links_of_the_readme_work_where_there_is_nothing_beside_it() -> None:
    links = _LINK.findall("\n".join(read(ROOT / "README.md").text))
    assert links
    assert [target for target in links if not target.startswith("https://")] == []


def test_the_urls_of_the_project_lead_to_files_of_it() -> None:
    assert URLS.keys() == {"Homepage", "Documentation", "Source", "Changelog"}
    files = [url.removeprefix(BLOB) for url in URLS.values() if url.startswith(BLOB)]
    assert [name for name in files if not (ROOT / name).is_file()] == []
    assert len(files) == 2


@pages
def test_every_block_of_code_names_its_language(page: Path) -> None:
    assert [fence.line for fence in read(page).fences if not fence.language] == []


@pages
def test_code_stands_in_blocks_that_are_marked(page: Path) -> None:
    wrong, in_list, before = [], False, ""
    for number, line in enumerate(read(page).text, 1):
        if line and not line.startswith(" "):
            in_list = re.match(r"([-*]|\d+\.) ", line) is not None
        if line.startswith("    ") and not before.strip() and not in_list:
            wrong.append(number)
        before = line
    assert wrong == []


@pages
def test_every_file_that_is_named_is_there(page: Path) -> None:
    named = {code for code in _CODE.findall("\n".join(read(page).text)) if _FILE.fullmatch(code)}
    assert [name for name in sorted(named - _OTHERS) if not (ROOT / name).exists()] == []


@pages
def test_every_name_of_the_package_is_there(page: Path) -> None:
    named = {found[0] for code in _CODE.findall("\n".join(read(page).text)) for found in _NAME.finditer(code)}
    assert [name for name in sorted(named - _OTHERS) if not _is_there(name)] == []


def _is_there(name: str) -> bool:
    if name == "tidegate.commands":  # the group of entry points, and no module
        return True
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part, None)
        return found is not None
    return False


@pytest.mark.parametrize("code", fences("python"))
def test_python_compiles(code: str) -> None:
    compile(code, "a document", "exec")


@pytest.mark.parametrize("code", fences("toml"))
def test_toml_can_be_read(code: str) -> None:
    assert tomllib.loads(code)


@pytest.mark.parametrize("code", fences("sh"))
def test_commands_and_their_options_are_there(code: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for line in code.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert set(words[1:2]) <= targets, line
        elif words[:1] == ["tidegate"]:
            _check_command(words[1:], line)


@pages
def test_commands_in_the_text_are_there(page: Path) -> None:
    for code in _CODE.findall("\n".join(read(page).text)):
        if code.startswith("tidegate "):
            _check_command(shlex.split(code)[1:], code)


def _check_command(words: list[str], line: str) -> None:
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    known = {"--help", *(option for parameter in command.params for option in parameter.opts)}
    assert not hasattr(command, "commands") or not words or words[0].startswith("-"), line
    own = words[: words.index("--")] if "--" in words else words  # what follows is another program's
    assert {word for word in own if word.startswith("--")} <= known, line


def test_the_architecture_names_every_folder_and_the_floors_as_they_are() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    packages = ["proxy", "cache", "routing", "repositories", "benchmarks"]
    folders = [made.parent.relative_to(ROOT) for name in packages for made in (ROOT / name).rglob("__init__.py")]
    assert [str(folder) for folder in folders if f"`{folder}/`" not in page] == []
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (floors,) = [contract["layers"] for contract in contracts if contract["name"] == "floors of proxy"]
    assert "\n".join(floor.replace("tidegate.proxy.", "") for floor in floors) in page
