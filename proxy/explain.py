"""What would answer a call, and why not what comes before it: ``gate.explain``.

Only looks: nothing is stored, kept, leased, advanced or counted, and no node is asked for anything that the call is
about. What it says holds for the moment at which it was asked, as everything about a cache does.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.exc import SQLAlchemyError

from tidegate.cache.request import Answer
from tidegate.cache.store import StoreUnavailable
from tidegate.error_text import first_line
from tidegate.errors import PolicyError, TidegateError
from tidegate.proxy.call import bound_copy
from tidegate.proxy.explanation import shown, uncached
from tidegate.proxy.layers.facade import POLICY
from tidegate.proxy.shards.sessions import for_tenant
from tidegate.proxy.tracking.model_tables import shown as table_shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.cache.store import Store
    from tidegate.proxy.call import Call, Layer
    from tidegate.proxy.explanation import Explanation
    from tidegate.proxy.tracking.coverage import Coverage

_ONE_BY_ONE: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_SESSION: Final = "it runs in the caller's own session, or takes any arguments"


def explain(method: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Explanation:
    """Tell what would answer a call of *method* now.

    Args:
        method: a bound method of a repository behind a gate.
        args: what it would be called with.
        kwargs: the same, by name.

    Raises:
        PolicyError: *method* is no method of a repository behind a gate.
        TypeError: it does not take these arguments.
    """
    repository, function = getattr(method, "__self__", None), getattr(method, "__func__", None)
    binding = getattr(repository, "tidegate_binding", None)
    layer: Layer | None = None if binding is None else binding.layer
    if layer is None or getattr(function, POLICY, None) is None:
        raise PolicyError(
            f"{method!r} is no method of a repository behind a gate, or is overridden there: expected one like "
            "gate.workflow_runs.get_workflow_run_by_id"
        )
    signature = inspect.signature(method)
    bound = signature.bind(*args, **kwargs)
    names = [*signature.parameters]
    if names[:1] == ["session"] or any(one.kind not in _ONE_BY_ONE for one in signature.parameters.values()):
        return uncached(shown(f"{type(repository).__name__}.{method.__name__}", bound.arguments), (), _SESSION)
    call = _call_of(repository, function, args, kwargs)
    return replace(layer.explain(call), statement=_statement(call))


def _statement(call: Call) -> str:
    """Return how the primary is asked, in the words of the repository, if it has any; the database may be away."""
    maker = call.home
    if "shards" in getattr(maker, "kw", ()) and call.tenant is not None:
        maker = for_tenant(maker, call.tenant)
    describe = getattr(bound_copy(call.repository, maker), "_describe", None)
    if describe is None:
        return ""
    try:
        return str(describe(call.method.name, call.arguments))
    except (SQLAlchemyError, TidegateError) as error:
        return f"how the database is asked is not known: {first_line(error)}"


def _call_of(repository: Any, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """Return the call that the facade makes of these arguments."""
    made: list[Call] = []

    def keep(call: Call) -> Answer:
        made.append(call)
        return Answer(None)

    twin = bound_copy(repository, None)
    twin.tidegate_binding = repository.tidegate_binding._replace(layer=keep)
    function(twin, *args, **kwargs)
    return made[0]


def why_uncached(store: Store | None, coverage: Coverage) -> str:
    """Ask the cache, and return why nothing is cached now, or less than could be; "": answers are cached."""
    if store is None:
        return "the settings name no cache, or another one serves this database"
    try:
        store.server()
    except StoreUnavailable as error:
        return f"the cache {store.name} does not answer: {first_line(error)}"
    if store.expected is None:
        return f"the cache {store.name} is another one than serves this database"
    if coverage.uncovered:
        names = ", ".join(sorted(map(table_shown, coverage.uncovered)))
        return f"{names} lack triggers; {coverage.advice or 'run tidegate init'}"
    return ""
