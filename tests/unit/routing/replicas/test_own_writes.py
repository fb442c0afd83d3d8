"""Positions by tenant: what happens in order, and what a node must have reached then; None: only the primary."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from tidegate.position import NOWHERE, Position
from tidegate.routing.replicas.own_writes import OwnWrites

UNSURE_S = 30.0


@dataclass
class Steps:
    """A :class:`OwnWrites` on a clock of its own."""

    most: int = 3
    now_s: float = 0.0
    tickets: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.written = OwnWrites(most=self.most, unsure_s=UNSURE_S, clock=lambda: self.now_s)

    def take(self, *step: str | float) -> None:
        """What was written down as ("begin", commit, tenants), ("end", commit, tenants, lsn), ("wait", seconds) ..."""
        match step:
            case ("begin", str(commit), str(tenants)):
                self.tickets[commit] = self.written.begin(tenants)
            case ("end", str(commit), str(tenants), int(lsn)):
                self.written.end(tenants, Position(1, lsn), self.tickets[commit])
            case ("reach", str(tenant), int(lsn)):
                self.written.reach(tenant, Position(1, lsn))
            case ("wait", int() | float() as seconds):
                self.now_s += seconds
            case _:
                raise AssertionError(step)


TABLE: dict[str, tuple[list[tuple[str | float, ...]], str, Position | None]] = {
    "nothing written": ([], "a", NOWHERE),
    "a commit": ([("begin", "x", "a"), ("end", "x", "a", 10)], "a", Position(1, 10)),
    "of another tenant": ([("begin", "x", "a"), ("end", "x", "a", 10)], "b", NOWHERE),
    "of two tenants": ([("begin", "x", "ab"), ("end", "x", "ab", 10)], "b", Position(1, 10)),
    "under way": ([("begin", "x", "a")], "a", None),
    "under way after another": ([("begin", "x", "a"), ("end", "x", "a", 10), ("begin", "y", "a")], "a", None),
    "one of two under way": ([("begin", "x", "a"), ("begin", "y", "a"), ("end", "x", "a", 10)], "a", None),
    "both back": (
        [("begin", "x", "a"), ("begin", "y", "a"), ("end", "y", "a", 20), ("end", "x", "a", 10)],
        "a",
        Position(1, 20),
    ),
    "positions do not go back": ([("reach", "a", 20), ("reach", "a", 10)], "a", Position(1, 20)),
    "by token": ([("reach", "a", 10)], "a", Position(1, 10)),
    "a token while a commit is under way": ([("begin", "x", "a"), ("reach", "a", 10)], "a", None),
    "one that never came back": ([("begin", "x", "a"), ("wait", 29.9)], "a", None),
    "is waited for for a bounded time": ([("reach", "a", 5), ("begin", "x", "a"), ("wait", 30)], "a", Position(1, 5)),
    "which later commits do not prolong": (
        [("begin", "x", "a"), ("wait", 20), ("begin", "y", "a"), ("wait", 10), ("end", "y", "a", 10)],
        "a",
        Position(1, 10),
    ),
    "and its late end does not end another's": (
        [("begin", "x", "a"), ("wait", 31), ("begin", "y", "a"), ("end", "x", "a", 10)],
        "a",
        None,
    ),
    "the longest unwritten is forgotten into the floor": (
        [("reach", "a", 50), ("reach", "b", 10), ("reach", "c", 10), ("reach", "d", 10)],
        "a",
        Position(1, 50),
    ),
    "which all unknown ones share": (
        [("reach", "a", 50), ("reach", "b", 10), ("reach", "c", 10), ("reach", "d", 10)],
        "z",
        Position(1, 50),
    ),
    "and new ones begin at": (
        [("reach", "a", 50), ("reach", "b", 10), ("reach", "c", 10), ("reach", "d", 10), ("reach", "e", 12)],
        "e",
        Position(1, 50),
    ),
    "those that are known keep their own": (
        [("reach", "a", 50), ("reach", "b", 10), ("reach", "c", 10), ("reach", "d", 10)],
        "c",
        Position(1, 10),
    ),
    "what is written again is not the oldest": (
        [("reach", "a", 50), ("reach", "b", 10), ("reach", "c", 10), ("reach", "a", 51), ("reach", "d", 10)],
        "z",
        Position(1, 10),
    ),
    "what is being written is not forgotten": (
        [("begin", "x", "a"), ("reach", "b", 10), ("reach", "c", 10), ("reach", "d", 10), ("reach", "e", 10)],
        "a",
        None,
    ),
    "unless it never came back": (
        [("begin", "x", "a"), ("wait", 31), ("reach", "b", 9), ("reach", "c", 10), ("reach", "d", 10)],
        "a",
        NOWHERE,
    ),
}


@pytest.mark.parametrize(("steps", "tenant", "expected"), TABLE.values(), ids=TABLE)
def test_what_a_node_must_have_reached(
    steps: list[tuple[str | float, ...]], tenant: str, expected: Position | None
) -> None:
    known = Steps()
    for step in steps:
        known.take(*step)
    assert known.written.position(tenant) == expected


def test_tenants_under_way_may_be_more_than_are_remembered_but_no_others() -> None:
    known = Steps()
    known.take("begin", "x", "abcde")
    for tenant in "fghijk":
        known.take("reach", tenant, 10)
    assert len(known.written._tenants) <= len("abcde") + 1
    known.take("end", "x", "abcde", 20)
    for tenant in "lmn":
        known.take("reach", tenant, 30)
    assert len(known.written._tenants) == known.most
    assert known.written.position("a") == Position(1, 20)


def test_the_newest_of_all_is_told() -> None:
    known = Steps()
    known.take("begin", "x", "a")
    known.take("end", "x", "a", 10)
    known.written.reach("b", Position(2, 5))
    assert known.written.newest == Position(2, 10)


def test_nobody_sees_a_commit_that_is_over_without_its_position() -> None:
    """Between the two a read would go to a replica that has not got the write."""
    known = Steps()
    known.take("begin", "x", "a")
    found: list[Position | None] = []
    readers: list[threading.Thread] = []

    class Looked(dict[int, float]):
        def pop(self, *args: object) -> float:
            ended = super().pop(*args)  # type: ignore[call-overload]
            readers.append(threading.Thread(target=lambda: found.append(known.written.position("a"))))
            readers[0].start()
            readers[0].join(0.05)
            return float(ended)

    tenant = known.written._tenants["a"]
    tenant.committing = Looked(tenant.committing)
    known.take("end", "x", "a", 10)
    readers[0].join()
    assert found == [Position(1, 10)]
