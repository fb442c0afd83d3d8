"""Gated repositories: a plain class whose public methods are calls through the layers. The only code with their names.

::

    @gated(WORKFLOW_RUN_POLICIES)
    class WorkflowRuns(DifyAPISQLAlchemyWorkflowRunRepository): ...

Methods are generated with their own signatures, so ``inspect.signature``, subclassing and ``isinstance`` work. Nothing
is forwarded by ``__getattr__``, and no signature is bound at a call: both cost more than a call may.
"""

from __future__ import annotations

import functools
import inspect
import re
import uuid
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tidegate.proxy.call import Call, bound_copy

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.proxy.call import Pipeline
    from tidegate.repositories.policies import Policy, PolicyTable

C = TypeVar("C")

_CANONICAL: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch
# What PostgreSQL reads as an id: a hyphen may follow any group of four digits, and braces may surround all.
_SPELLED: Final = re.compile(r"(?:[0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}").fullmatch
_EMPTY: Final = inspect.Parameter.empty
POLICY: Final = "_tidegate_policy"
"""By this name a method that is a call has its policy."""
_BOUND: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def canonical_id(value: Any) -> Any:
    """The canonical spelling of an id; what PostgreSQL would not read as one is left for it to refuse."""
    if value.__class__ is str and _CANONICAL(value):
        return value
    if isinstance(value, uuid.UUID):
        return str(value)
    if not isinstance(value, str):
        return value
    inner = value[1:-1] if value.startswith("{") and value.endswith("}") else value
    return str(uuid.UUID(inner)) if _SPELLED(inner) else value


def gated(policies: PolicyTable) -> Callable[[type[C]], type[C]]:
    """Make the public methods of a class calls.

    Raises:
        PolicyError: a public method has no policy, or a policy no method; when the class is made.
    """

    def decorate(cls: type[C]) -> type[C]:
        policies.check(cls)
        for name, policy in policies.items():
            method = _method(cls, name, policy, policies)
            method.__dict__[POLICY] = policy
            setattr(cls, name, method)
        return cls

    return decorate


def _method(cls: type[Any], name: str, policy: Policy, policies: PolicyTable) -> Callable[..., object]:
    plain = getattr(cls, name)
    parameters = list(inspect.signature(plain).parameters.values())[1:]
    names = tuple(parameter.name for parameter in parameters)
    if any(parameter.kind not in _BOUND for parameter in parameters):
        names = ()
    positional = sum(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)
    defaults = {parameter.name: parameter.default for parameter in parameters if parameter.default is not _EMPTY}
    ids = tuple(name for name in names if name in policies.ids)
    full_name, tenant_name = f"{cls.__module__}.{cls.__qualname__}.{name}", policies.tenant
    has_tenant = tenant_name in names
    takes_session = bool(names) and names[0] == "session"

    @functools.wraps(plain)
    def method(self: Any, *args: Any, **kwargs: Any) -> object:
        pipeline: Pipeline | None = self._tidegate_pipeline
        if pipeline is None:
            return plain(self, *args, **kwargs)
        arguments = None if takes_session else _bind(names, positional, defaults, args, kwargs)
        if arguments is None:  # in the caller's own session; or a call that only the plain method can refuse
            return plain(bound_copy(self, None), *args, **kwargs)
        cacheable = True
        for key in ids:
            value = arguments[key]
            if value.__class__ is not str or not _CANONICAL(value):
                arguments[key] = value = canonical_id(value)
                cacheable = cacheable and (value is None or (isinstance(value, str) and _CANONICAL(value) is not None))
        tenant = arguments[tenant_name] if has_tenant else None
        return pipeline(Call(self, full_name, name, plain, policy, arguments, tenant, cacheable=cacheable))

    return method


def _bind(
    names: tuple[str, ...], positional: int, defaults: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any] | None:
    """Every argument by name, in the order of the signature; None where the call does not fit it."""
    if len(args) > positional or not names:
        return None
    given = dict(zip(names, args))  # noqa: B905  # names that are left over get their defaults
    if not kwargs:
        for name in names[len(args) :]:
            if name not in defaults:
                return None
            given[name] = defaults[name]
        return given
    bound = {}
    taken = 0
    for name in names:
        if name in given:
            bound[name] = given[name]
        elif name in kwargs:
            bound[name] = kwargs[name]
            taken += 1
        elif name in defaults:
            bound[name] = defaults[name]
        else:
            return None
    return bound if taken == len(kwargs) else None
