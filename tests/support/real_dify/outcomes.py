"""What became of each test of a run, from pytest's XML report, and which passes another run has lost."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PASSED = "passed"


def outcomes(report: Path) -> dict[str, str]:
    """Return what became of each test: "passed", "failed", "error" or "skipped".

    Args:
        report: the file that pytest's ``--junitxml`` has written.
    """
    found: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):  # noqa: S314  # pytest has written it, for us
        name = f"{case.get('classname')}::{case.get('name')}"
        tags = {child.tag for child in case}
        became = next((tag for tag in ("error", "failure", "skipped") if tag in tags), PASSED)
        became = "failed" if became == "failure" else became
        # A test whose end fails is reported twice, and so may two be that have one name: what is worse counts.
        found[name] = became if found.get(name, PASSED) == PASSED else found[name]
    return found


def lost(plain: Mapping[str, str], installed: Mapping[str, str]) -> dict[str, str]:
    """Return the tests that pass plain and not installed, with what became of them."""
    passed = (name for name, became in plain.items() if became == PASSED)
    return {name: became for name in passed if (became := installed.get(name, "not run")) != PASSED}


def passes(found: Mapping[str, str]) -> int:
    """Return how many tests have passed."""
    return sum(became == PASSED for became in found.values())
