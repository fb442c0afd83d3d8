"""Commits that never come back: their tenants are the primary's for a time, and for no longer."""

from __future__ import annotations

from tidegate.position import NOWHERE, Position
from tidegate.routing.replicas.own_writes import OwnWrites


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_lost_commit_keeps_its_tenant_on_the_primary_for_its_time_however_often_others_are_made() -> None:
    clock = Clock()
    written = OwnWrites(unsure_s=30, clock=clock)
    written.begin(["ann"])  # and never ends
    for second in range(1, 60):
        clock.now_s = float(second)
        ticket = written.begin(["ann"])
        assert written.position("ann") is None
        written.end(["ann"], Position(1, second), ticket)
        assert (written.position("ann") is None) == (second < 30)
        assert written.position("bob") == NOWHERE
    assert written.position("ann") == Position(1, 59)


def test_the_position_of_all_is_not_known_while_any_commit_is_under_way() -> None:
    clock = Clock()
    written = OwnWrites(unsure_s=30, clock=clock)
    written.end(["ann"], Position(1, 5), written.begin(["ann"]))
    assert written.newest == Position(1, 5)
    written.begin(["bob"])
    assert written.newest is None
    clock.now_s = 31.0
    assert written.newest == Position(1, 5)


def test_what_is_never_asked_for_does_not_grow_with_the_commits_that_fail() -> None:
    clock = Clock()
    written = OwnWrites(unsure_s=30, clock=clock)
    for second in range(1_000):
        clock.now_s = float(second)
        written.begin(["ann"])
    assert len(written._all.committing) <= 31
    assert len(written._tenants["ann"].committing) <= 31
