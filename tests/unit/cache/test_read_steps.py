"""What a read does next, decided without a store, a clock or waiting."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tidegate.cache.marks import Noted, Refusal, RootState
from tidegate.cache.read_steps import PRIMARY_ONLY, Advance, Fill, Patience, Query, Serve, Wait, next_step
from tidegate.cache.request import ONLY_PRIMARY, Limits, ReadRequirement
from tidegate.cache.store import Hit, Miss, NoRoot
from tidegate.position import History, Origin, Position

if TYPE_CHECKING:
    from tidegate.cache.store import Lookup

ORIGIN, POSITION = Origin(1, History(2), "s0"), Position(2, 77)
CLEAN = Miss(Noted("n", 3), Refusal.NO_ENTRY, RootState.CLEAN, ORIGIN, POSITION, {})
DIRTY = replace(CLEAN, intents={"9": 5})
MOVED = replace(CLEAN, reason=Refusal.EPOCH)
UNCLEAN = [replace(CLEAN, state=state) for state in RootState if state is not RootState.CLEAN]
FRESH = Hit(b"body", Noted("n", 3), ("g",))
PATIENT = Patience.of(Limits(steps=2, wait_ms=50))


def test_a_fresh_entry_is_served_whatever_the_patience() -> None:
    for patience in (PATIENT, Patience(0, 0), Patience(0, 0, "process", anew=True)):
        assert next_step(FRESH, patience) == Serve(FRESH)


@pytest.mark.parametrize("found", [NoRoot(), DIRTY, *UNCLEAN])
def test_what_is_not_clean_is_advanced_while_there_are_steps_left_and_then_the_primary_is_asked(found: Lookup) -> None:
    assert next_step(found, PATIENT) == Advance(found)  # type: ignore[arg-type]
    assert next_step(found, Patience(0, 50)) == PRIMARY_ONLY == Query(ONLY_PRIMARY)


@pytest.mark.parametrize(("found", "primary"), [(MOVED, False), (replace(MOVED, intents={"9": 5}), True)])
def test_a_tenant_that_has_moved_is_queried_at_once_and_those_below_are_told_its_origin(
    found: Miss, *, primary: bool
) -> None:
    expected = Query(ReadRequirement(POSITION, primary=primary, root=ORIGIN))
    assert next_step(found, PATIENT) == expected
    assert next_step(found, Patience(0, 0, "thread")) == expected


@pytest.mark.parametrize("anew", [False, True])
def test_a_miss_with_clean_marks_is_filled_if_nobody_else_does_it(*, anew: bool) -> None:
    assert next_step(CLEAN, PATIENT._replace(anew=anew)) == Fill(CLEAN, anew)
    assert next_step(CLEAN, Patience(0, 0, anew=anew)) == Fill(CLEAN, anew), "filling takes no patience"


@pytest.mark.parametrize("filler", ["thread", "process"])
def test_what_somebody_else_fills_is_waited_for_until_time_is_up(filler: str) -> None:
    waiting = PATIENT._replace(filler=filler)  # type: ignore[arg-type]
    assert next_step(CLEAN, waiting) == Wait(filler)  # type: ignore[arg-type]
    for left_ms in (0, -1):
        late = next_step(CLEAN, waiting._replace(left_ms=left_ms))
        assert late == Query(ReadRequirement(POSITION, primary=False, root=ORIGIN))
