"""Why each node would answer a call, or would not. Nothing is changed by asking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tidegate.routing.choose import Wanted, refusal

if TYPE_CHECKING:
    from tidegate.routing.topology import Node, Topology


@dataclass(frozen=True, slots=True)
class NodeExplained:
    """One node, as a call would find it now.

    Args:
        name: "host:port".
        role: what it is.
        answers: whether it may answer the call; of several, the less busy of two that are drawn by weight does.
        why: in words.
        lag_s: how far behind the primary it is, in seconds.
        outstanding: reads of this process that are under way there.
    """

    name: str
    role: Literal["primary", "replica"]
    answers: bool
    why: str
    lag_s: float
    outstanding: int

    def text(self) -> str:
        """One line."""
        return f"{self.name} ({self.role}) {'may answer' if self.answers else 'does not answer'}: {self.why}"


def explained(topology: Topology, wanted: Wanted | str, now_s: float) -> tuple[NodeExplained, ...]:
    """Every node, the primary first.

    Args:
        topology: the nodes.
        wanted: what a replica must have; a text: why only the primary will do.
        now_s: the time, monotonic, in seconds.
    """
    replicas = tuple(_replica(node, wanted, topology, now_s) for node in topology.replicas)
    return (_primary(topology.primary, wanted, some=any(one.answers for one in replicas)), *replicas)


def _replica(node: Node, wanted: Wanted | str, topology: Topology, now_s: float) -> NodeExplained:
    if isinstance(wanted, str):
        return _one(node, "replica", wanted, answers=False)
    why = refusal(node, wanted, topology, now_s)
    if why is not None:
        return _one(node, "replica", f"it {why}", answers=False)
    reached = "" if node.view is None else f"it is at {node.view.position.text()}, "
    return _one(node, "replica", f"{reached}and {wanted.position.text()} is needed", answers=True)


def _primary(node: Node, wanted: Wanted | str, *, some: bool) -> NodeExplained:
    if isinstance(wanted, str):
        return _one(node, "primary", wanted, answers=True)
    return _one(node, "primary", "a replica may" if some else "no replica may", answers=not some)


def _one(node: Node, role: Literal["primary", "replica"], why: str, *, answers: bool) -> NodeExplained:
    return NodeExplained(node.name, role, answers, why, node.lag_s, node.outstanding)
