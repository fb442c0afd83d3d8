"""Policies that would mean something else than what was written are refused when they are made."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate import PolicyTable, Read, Tracked
from tidegate.errors import PolicyError
from tidegate.repositories.models import WorkflowRun


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tags": "runs:{app_id}"}, "tags is the text 'runs:{app_id}'"),
        ({"parent": "app_id"}, "parent is the text 'app_id'"),
        ({"identifies": "run"}, "identifies is the text 'run'"),
        ({"names": ("app_id", "app")}, "names is the text 'app_id'"),
        ({"names": "app"}, "names is the text 'app'"),
    ],
)
def test_a_text_where_a_tracked_model_names_several_things_is_refused_with_its_value(
    given: dict[str, Any], said: str
) -> None:
    with pytest.raises(PolicyError) as refused:
        Tracked(WorkflowRun, **given)
    assert f"Tracked(WorkflowRun): {said}; it must be a tuple" in str(refused.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ids": "run_id"}, "ids is the text 'run_id'"),
        ({"invalidation": {"app_id": "runs:{app_id}"}}, "invalidation['app_id'] is the text 'runs:{app_id}'"),
    ],
)
def test_a_text_where_a_policy_table_names_several_things_is_refused_with_its_value(
    given: dict[str, Any], said: str
) -> None:
    with pytest.raises(PolicyError) as refused:
        PolicyTable({}, **given)
    assert f"PolicyTable: {said}; it must be a tuple" in str(refused.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"near": "often"}, "Read: near is 'often'; it must be one of off, strict, bounded"),
        ({"node": "Primary"}, "Read: node is 'Primary'; it must be one of any, primary"),
    ],
)
def test_a_word_that_no_policy_knows_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyError) as refused:
        Read(guard="run:{run_id}", **given)
    assert str(refused.value) == said
