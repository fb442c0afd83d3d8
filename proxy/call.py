"""One invocation of a repository method on its way through the layers."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.orm import Session, sessionmaker

    from tidegate.cache.request import ReadRequirement
    from tidegate.errors import StaleShardMap
    from tidegate.position import Origin
    from tidegate.repositories.policies import Policy


Answered: TypeAlias = Literal["near", "store", "flight", "node", "plain"]
"""Who answered a call: the near cache, the store, another thread's fill, a node after a miss, or no cache at all."""


@dataclass(slots=True)
class Call:
    """A call with its arguments bound and its ids in canonical form.

    Args:
        repository: the facade it was made on.
        name: "Class.method", for keys and telemetry.
        method: the method's name.
        plain: the plain method.
        policy: its row.
        arguments: every argument by name, defaults included, in the order of the signature.
        tenant: the tenant as writers name it, None where the call names none.
        cacheable: not where an id is none: text that is no UUID is the database's to refuse.
        need: which node will do, set by the layers above the routing; None: they have not asked.
        tell_origin: whether anybody will look at *origin*; finding out takes longer than a call may, else.
        origin: whose data answered, set by the routing; None: not known, and so not to be stored.
        answered: who has answered, set by the caching.
        node: the name of the server that has answered, set by the routing; "" for one that has no replicas.
        shard: of a part of a call that was split, which is a shard's and no single tenant's.
        home: opens sessions where the tenant's rows are, whenever it is used; None: the repository's own does.
        sessions: opens them on the shard that was chosen, set by the sharding; None: *home* does.
        again: makes for a transaction what is asked whether it is to be tried once more, after a shard has refused it;
            None: it is not.
    """

    repository: Any
    name: str
    method: str
    plain: Callable[..., object]
    policy: Policy
    arguments: Mapping[str, Any]
    tenant: str | None
    need: ReadRequirement | None = None
    cacheable: bool = True
    tell_origin: bool = False
    origin: Origin | None = None
    answered: Answered = "plain"
    node: str = ""
    shard: str | None = None
    home: sessionmaker[Session] | None = None
    sessions: sessionmaker[Session] | None = None
    again: Callable[[], Callable[[StaleShardMap], bool]] | None = None

    def run_plain(self, session_maker: sessionmaker[Session] | None = None) -> object:
        """Run the plain method on a copy of the repository, bound to *session_maker* (None: to the call's, or its own).

        The copy is of the same class, so that overridden helpers count; a public method that the plain one calls on
        itself is no new call: it runs plain, on the same node.
        """
        twin = bound_copy(self.repository, session_maker or self.sessions or self.home)
        if self.home is not None:
            twin.__dict__[_HOME], twin.__dict__[_AGAIN] = self.home, self.again
        return self.plain(twin, **self.arguments)


Layer: TypeAlias = "Callable[[Call], object]"
"""A layer with all below it."""


_HOME: Final = "_tidegate_session_maker"
"""Where the primary's session maker lies; a copy that reads elsewhere keeps it."""
_AGAIN: Final = "_tidegate_again"
_COPYING: Final = ("__copy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs_ex__")


@lru_cache(maxsize=256)
def _is_copied_plainly(cls: Any) -> bool:
    """Whether ``copy.copy`` would make a bare instance and give it the attributes, which is done ten times faster."""
    bases = [vars(base) for base in cls.__mro__ if base is not object]
    return not any(name in base for base in bases for name in (*_COPYING, "__getnewargs__", "__slots__"))


def bound_copy(repository: Any, session_maker: sessionmaker[Session] | None) -> Any:
    """A copy of *repository* whose methods run plain, on *session_maker* where one is given."""
    cls: Any = type(repository)
    if _is_copied_plainly(cls):
        twin = cls.__new__(cls)
        twin.__dict__.update(repository.__dict__, _tidegate_pipeline=None)
    else:
        twin = copy.copy(repository)
        twin.__dict__["_tidegate_pipeline"] = None
    if session_maker is not None:
        own = repository.__dict__[_HOME]
        attributes = twin.__dict__
        for key, value in repository.__dict__.items():
            if value is own and key != _HOME:
                attributes[key] = session_maker
    return twin
