"""What would answer a call, in words: what each layer says of itself when ``gate.explain`` asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tidegate.cache.request import AnsweredBy
_MOST_SHOWN: Final = 60
_NO_CACHE: Final = "this gate has none: cache.url is not set, or does not name the cache that serves this database"


class NodeLine(Protocol):
    """A node or a shard, as the layers below the cache explain it."""

    @property
    def name(self) -> str:
        """Return its name."""
        ...

    @property
    def answers(self) -> bool:
        """Tell whether it may answer."""
        ...

    @property
    def why(self) -> str:
        """Say why, or why not."""
        ...

    def text(self) -> str:
        """Return all of it as one line."""
        ...


@dataclass(frozen=True, slots=True)
class CacheExplained:
    """One of the two caches, as a call would find it now.

    Args:
        name: which of them.
        answers: whether it has a fresh answer.
        why: why, or why not, in words.
    """

    name: Literal["near cache", "cache"]
    answers: bool
    why: str

    def text(self) -> str:
        """Return all of it as one line."""
        return f"{self.name} {'answers' if self.answers else 'does not answer'}: {self.why}"


@dataclass(frozen=True, slots=True)
class NodeExplained:
    """One node, as a call would find it now.

    Args:
        name: "host:port".
        role: what it is.
        answers: whether it may answer the call; of several, the less busy of two that are drawn by weight does.
        why: why, or why not, in words.
        lag_s: how far it is behind the primary, in seconds.
        outstanding: how many reads of this process are under way there.
    """

    name: str
    role: Literal["primary", "replica"]
    answers: bool
    why: str
    lag_s: float
    outstanding: int

    def text(self) -> str:
        """Return all of it as one line."""
        return f"{self.name} ({self.role}) {'may answer' if self.answers else 'does not answer'}: {self.why}"


@dataclass(frozen=True, slots=True)
class ShardExplained:
    """One shard, as a call would find it now.

    Args:
        name: the shard's name.
        answers: whether it would be asked.
        why: why, or why not, in words.
    """

    name: str
    answers: bool
    why: str

    def text(self) -> str:
        """Return all of it as one line."""
        return f"the shard {self.name} {'is asked' if self.answers else 'is not asked'}: {self.why}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would answer a call if it were made now; ``str()`` of it is for people.

    Args:
        call: the method with its arguments as the gate takes them: ids in canonical form.
        answered: the first that would: "near", the "store", a "node" because no cache has a fresh answer, or "plain"
            because the call is none of the cache's business; as in ``gate.stats()``.
        stores: whether a node's answer would be stored, as things are now.
        near: the copy in this process.
        cache: the one that all processes share.
        nodes: which of them may answer where no cache does; empty where there is only one.
        statement: how the database is asked, where that depends on the indexes that it has; else empty.
    """

    call: str
    answered: AnsweredBy
    stores: bool
    near: CacheExplained
    cache: CacheExplained
    nodes: tuple[NodeLine, ...] = ()
    statement: str = ""

    def __str__(self) -> str:
        lines = [self.near.text(), self.cache.text()]
        if self.answered in ("node", "plain"):
            lines.append(f"a node's answer is {'stored' if self.stores else 'not stored'}")
        elif self.nodes:
            lines.append("if none did:")
        lines += [node.text() for node in self.nodes] or ["the primary is the only node"]
        lines += [self.statement] if self.statement else []
        return "\n  ".join([self.call, *lines])


def uncached(call: str, nodes: Sequence[NodeLine] = (), why: str = _NO_CACHE) -> Explanation:
    """Return the explanation of a call that no cache is asked about.

    Args:
        call: as text, see :func:`shown`.
        nodes: what may answer it.
        why: why no cache is asked.
    """
    near = CacheExplained("near cache", answers=False, why=why)
    cache = CacheExplained("cache", answers=False, why=why)
    return Explanation(call, "plain", stores=False, near=near, cache=cache, nodes=tuple(nodes))


def shown(name: str, arguments: Mapping[str, Any]) -> str:
    """Return a call as text; long arguments are cut."""
    texts = []
    for key, value in arguments.items():
        text = repr(value)
        texts.append(f"{key}={text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + '...'}")
    return f"{name}({', '.join(texts)})"
