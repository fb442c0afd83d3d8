"""Who the primary is and how far behind a replica is, by what monitors have seen: (node, what it said) in order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tidegate.position import History, HistoryRecord, Position
from tidegate.routing.replicas.topology import Node, ServerId, Topology, View

A, B, C = ServerId("1", "a"), ServerId("1", "b"), ServerId("1", "c")
STRANGER = ServerId("2", "x")


def standby(server: ServerId, lsn: int = 100, timeline: int = 1, at_s: float = 0.0) -> View:
    return View(at_s, server, standby=True, position=Position(timeline, lsn))


def primary(server: ServerId, lsn: int = 100, timeline: int = 1, at_s: float = 0.0) -> View:
    return View(at_s, server, standby=False, position=Position(timeline, lsn))


def topology() -> Topology:
    return Topology([Node("a"), Node("b"), Node("c")])


def tell(known: Topology, *seen: tuple[str, View | None]) -> None:
    for name, view in seen:
        node = known.node(name)
        assert node is not None
        if view is None:
            known.lost(node, "gone")
        else:
            known.observed(node, view)


WHO_IS_PRIMARY = {
    "the first until somebody was asked": ([], "a"),
    "a standby is none": ([("a", standby(A)), ("b", standby(B))], "a"),
    "whoever is no standby": ([("a", standby(A)), ("b", primary(B)), ("c", standby(C))], "b"),
    "a promoted one has a higher timeline": ([("a", primary(A)), ("b", primary(B, timeline=2))], "b"),
    "and keeps its place when the demoted one answers": (
        [("a", primary(A)), ("b", primary(B, timeline=2)), ("a", primary(A, lsn=900))],
        "b",
    ),
    "also when the promoted one is lost": (
        [("a", primary(A)), ("b", primary(B, timeline=2)), ("b", None), ("a", primary(A, lsn=900))],
        "b",
    ),
    "a primary that is lost stays until there is another": ([("a", primary(A)), ("a", None), ("b", standby(B))], "a"),
    "of two on one timeline the one that was there": ([("a", primary(A)), ("b", primary(B))], "a"),
    "and no replica without its standby.signal": ([("a", primary(A)), ("a", standby(A)), ("b", primary(B))], "a"),
    "not when the primary is lost either": ([("a", primary(A)), ("a", None), ("b", primary(B))], "a"),
    "one of another cluster never": ([("a", primary(A)), ("b", primary(STRANGER, timeline=7))], "a"),
    "not even when the primary is lost": ([("a", primary(A)), ("a", None), ("b", primary(STRANGER))], "a"),
    "which cluster it is the first node says, as a standby too": (
        [("a", standby(A)), ("b", primary(STRANGER, timeline=7)), ("c", primary(C))],
        "c",
    ),
    "or the first primary that is found, if that cannot be asked": (
        [("a", None), ("b", primary(B, timeline=2)), ("c", standby(C, timeline=2))],
        "b",
    ),
    "unless another server contradicts it": (
        [("a", None), ("b", standby(STRANGER)), ("c", primary(C, timeline=2))],
        "a",
    ),
    "one that was never promoted does not say so": ([("a", None), ("c", primary(C))], "a"),
    "it comes back after being promoted again": (
        [("a", primary(A)), ("b", primary(B, timeline=2)), ("a", standby(A, timeline=2)), ("a", primary(A, 900, 3))],
        "a",
    ),
}


@pytest.mark.parametrize(("seen", "expected"), WHO_IS_PRIMARY.values(), ids=WHO_IS_PRIMARY)
def test_the_primary_is_found(seen: list[tuple[str, View | None]], expected: str) -> None:
    known = topology()
    tell(known, *seen)
    assert known.primary.name == expected
    assert [node.name for node in known.replicas] == [name for name in "abc" if name != expected]


def with_history(view: View, ordinal: int, *, of: ServerId | None = None) -> View:
    """The view of a server with a record of this history, which was made for itself, or for another server's life."""
    bound_to = view.server.started if of is None else of.started
    record = HistoryRecord(History(ordinal, "ab"), view.position.timeline, bound_to, "-", "d")
    return replace(view, record=record)


USED = with_history(primary(A, timeline=3), 1)
HISTORIES = {
    "a newer one follows on a lower timeline": ([("a", USED), ("a", None), ("b", 2, None)], "b"),
    "also when the one before has become a standby": ([("a", USED), ("a", standby(A, 100, 3)), ("b", 2, None)], "b"),
    "not while the one that is used says that it is the primary": ([("a", USED), ("b", 2, None)], "a"),
    "not one that is as old": ([("a", USED), ("a", None), ("b", 1, None)], "a"),
    "nor one that was made for another life": ([("a", USED), ("a", None), ("b", 2, A)], "a"),
}


@pytest.mark.parametrize(("seen", "expected"), HISTORIES.values(), ids=HISTORIES)
def test_after_the_primary_a_newer_history_counts(seen: list[tuple[Any, ...]], expected: str) -> None:
    known = topology()
    for name, said, *of in seen:
        view = with_history(primary(B, timeline=2), said, of=of[0]) if of else said
        tell(known, (name, view))
    assert known.primary.name == expected


def test_a_promotion_is_told_once_and_outside_of_the_lock() -> None:
    told: list[tuple[str, str, str]] = []

    def changed(before: Node, now: Node) -> None:
        known.remove(before)  # which would never return while the topology held its lock
        told.append((before.name, now.name, known.primary.name))

    known = Topology([Node("a"), Node("b")], changed)
    tell(known, ("a", primary(A)), ("b", primary(B, timeline=2)), ("b", primary(B, timeline=2, lsn=200)))
    assert told == [("a", "b", "b")]


# The primary's log: (when it was asked, where it was); then where a replica was, and when that was asked.
LOG = [(10.0, 100), (11.0, 200), (12.0, 300)]
LAGS = {
    "level with it": (LOG, 300, 12.5, 0.0),
    "ahead of what was seen": (LOG, 400, 12.5, 0.0),
    "behind since the primary was first seen past it": (LOG, 250, 12.5, 0.5),
    "behind by more": (LOG, 100, 12.5, 1.5),
    "behind all that is known": (LOG, 50, 12.5, 2.5),
    "an idle primary makes no lag": ([*LOG, (90.0, 300)], 300, 99.0, 0.0),
    "nor hides one": ([*LOG, (90.0, 300)], 250, 99.0, 87.0),
    "nothing is known of the primary": ([], 50, 12.5, 0.0),
    "asked before the primary was": (LOG, 250, 11.5, 0.0),
}


@pytest.mark.parametrize(("log", "lsn", "at_s", "lag_s"), LAGS.values(), ids=LAGS)
def test_lag_is_told_by_the_primarys_log(log: list[tuple[float, int]], lsn: int, at_s: float, lag_s: float) -> None:
    known = topology()
    tell(known, *(("a", primary(A, seen, at_s=when_s)) for when_s, seen in log), ("b", standby(B, lsn, at_s=at_s)))
    assert known.nodes[1].lag_s == pytest.approx(lag_s)


def test_a_lag_of_minutes_is_told_though_the_primary_is_asked_every_ten_milliseconds() -> None:
    known = topology()
    tell(known, *(("a", primary(A, lsn=100 + number, at_s=number / 100)) for number in range(60_000)))
    for lag_s in (0.1, 1, 10, 100, 599):
        tell(known, ("b", standby(B, lsn=60_100 - round(lag_s * 100) - 1, at_s=600.0)))
        assert known.nodes[1].lag_s == pytest.approx(lag_s, rel=0.05)
    assert len(known._log._points) <= 512


LOST_TAILS = {
    "a promotion": primary(B, lsn=250, timeline=2, at_s=13.0),
    "a crash of the primary": primary(A, lsn=250, at_s=13.0),
}


@pytest.mark.parametrize("view", LOST_TAILS.values(), ids=LOST_TAILS)
def test_what_is_lost_with_the_end_of_a_log_is_no_lag(view: View) -> None:
    known = topology()
    tell(known, *(("a", primary(A, seen, at_s=when_s)) for when_s, seen in LOG))
    tell(known, ("b" if view.server == B else "a", view), ("c", standby(C, lsn=250, timeline=2, at_s=60.0)))
    assert known.nodes[2].lag_s == 0.0
    tell(known, ("c", standby(C, lsn=150, timeline=2, at_s=60.0)))
    assert known.nodes[2].lag_s == pytest.approx(49.0)


def test_a_primary_that_was_demoted_does_not_write_the_log() -> None:
    known = topology()
    tell(known, ("a", primary(A)), ("b", primary(B, timeline=2)), ("a", primary(A, 900, 1, at_s=2.0)))
    tell(known, ("c", standby(C, timeline=2, at_s=9.0)))
    assert known.nodes[2].lag_s == 0.0


VOUCHING = {
    "a connection that was open when the question was sent": (A, 4.9, True),
    "at the very moment": (A, 5.0, True),
    "one that was opened after it": (A, 5.1, False),
    "one to a server that was started anew since": (A._replace(started="later"), 4.9, False),
    "one to another cluster": (A._replace(system="2"), 4.9, False),
}


@pytest.mark.parametrize(("server", "opened_s", "vouches"), VOUCHING.values(), ids=VOUCHING)
def test_a_view_vouches_for_older_connections_to_the_same_server(
    server: ServerId, opened_s: float, vouches: bool
) -> None:
    assert standby(A, at_s=5.0).vouches_for(server, opened_s) is vouches


def test_nodes_come_and_go() -> None:
    known = topology()
    late = Node("d", founding=True)
    known.add(late)
    tell(known, ("d", primary(C, timeline=2)))
    known.remove(late)
    assert known.node("d") is late, "the primary must stay until there is another"
    known.remove(known.nodes[1])
    assert [node.name for node in known.nodes] == ["a", "c", "d"]


def test_what_was_known_of_a_node_is_void_once_it_is_lost() -> None:
    known = topology()
    tell(known, ("b", standby(B, 300)))
    seen = known.nodes[1].view
    assert seen is not None
    assert seen.position == Position(1, 300)
    tell(known, ("b", None))
    assert (known.nodes[1].view, known.nodes[1].trouble) == (None, "gone")
    tell(known, ("b", replace(standby(B, 300), replay_paused=True)))
    assert known.nodes[1].trouble == ""
