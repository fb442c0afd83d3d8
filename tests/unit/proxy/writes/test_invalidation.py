"""What an invalidation by hand bumps, and what a policy table may say of it."""

from __future__ import annotations

import pytest

from tidegate.errors import PolicyError
from tidegate.proxy.writes.invalidation import change_of, checked_invalidation, is_by_hand

TEMPLATES = {"app_id": ("app:{app_id}",), "run_id": ("run:{run_id}", "nodes:{run_id}")}


def test_what_is_named_is_bumped_and_marked_as_named_by_hand() -> None:
    change = change_of("t", {"run_id": "r"}, TEMPLATES)
    assert not change.whole
    assert {tag for tag in change.tags if not tag.startswith("byhand:")} == {"run:r", "nodes:r"}
    assert is_by_hand("run:r", change)
    assert not is_by_hand("run:other", change)
    assert change_of("t", {}, TEMPLATES).whole


def test_what_no_table_names_is_refused() -> None:
    with pytest.raises(ValueError, match="knows no colour: expected one of app_id, run_id"):
        change_of("t", {"colour": "red"}, TEMPLATES)


@pytest.mark.parametrize("texts", ["app:{app_id}", (), ("app:{ap_id}",), ("app:{app_id}:{day}",), ("app",)])
def test_a_template_that_could_bump_nothing_is_an_error(texts: tuple[str, ...]) -> None:
    checked_invalidation(TEMPLATES)
    with pytest.raises(PolicyError, match="invalidation: "):
        checked_invalidation({"app_id": texts})
