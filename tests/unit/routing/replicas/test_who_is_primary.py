"""Which cluster the servers are of, and which of them is its primary, in whatever order they answer."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import pytest

from tidegate.position import Position
from tidegate.routing.replicas.topology import Node, ServerId, Topology, View

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CONFIGURED, _FIRST, _SECOND = "configured", "first", "second"


def primary(timeline: int, system: str = "ours") -> View:
    return View(0.0, ServerId(system, ""), standby=False, position=Position(timeline, 100))


def standby(timeline: int, system: str = "ours") -> View:
    return View(0.0, ServerId(system, ""), standby=True, position=Position(timeline, 100))


AWAY = None
CASES: Mapping[str, tuple[Sequence[View | None], str, str]] = {
    "all is well": ([primary(1), standby(1), standby(1)], "ours", _CONFIGURED),
    "a stranger's primary": ([primary(1), primary(1, "other"), standby(1)], "ours", _CONFIGURED),
    "a stranger's promoted primary": ([primary(1), primary(7, "other"), standby(1)], "ours", _CONFIGURED),
    "a failover, and the old one is away": ([AWAY, primary(2), standby(2)], "ours", _FIRST),
    "a failover, and the old one is as it was": ([primary(1), primary(2), standby(2)], "ours", _FIRST),
    "a failover, and the old one is a standby": ([standby(2), primary(2), standby(2)], "ours", _FIRST),
    "the primary is away": ([AWAY, standby(1), standby(1)], "", _CONFIGURED),
    "the primary is away, and a stranger's is there": ([AWAY, primary(1, "other"), standby(1)], "", _CONFIGURED),
    "the same, and it was promoted": ([AWAY, primary(7, "other"), standby(1)], "", _CONFIGURED),
    "a failover and a stranger's standby": ([AWAY, primary(2), standby(2, "other")], "", _CONFIGURED),
    "a standby that has lost its signal": ([primary(1), primary(1), standby(1)], "ours", _CONFIGURED),
    "the same, and the primary is away": ([AWAY, primary(1), standby(1)], "", _CONFIGURED),
    "two were promoted, one of them twice": ([AWAY, primary(2), primary(3)], "ours", _SECOND),
}


@pytest.mark.parametrize("case", CASES)
def test_the_order_in_which_servers_answer_does_not_matter(case: str) -> None:
    views, system, name = CASES[case]
    for order in permutations(range(3)):
        topology = Topology([Node(_CONFIGURED), Node(_FIRST), Node(_SECOND)])
        for turn in (*order, *order):
            tell(topology, turn, views[turn])
        assert (topology.system, topology.primary.name) == (system, name), order


def tell(topology: Topology, which: int, view: View | None) -> None:
    if view is None:
        topology.lost(topology.nodes[which], "connection refused")
    else:
        topology.observed(topology.nodes[which], view)


def test_what_the_configured_primary_says_ends_what_a_stranger_has_made_believe() -> None:
    changes: list[tuple[str, str]] = []
    nodes = [Node(_CONFIGURED), Node(_FIRST)]
    topology = Topology(nodes, lambda before, now: changes.append((before.name, now.name)))
    tell(topology, 0, AWAY)
    tell(topology, 1, primary(7, "other"))
    assert topology.primary is nodes[1], "nobody contradicted it"
    tell(topology, 0, primary(1))
    assert (topology.system, topology.timeline, topology.primary) == ("ours", 1, nodes[0])
    tell(topology, 1, primary(8, "other"))
    assert topology.primary is nodes[0]
    assert changes == [(_CONFIGURED, _FIRST), (_FIRST, _CONFIGURED)]


def test_a_standby_that_has_lost_its_signal_is_no_primary_while_the_primary_is_away() -> None:
    nodes = [Node(_CONFIGURED), Node(_FIRST)]
    topology = Topology(nodes)
    tell(topology, 0, primary(1))
    tell(topology, 1, primary(1))
    tell(topology, 0, AWAY)
    tell(topology, 1, primary(1))
    assert topology.primary is nodes[0]
    tell(topology, 1, primary(2))
    assert topology.primary is nodes[1]


def test_a_server_that_was_removed_while_it_was_asked_is_not_heard() -> None:
    nodes = [Node(_CONFIGURED), Node(_FIRST)]
    topology = Topology(nodes)
    tell(topology, 0, primary(1))
    topology.remove(nodes[1])
    topology.observed(nodes[1], primary(2))
    assert topology.primary is nodes[0]
