"""One invocation of a repository method on its way through the layers, and what a layer is.

A call is a letter: nobody writes into it. What a layer decides for those below goes with a copy (:meth:`Call.at`), and
what comes back is an :class:`~tidegate.cache.request.Answer`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

from tidegate.proxy.explanation import shown
from tidegate.repositories.base import bind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.orm import Session, sessionmaker

    from tidegate.cache.request import Answer, ReadRequirement
    from tidegate.proxy.explanation import Explanation
    from tidegate.repositories.base import Binding, Retry
    from tidegate.repositories.policies import Policy
    from tidegate.repositories.scopes import Scope


class Method(NamedTuple):
    """A public method of a gated class, as every call of it has it.

    Args:
        name: the method's name.
        qualified_name: "module.Class.method", for keys and counters.
        plain: the plain method, which takes a repository first.
    """

    name: str
    qualified_name: str
    plain: Callable[..., object]


@dataclass(frozen=True, slots=True)
class OneShard:
    """The scope of a part of a call that was split: a shard's, and no single tenant's."""

    shard: str


CallScope: TypeAlias = "Scope | OneShard | None"
"""Where the rows of a call are, as far as its tenant does not say it."""


class Route(NamedTuple):
    """What the layers above have decided for those below.

    Args:
        cacheable: False where an id is no UUID: such text is the database's to refuse.
        requirement: which node will do; None: no layer above has asked the marks.
        wants_origin: whether somebody will look at the origin of the answer; to find it out costs time.
        home: opens sessions where the tenant's rows are, on the primary; None: the repository's own does.
        sessions: opens sessions on the shard that was chosen; None: *home* does.
        retry: makes, for one transaction, what is asked whether a transaction that a shard has refused is to be tried
            once more; None: it is not.
    """

    cacheable: bool = True
    requirement: ReadRequirement | None = None
    wants_origin: bool = False
    home: sessionmaker[Session] | None = None
    sessions: sessionmaker[Session] | None = None
    retry: Retry | None = None

    # Each of these is a step of most calls, and _replace takes three times as long.

    def at_home(self, home: sessionmaker[Session]) -> Route:
        """Return this route with what opens sessions on the tenant's primary."""
        return Route(self.cacheable, self.requirement, self.wants_origin, home, self.sessions, self.retry)

    def required(self, requirement: ReadRequirement) -> Route:
        """Return this route with which node will do, for an answer that is to be stored."""
        home, sessions, retry = self.home, self.sessions, self.retry
        return Route(self.cacheable, requirement, wants_origin=True, home=home, sessions=sessions, retry=retry)

    def on_shard(self, sessions: sessionmaker[Session], requirement: ReadRequirement | None) -> Route:
        """Return this route with what opens sessions on the shard that was chosen, and which node will do there."""
        return Route(self.cacheable, requirement, self.wants_origin, self.home, sessions, self.retry)


NO_ROUTE: Final = Route()
"""Nothing is decided yet."""
UNCACHEABLE: Final = Route(cacheable=False)


class Call(NamedTuple):
    """A call with its arguments bound and its ids in canonical form.

    Args:
        repository: the gated repository on which it was made.
        method: the method.
        policy: the method's row of the policy table.
        arguments: every argument by name, defaults included, in the order of the signature.
        tenant: the tenant as writers name it; None where the call names none.
        scope: where its rows are, if no tenant says it.
        route: what the layers above have decided.
    """

    repository: Any
    method: Method
    policy: Policy
    arguments: Mapping[str, Any]
    tenant: str | None
    scope: CallScope
    route: Route = NO_ROUTE

    def at(self, route: Route) -> Call:
        """Return this call with what a layer has decided for those below."""
        repository, method, policy, arguments, tenant, scope, _ = self
        return Call(repository, method, policy, arguments, tenant, scope, route)

    def of(self, tenant: str, arguments: Mapping[str, Any]) -> Call:
        """Return this call as one of *tenant*, with other arguments."""
        return self._replace(tenant=tenant, arguments=arguments)

    @property
    def binding(self) -> Binding:
        """Return how the repository is bound to its gate."""
        binding: Binding = self.repository.tidegate_binding
        return binding

    @property
    def home(self) -> sessionmaker[Session]:
        """Return what opens sessions where the tenant's rows are, on the primary."""
        return self.route.home or self.binding.home

    def run(self, session_maker: sessionmaker[Session] | None = None) -> object:
        """Run the plain method on a copy of the repository, bound to *session_maker*.

        The copy is of the same class, so that overridden helpers count. A public method that the plain method calls on
        itself is no new call: it runs plain, on the same node.

        Args:
            session_maker: opens the sessions; None: the one of the route, or the repository's own.
        """
        _, _, _, home, sessions, retry = self.route
        twin = bound_copy(self.repository, session_maker or sessions or home, home, retry)
        return self.method.plain(twin, **self.arguments)

    def shown(self) -> str:
        """Return the call as text, for people."""
        return shown(f"{type(self.repository).__name__}.{self.method.name}", self.arguments)


class Layer(Protocol):
    """A layer with all below it."""

    def __call__(self, call: Call, /) -> Answer:
        """Answer *call*, or have the layer below answer it."""
        ...

    def explain(self, call: Call, /) -> Explanation:
        """Tell what would answer *call* now, and why nobody before that. Change nothing, count nothing."""
        ...


_COPYING: Final = ("__copy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs_ex__")


@lru_cache(maxsize=256)
def _is_copied_plainly(cls: Any) -> bool:
    """Tell whether ``copy.copy`` would only make a bare instance and give it the attributes.

    To do just that here is ten times faster.
    """
    bases = [vars(base) for base in cls.__mro__ if base is not object]
    return not any(name in base for base in bases for name in (*_COPYING, "__getnewargs__", "__slots__"))


def bound_copy(
    repository: Any,
    session_maker: sessionmaker[Session] | None,
    home: sessionmaker[Session] | None = None,
    retry: Retry | None = None,
) -> Any:
    """Return a copy of *repository* whose methods run plain.

    Args:
        repository: one that is bound to a gate.
        session_maker: opens the sessions of the copy; None: the same as before.
        home: opens sessions on the primary; None: the same as before.
        retry: see :class:`Route`.
    """
    binding: Binding = repository.tidegate_binding
    cls: Any = type(repository)
    if _is_copied_plainly(cls):
        twin = cls.__new__(cls)
        own = twin.__dict__
        own.update(repository.__dict__)
        own["tidegate_binding"] = binding.of_copy(home, retry)
    else:
        twin = bind(copy.copy(repository), binding.of_copy(home, retry))
    if session_maker is not None:
        own, attributes = binding.home, twin.__dict__
        for key, value in repository.__dict__.items():
            if value is own:
                attributes[key] = session_maker
    return twin
