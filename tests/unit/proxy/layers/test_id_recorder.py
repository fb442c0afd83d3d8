"""What a commit tells of whose ids are whose, and what it does not."""

from __future__ import annotations

from tidegate.cache.store import Change
from tidegate.proxy.layers.id_recorder import record_committed
from tidegate.proxy.writes.invalidation import change_of
from tidegate.routing.sharding.tenant_directory import IdDirectory

RUN, OTHER = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"


def test_rows_tell_of_themselves_and_not_of_what_they_name() -> None:
    directory = IdDirectory()
    record_committed(directory, [Change("a", frozenset({f"run:{RUN}", f"node:{OTHER}", f"nodes:{OTHER}", "runs:app"}))])
    assert directory.tenants("run", [RUN, OTHER]) == {RUN: "a"}
    assert directory.tenants("node", [RUN, OTHER]) == {OTHER: "a"}


def test_an_invalidation_by_hand_tells_nothing() -> None:
    directory = IdDirectory()
    record_committed(directory, [change_of("a", None, RUN)])
    assert len(directory) == 0
