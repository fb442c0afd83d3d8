"""Which replica answers a read. Pure: the nodes, the time and the chance are handed in.

Of the replicas that may answer, two are drawn by weight. The one with fewer reads under way answers (least outstanding
of two; Mitzenmacher, "The Power of Two Choices", 2001).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tidegate.position import NOWHERE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from tidegate.position import Position
    from tidegate.routing.replicas.topology import Node, Topology, View


class ReplicaRequirement(NamedTuple):
    """What a read needs of a node.

    Args:
        position: the node must have reached this position.
        silent_s: how old the node's view may be, in seconds.
    """

    position: Position
    silent_s: float = 1.5


def refusal(node: Node, wanted: ReplicaRequirement, topology: Topology, now_s: float) -> str | None:
    """Return why *node* must not answer a read, in words that follow its name; None if it may."""
    view = node.view
    if view is None:
        return f"does not answer ({node.trouble})" if node.trouble else "has not been asked yet"
    if view.server.system != topology.system:
        if not topology.system:
            return f"may be of another cluster (system identifier {view.server.system}): the right one is not known yet"
        return f"is of another cluster (system identifier {view.server.system}, not {topology.system})"
    if not view.standby:
        return "is a primary that was demoted: another one has a higher timeline"
    return _other_data(view, topology) or _not_now(node, wanted, now_s)


def _other_data(view: View, topology: Topology) -> str | None:
    # What the node has replayed beyond the branch has not happened, although its log may be longer than the primary's.
    if view.position.timeline < topology.timeline:
        return f"is on timeline {view.position.timeline}, and the primary on {topology.timeline}"
    if topology.history is not None and view.history != topology.history:
        return "shows another history of the database than the primary does"
    return None


def _not_now(node: Node, wanted: ReplicaRequirement, now_s: float) -> str | None:
    view = node.view
    if view is None or now_s - view.asked_s > wanted.silent_s:
        return f"has been silent for more than {wanted.silent_s:g} s"
    if node.health.failures and (why := _distrust(node, now_s)) is not None:
        return why
    if not view.position.reached(wanted.position):
        return f"has not reached the position: it is at {view.position.text()}, and needs {wanted.position.text()}"
    return _unfit(node)


def _unfit(node: Node) -> str | None:
    if node.barred:
        return node.barred
    if node.lag_s > node.max_lag_s:
        return f"is {node.lag_s:.1f} s behind, more than {node.max_lag_s:g} s"
    if node.weight <= 0:
        return "has the weight 0"
    if node.outstanding >= node.budget:
        return f"has all its {node.budget} connections in use"
    return None


def _distrust(node: Node, now_s: float) -> str | None:
    if node.health.is_banned(now_s):
        return f"is banned for another {node.health.until_s - now_s:.1f} s, after {node.health.failures} failures"
    if node.outstanding:
        return "is on probation, and another read tries it"
    return None


def worth_asking(topology: Topology, wanted: ReplicaRequirement, now_s: float, least_s: float) -> list[Node]:
    """Return the replicas that would answer if they have replayed further since they were last asked.

    Args:
        topology: the nodes.
        wanted: what the read needs.
        now_s: the time, monotonic, in seconds.
        least_s: a view counts as old only after this age, in seconds, and only after a tenth of the node's lag. So of
            the time in which reads must do without the node, at most a tenth is lost because it is not asked.
    """
    anyhow = ReplicaRequirement(NOWHERE, wanted.silent_s)
    return [
        node
        for node in topology.replicas
        if node.view is not None
        and not node.view.position.reached(wanted.position)
        and now_s - node.view.asked_s > max(least_s, node.lag_s / 10)
        and refusal(node, anyhow, topology, now_s) is None
    ]


def choose(
    topology: Topology,
    wanted: ReplicaRequirement,
    now_s: float,
    chance: Callable[[], float],
    passed: Collection[Node] = (),
) -> Node | None:
    """Return the replica that answers; None if none may.

    Args:
        topology: the nodes.
        wanted: what the read needs.
        now_s: the time, monotonic, in seconds.
        chance: gives a number from 0 up to 1.
        passed: the nodes that this read has tried already.
    """
    primary = topology.primary
    able = [
        node
        for node in topology.nodes
        if node is not primary and node not in passed and refusal(node, wanted, topology, now_s) is None
    ]
    if len(able) < 2:  # noqa: PLR2004  # nothing to choose between
        return able[0] if able else None
    first = _drawn(able, chance())
    others = [node for node in able if node is not first]
    second = others[0] if len(others) == 1 else _drawn(others, chance())
    return second if second.outstanding / second.weight < first.outstanding / first.weight else first


def _drawn(nodes: Sequence[Node], chance: float) -> Node:
    total = 0.0
    for node in nodes:
        total += node.weight
    left = chance * total
    for node in nodes:
        left -= node.weight
        if left < 0:
            return node
    return nodes[-1]
