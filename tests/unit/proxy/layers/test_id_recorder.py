"""What a commit tells of whose ids are whose, and what it does not."""

from __future__ import annotations

from tidegate.cache.store import Change
from tidegate.proxy.layers.id_recorder import commit_recorder
from tidegate.proxy.writes.invalidation import change_of
from tidegate.repositories.run_policies import WORKFLOW_RUN_POLICIES
from tidegate.repositories.tracked import TRACKED
from tidegate.routing.sharding.tenant_directory import IdDirectory

RUN, OTHER = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"


def test_rows_tell_of_themselves_and_not_of_what_they_name() -> None:
    directory = IdDirectory()
    tags = {f"run:{RUN}", f"node:{OTHER}", f"nodes:{OTHER}", "runs:app"}
    commit_recorder(directory, TRACKED)([Change("a", frozenset(tags))])
    assert directory.tenants("run", [RUN, OTHER]) == {RUN: "a"}
    assert directory.tenants("node", [RUN, OTHER]) == {OTHER: "a"}


def test_an_invalidation_by_hand_tells_nothing() -> None:
    directory = IdDirectory()
    change = change_of("a", {"run_id": RUN}, WORKFLOW_RUN_POLICIES.invalidation)
    assert f"run:{RUN}" in change.tags
    commit_recorder(directory, TRACKED)([change])
    assert len(directory) == 0
