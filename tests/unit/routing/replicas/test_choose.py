"""Why a replica may not answer, and which of those that may does; the clock and chance are the test's."""

from __future__ import annotations

import itertools
from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import pytest

from tidegate.position import NOWHERE, Position
from tidegate.routing.replicas.choose import ReplicaRequirement, choose, refusal
from tidegate.routing.replicas.health import Health
from tidegate.routing.replicas.topology import Node, ServerId, Topology, View

if TYPE_CHECKING:
    from collections.abc import Callable

NOW_S = 50.0
HERE = Position(2, 500)


def replica(name: str, **fields: object) -> Node:
    view = View(NOW_S - 0.5, ServerId("1", name), standby=True, position=HERE)
    node = Node(name, view=view)
    for key, value in fields.items():
        setattr(node, key, value)
    return node


def shard(*replicas: Node) -> Topology:
    known = Topology([Node("primary"), *replicas])
    known.observed(known.primary, View(NOW_S, ServerId("1", "p"), standby=False, position=HERE))
    return known


def view(**fields: object) -> View:
    given: dict[str, object] = {"asked_s": NOW_S - 0.5, "server": ServerId("1", "r"), "standby": True, "position": HERE}
    return View(**(given | fields))  # type: ignore[arg-type]


def scripted(*chances: float) -> Callable[[], float]:
    return itertools.cycle(chances).__next__


REFUSED: dict[str, tuple[dict[str, object], Position, str | None]] = {
    "none: it is fit": ({}, HERE, None),
    "none: nothing is needed": ({"view": view(position=Position(2, 0))}, NOWHERE, None),
    "none: it is as silent as it may be": ({"view": view(asked_s=NOW_S - 1.5)}, HERE, None),
    "none: it lags as much as it may": ({"lag_s": 10.0}, HERE, None),
    "none: on probation, and nobody tries it": ({"health": Health(3, NOW_S)}, HERE, None),
    "none: one connection is left": ({"outstanding": 9}, HERE, None),
    "never asked": ({"view": None}, HERE, "has not been asked yet"),
    "lost": ({"view": None, "trouble": "connection refused"}, HERE, "does not answer (connection refused)"),
    "of another cluster": (
        {"view": view(server=ServerId("2", "r"))},
        HERE,
        "is of another cluster (system identifier 2, not 1)",
    ),
    "demoted": (
        {"view": view(standby=False)},
        HERE,
        "is a primary that was demoted: another one has a higher timeline",
    ),
    "silent": ({"view": view(asked_s=NOW_S - 1.6)}, HERE, "has been silent for more than 1.5 s"),
    "banned": ({"health": Health(2, NOW_S + 3)}, HERE, "is banned for another 3.0 s, after 2 failures"),
    "barred": ({"barred": "cannot be led to"}, HERE, "cannot be led to"),
    "on probation": (
        {"health": Health(2, NOW_S), "outstanding": 1},
        HERE,
        "is on probation, and another read tries it",
    ),
    "behind in the log": (
        {},
        Position(2, 501),
        "has not reached the position: it is at 00000002.00000000000001f4, and needs 00000002.00000000000001f5",
    ),
    "on an older timeline, though further in the log": (
        {"view": view(position=Position(1, 900))},
        HERE,
        "is on timeline 1, and the primary on 2",
    ),
    "on a newer timeline, before the branch": (
        {"view": view(position=Position(3, 499))},
        HERE,
        "has not reached the position: it is at 00000003.00000000000001f3, and needs 00000002.00000000000001f4",
    ),
    "behind in seconds": ({"lag_s": 10.1}, HERE, "is 10.1 s behind, more than 10 s"),
    "behind its own bound": ({"lag_s": 1.0, "max_lag_s": 0.5}, HERE, "is 1.0 s behind, more than 0.5 s"),
    "of no weight": ({"weight": 0.0}, HERE, "has the weight 0"),
    "full": ({"outstanding": 10}, HERE, "has all its 10 connections in use"),
    "over its own budget": ({"outstanding": 2, "budget": 2}, HERE, "has all its 2 connections in use"),
}


@pytest.mark.parametrize(("fields", "position", "words"), REFUSED.values(), ids=REFUSED)
def test_a_replica_is_refused_in_words(fields: dict[str, object], position: Position, words: str | None) -> None:
    node = replica("r", **fields)
    known = shard(node)
    assert refusal(node, ReplicaRequirement(position), known, NOW_S) == words
    assert choose(known, ReplicaRequirement(position), NOW_S, scripted(0.0)) is (node if words is None else None)


def test_nobody_answers_before_it_is_known_which_cluster_this_is() -> None:
    node = replica("r")
    words = refusal(node, ReplicaRequirement(HERE), Topology([Node("primary"), node]), NOW_S)
    assert words == "may be of another cluster (system identifier 1): the right one is not known yet"


def test_a_node_that_was_passed_is_not_tried_again() -> None:
    first, second = replica("a"), replica("b")
    known = shard(first, second)
    assert choose(known, ReplicaRequirement(HERE), NOW_S, scripted(0.0), passed=[first]) is second
    assert choose(known, ReplicaRequirement(HERE), NOW_S, scripted(0.0), passed=[first, second]) is None


def test_the_primary_is_never_chosen() -> None:
    known = shard()
    assert choose(known, ReplicaRequirement(NOWHERE), NOW_S, scripted(0.0)) is None


# Reads under way and weights of a, b and c; two chances; who answers.
DRAWN = {
    "the first of two that are alike": ((0, 0, 0), (1, 1, 1), (0.0, 0.0), "a"),
    "drawn anew": ((0, 0, 0), (1, 1, 1), (0.5, 0.0), "b"),
    "the second, if it has less to do": ((1, 0, 0), (1, 1, 1), (0.0, 0.0), "b"),
    "though a third has still less": ((2, 1, 0), (1, 1, 1), (0.0, 0.0), "b"),
    "the second is another one than the first": ((1, 1, 0), (1, 1, 1), (0.0, 0.99), "c"),
    "more to do, but heavier": ((1, 0, 0), (1, 1, 8), (0.99, 0.99), "c"),
    "twice the weight may have twice the work": ((2, 1, 0), (2, 1, 1), (0.0, 0.0), "a"),
    "and no more than that": ((3, 1, 0), (2, 1, 1), (0.0, 0.0), "b"),
    "the last, should the sum not come out even": ((0, 0, 0), (0.1, 0.1, 0.1), (1.0, 0.0), "c"),
}


@pytest.mark.parametrize(("outstanding", "weights", "chances", "name"), DRAWN.values(), ids=DRAWN)
def test_of_two_that_are_drawn_the_less_busy_answers(
    outstanding: tuple[int, ...], weights: tuple[float, ...], chances: tuple[float, ...], name: str
) -> None:
    known = shard(
        *(
            replica(called, outstanding=busy, weight=float(weight))
            for called, busy, weight in zip("abc", outstanding, weights, strict=True)
        )
    )
    chosen = choose(known, ReplicaRequirement(HERE), NOW_S, scripted(*chances))
    assert chosen is not None
    assert chosen.name == name


def test_reads_under_way_are_spread_by_weight() -> None:
    known = shard(
        *(replica(name, weight=weight, budget=10_000) for name, weight in (("a", 1.0), ("b", 2.0), ("c", 5.0)))
    )
    chance = Random(7).random  # noqa: S311  # no secret
    for _ in range(4000):
        chosen = choose(known, ReplicaRequirement(HERE), NOW_S, chance)
        assert chosen is not None
        chosen.outstanding += 1
    shares = {node.name: node.outstanding / 4000 for node in known.replicas}
    assert shares == {
        "a": pytest.approx(1 / 8, abs=0.02),
        "b": pytest.approx(2 / 8, abs=0.02),
        "c": pytest.approx(5 / 8, abs=0.02),
    }


def test_idle_replicas_are_drawn_by_weight() -> None:
    known = shard(replica("a", weight=1.0), replica("b", weight=3.0))
    chance = Random(7).random  # noqa: S311  # no secret
    drawn: Counter[str] = Counter()
    for _ in range(4000):
        chosen = choose(known, ReplicaRequirement(HERE), NOW_S, chance)
        assert chosen is not None
        drawn[chosen.name] += 1
    assert drawn["b"] / 4000 == pytest.approx(3 / 4, abs=0.03)
