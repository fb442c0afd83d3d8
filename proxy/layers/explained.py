"""Why each node of a shard would answer a call, or would not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tidegate.proxy.explanation import NodeExplained
from tidegate.routing.replicas.choose import ReplicaRequirement, refusal

if TYPE_CHECKING:
    from tidegate.routing.replicas.topology import Node, Topology


def explained(topology: Topology, requirement: ReplicaRequirement | str, now_s: float) -> tuple[NodeExplained, ...]:
    """Explain every node, the primary first.

    Args:
        topology: the nodes.
        requirement: what a replica must have; a text: why only the primary will do.
        now_s: the time, monotonic, in seconds.
    """
    replicas = tuple(_replica(node, requirement, topology, now_s) for node in topology.replicas)
    return (_primary(topology.primary, requirement, some=any(one.answers for one in replicas)), *replicas)


def _replica(node: Node, requirement: ReplicaRequirement | str, topology: Topology, now_s: float) -> NodeExplained:
    if isinstance(requirement, str):
        return _one(node, "replica", requirement, answers=False)
    why = refusal(node, requirement, topology, now_s)
    if why is not None:
        return _one(node, "replica", f"it {why}", answers=False)
    reached = "" if node.view is None else f"it is at {node.view.position.text()}, "
    return _one(node, "replica", f"{reached}and {requirement.position.text()} is needed", answers=True)


def _primary(node: Node, requirement: ReplicaRequirement | str, *, some: bool) -> NodeExplained:
    if isinstance(requirement, str):
        return _one(node, "primary", requirement, answers=True)
    return _one(node, "primary", "a replica may" if some else "no replica may", answers=not some)


def _one(node: Node, role: Literal["primary", "replica"], why: str, *, answers: bool) -> NodeExplained:
    return NodeExplained(node.name, role, answers, why, node.lag_s, node.outstanding)
