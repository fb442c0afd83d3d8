"""The settings in the documents are the settings that there are, with the values that they have."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tidegate.proxy.settings import CacheSettings, PoolSettings, RoutingSettings, Settings, ShardingSettings

if TYPE_CHECKING:
    from pydantic import BaseModel

DOCS: Final = Path(__file__).parents[3] / "docs"
EXAMPLES: Final = {"url", "near_modes", "pins", "ranges", "catalogue"}
"""What stands there shows a form, and is no default."""


def documented(page: str, heading: str) -> dict[str, Any]:
    section = (DOCS / page).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    first = re.search(r"```toml\n(.*?)```", section, re.DOTALL)
    assert first is not None
    return tomllib.loads(first[1])


def test_they_are_settings() -> None:
    assert Settings.model_validate(documented("gate.md", "Settings")).shards[0].name == "s0"


def test_every_section_is_there() -> None:
    assert documented("gate.md", "Settings").keys() == Settings.model_fields.keys()


@pytest.mark.parametrize(
    ("page", "heading", "section", "model"),
    [
        ("gate.md", "Settings", "cache", CacheSettings),
        ("gate.md", "Settings", "pool", PoolSettings),
        ("routing.md", "Settings", "routing", RoutingSettings),
        ("sharding.md", "The map", "sharding", ShardingSettings),
    ],
)
def test_every_field_is_there_with_its_default(page: str, heading: str, section: str, model: type[BaseModel]) -> None:
    found = documented(page, heading)[section]
    assert found.keys() == model.model_fields.keys()
    said = model.model_validate(found).model_dump(exclude=EXAMPLES)
    assert said == model().model_dump(exclude=EXAMPLES)
