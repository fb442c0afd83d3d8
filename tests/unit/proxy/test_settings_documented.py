"""The settings in docs/gate.md are the settings that there are, with the values that they have."""

from __future__ import annotations

import textwrap
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tidegate.proxy.settings import CacheSettings, PoolSettings, Settings

if TYPE_CHECKING:
    from pydantic import BaseModel

PAGE: Final = Path(__file__).parents[3] / "docs" / "gate.md"
EXAMPLES: Final = {"url", "near_modes"}
"""What stands there shows a form, and is no default."""


@pytest.fixture(scope="module")
def documented() -> dict[str, Any]:
    settings = PAGE.read_text(encoding="utf-8").split("## Settings\n")[1].split("\n## ")[0]
    return tomllib.loads(textwrap.dedent("\n".join(line for line in settings.splitlines() if line.startswith("    "))))


def test_they_are_settings(documented: dict[str, Any]) -> None:
    assert Settings.model_validate(documented).shards[0].name == "s0"


def test_every_section_is_there(documented: dict[str, Any]) -> None:
    assert documented.keys() == Settings.model_fields.keys()


@pytest.mark.parametrize(("section", "model"), [("cache", CacheSettings), ("pool", PoolSettings)])
def test_every_field_is_there_with_its_default(
    documented: dict[str, Any], section: str, model: type[BaseModel]
) -> None:
    assert documented[section].keys() == model.model_fields.keys()
    said = model.model_validate(documented[section]).model_dump(exclude=EXAMPLES)
    assert said == model().model_dump(exclude=EXAMPLES)
