"""Each picture of the documents is the one that its source draws: the picture names the source's hash."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import pytest

FOLDER: Final = Path(__file__).resolve().parents[2] / "docs" / "pictures"
SOURCES: Final = sorted(FOLDER.glob("*.d2"))
_NAMED: Final = re.compile(r"<!-- sha256 of the source: ([0-9a-f]{64}) -->\s*\Z")


def test_every_picture_has_a_source_and_every_source_a_picture() -> None:
    assert SOURCES
    assert {path.stem for path in FOLDER.glob("*.svg")} == {path.stem for path in SOURCES}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_picture_is_as_new_as_its_source(source: Path) -> None:
    named = _NAMED.search(source.with_suffix(".svg").read_text(encoding="utf-8"))
    assert named is not None, "the picture does not name its source: run make pictures"
    assert named[1] == hashlib.sha256(source.read_bytes()).hexdigest(), f"{source.name} has changed: run make pictures"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_picture_has_a_white_ground_that_shows_in_dark_mode_too(source: Path) -> None:
    picture = ET.parse(source.with_suffix(".svg")).getroot()  # noqa: S314  # our own file
    ground = next(picture.iter("{http://www.w3.org/2000/svg}rect"))
    drawing = next(element for element in picture if element.tag.endswith("svg"))
    assert (ground.get("fill"), ground.get("width"), ground.get("height")) == (
        "#FFFFFF",
        drawing.get("width"),
        drawing.get("height"),
    )
