"""Why each node would answer a call, or would not. Nothing is changed by asking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from tidegate.routing.replicas.choose import ReplicaRequirement, refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.proxy.call import Call, Layer
    from tidegate.routing.replicas.topology import Node, Topology


class NodeLine(Protocol):
    """A node, as the routing explains it."""

    @property
    def name(self) -> str:
        """The node's name."""
        ...

    @property
    def answers(self) -> bool:
        """Whether it may answer."""
        ...

    @property
    def why(self) -> str:
        """Why, or why not."""
        ...

    def text(self) -> str:
        """One line."""
        ...


@runtime_checkable
class Explains(Protocol):
    """A layer that can say which node would answer a call; it finds in *call* what the cache has found it to need."""

    def explain(self, call: Call, /) -> Sequence[NodeLine]:
        """Every node."""
        ...


def nodes_explained(layer: Layer, call: Call) -> tuple[NodeLine, ...]:
    """What *layer* says of the nodes; nothing, where there is only one."""
    return tuple(layer.explain(call)) if isinstance(layer, Explains) else ()


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


@dataclass(frozen=True, slots=True)
class ShardExplained:
    """One shard, as a call would find it now.

    Args:
        name: the shard's.
        answers: whether it would be asked.
        why: in words.
    """

    name: str
    answers: bool
    why: str

    def text(self) -> str:
        """One line."""
        return f"the shard {self.name} {'is asked' if self.answers else 'is not asked'}: {self.why}"


def explained(topology: Topology, wanted: ReplicaRequirement | str, now_s: float) -> tuple[NodeExplained, ...]:
    """Every node, the primary first.

    Args:
        topology: the nodes.
        wanted: what a replica must have; a text: why only the primary will do.
        now_s: the time, monotonic, in seconds.
    """
    replicas = tuple(_replica(node, wanted, topology, now_s) for node in topology.replicas)
    return (_primary(topology.primary, wanted, some=any(one.answers for one in replicas)), *replicas)


def _replica(node: Node, wanted: ReplicaRequirement | str, topology: Topology, now_s: float) -> NodeExplained:
    if isinstance(wanted, str):
        return _one(node, "replica", wanted, answers=False)
    why = refusal(node, wanted, topology, now_s)
    if why is not None:
        return _one(node, "replica", f"it {why}", answers=False)
    reached = "" if node.view is None else f"it is at {node.view.position.text()}, "
    return _one(node, "replica", f"{reached}and {wanted.position.text()} is needed", answers=True)


def _primary(node: Node, wanted: ReplicaRequirement | str, *, some: bool) -> NodeExplained:
    if isinstance(wanted, str):
        return _one(node, "primary", wanted, answers=True)
    return _one(node, "primary", "a replica may" if some else "no replica may", answers=not some)


def _one(node: Node, role: Literal["primary", "replica"], why: str, *, answers: bool) -> NodeExplained:
    return NodeExplained(node.name, role, answers, why, node.lag_s, node.outstanding)
