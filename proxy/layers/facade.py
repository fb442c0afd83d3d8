"""The facade: a plain class whose public methods are calls through the layers. The only code with their names.

::

    @gated(WORKFLOW_RUN_POLICIES)
    class WorkflowRuns(DifyAPISQLAlchemyWorkflowRunRepository): ...

Methods are generated with their own signatures, so ``inspect.signature``, subclassing and ``isinstance`` work. Nothing
is forwarded by ``__getattr__``, and no signature is bound at a call: both cost more than a call may.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tidegate.cache.tags import as_text
from tidegate.ids import known_id, known_ids
from tidegate.proxy.call import NO_ROUTE, UNCACHEABLE, Call, Method, bound_copy
from tidegate.repositories.policies import is_of_class

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.repositories.base import Binding
    from tidegate.repositories.policies import Policy, PolicyTable

C = TypeVar("C")

_EMPTY: Final = inspect.Parameter.empty
POLICY: Final = "_tidegate_policy"
"""The attribute in which a method that is a call keeps its policy."""
_BOUND: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def gated(policies: PolicyTable, *, sharded: bool = False) -> Callable[[type[C]], type[C]]:
    """Make the public methods of a class calls through the layers.

    Args:
        policies: one row for each.
        sharded: whether it must say where the rows of every method are.

    Raises:
        PolicyError: a public method has no policy, or a policy no method; when the class is made.
    """

    def decorate(cls: type[C]) -> type[C]:
        policies.check(cls)
        if sharded:
            policies.check_scopes(cls)
        for name, method in gated_methods(cls, policies).items():
            setattr(cls, name, method)
        return cls

    return decorate


def gated_methods(cls: type[Any], policies: PolicyTable) -> dict[str, Callable[..., object]]:
    """Make calls of those methods of a class that have a policy; the class stays as it is.

    Args:
        cls: the class.
        policies: one row for each of these methods.
    """
    methods: dict[str, Callable[..., object]] = {}
    for name, policy in policies.items():
        if is_of_class(cls, name):  # called without a repository, so it is no call
            continue
        methods[name] = method = _method(cls, name, policy, policies)
        method.__dict__[POLICY] = policy
    return methods


def _method(cls: type[Any], name: str, policy: Policy, policies: PolicyTable) -> Callable[..., object]:
    plain = getattr(cls, name)
    signature = _Signature.of(plain)
    names, tails = signature.names, signature.tails
    ids = tuple(name for name in names if name in policies.ids)
    known, scope, tenant_name = (
        Method(name, f"{cls.__module__}.{cls.__qualname__}.{name}", plain),
        policy.scope,
        policies.tenant,
    )
    directly = _directly(plain, policy)
    has_tenant, tenant_is_id = tenant_name in names, tenant_name in ids

    @functools.wraps(plain)
    def method(self: Any, *args: Any, **kwargs: Any) -> object:
        binding: Binding | None = self.tidegate_binding
        if binding is None or binding.layer is None:
            return plain(self, *args, **kwargs)
        arguments: dict[str, Any] | None
        if kwargs or len(args) >= len(tails):
            arguments = signature.bind(args, kwargs)
        else:
            tail = tails[len(args)]
            arguments = None if tail is None else dict(zip(names, args))  # noqa: B905  # the tail is the rest
            if tail and arguments is not None:
                arguments.update(tail)
        if arguments is None:  # in the caller's own session; or a call that only the plain method can refuse
            return directly(self, binding, args, kwargs)
        route = NO_ROUTE
        for key in ids:
            value = arguments[key]
            if value is None:
                continue
            canonical = (known_ids.get(value) if value.__class__ is str else None) or known_id(value)
            if canonical is None:  # left for the database to refuse
                route = UNCACHEABLE
            else:
                arguments[key] = canonical
        tenant = arguments[tenant_name] if has_tenant else None
        if tenant is not None and (not tenant_is_id or tenant.__class__ is not str):
            tenant = as_text(tenant)
        answer: object = binding.layer(Call(self, known, policy, arguments, tenant, scope, route)).value
        return answer

    return method


def _directly(plain: Callable[..., object], policy: Policy) -> Callable[..., object]:
    """Return what runs a method that no layer is asked about."""
    takes_session = tuple(inspect.signature(plain).parameters)[1:2] == ("session",)

    def run(repository: Any, binding: Binding, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        if takes_session and binding.caller_sessions is not None:
            answer: object = binding.caller_sessions(repository, plain, policy, args, kwargs)
            return answer
        return plain(bound_copy(repository, None), *args, **kwargs)

    return run


@dataclass(frozen=True, slots=True)
class _Signature:
    """Bind arguments to a method's parameters.

    Args:
        names: of the parameters; none, where the method takes the caller's session, or any arguments: it runs plain.
        positional: how many may be given by position.
        defaults: of those that have one.
        tails: by how many are given by position, the defaults of the rest; None where one of these has none.
    """

    names: tuple[str, ...]
    positional: int
    defaults: dict[str, Any]
    tails: tuple[dict[str, Any] | None, ...]

    @classmethod
    def of(cls, method: Callable[..., object]) -> _Signature:
        parameters = list(inspect.signature(method).parameters.values())[1:]
        names = tuple(parameter.name for parameter in parameters)
        if names[:1] == ("session",) or any(parameter.kind not in _BOUND for parameter in parameters):
            return cls((), 0, {}, ())
        positional = sum(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)
        defaults = {parameter.name: parameter.default for parameter in parameters if parameter.default is not _EMPTY}
        rests = [names[given:] for given in range(positional + 1)]
        tails = [{name: defaults[name] for name in rest} if defaults.keys() >= set(rest) else None for rest in rests]
        return cls(names, positional, defaults, tuple(tails) if names else ())

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
        """Return every argument by name, in the order of the signature; None where the call does not fit it."""
        if len(args) > self.positional or not self.names:
            return None
        given = dict(zip(self.names, args))  # noqa: B905  # names that are left over are in kwargs, or get their defaults
        bound = {}
        taken = 0
        for name in self.names:
            if name in given:
                bound[name] = given[name]
            elif name in kwargs:
                bound[name] = kwargs[name]
                taken += 1
            elif name in self.defaults:
                bound[name] = self.defaults[name]
            else:
                return None
        return bound if taken == len(kwargs) else None
