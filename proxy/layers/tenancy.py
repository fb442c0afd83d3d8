"""The tenancy layer: whose call it is, before the cache is asked; and calls of several tenants, part by part.

A method that names no tenant says where its rows are (see :mod:`tidegate.repositories.scopes`). The directory knows the
tenants of ids that came by. With one shard that only tells whose the answer is, so that it can be cached, and what is
not known is simply asked; with several, the fan-out finds the shard.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from tidegate.repositories.scopes import ByRowId

if TYPE_CHECKING:
    from tidegate.cache.request import Answer
    from tidegate.proxy.call import Call, CallScope, Layer
    from tidegate.proxy.explanation import Explanation
    from tidegate.proxy.layers.fan_out import FanOut
    from tidegate.proxy.shards.registry import Shards
    from tidegate.repositories.tenant_directory import TenantDirectory


class Tenancy:
    """Give calls their tenants.

    Args:
        below: the layers that answer for one tenant.
        directory: knows whose ids are whose.
        shards: of the gate.
        fan_out: answers calls of several tenants, and of ids whose tenant the directory does not know.
    """

    def __init__(self, below: Layer, directory: TenantDirectory, shards: Shards, fan_out: FanOut) -> None:
        self._below: Final = below
        self._directory: Final = directory
        self._shards: Final = shards
        self._fan_out: Final = fan_out

    def __call__(self, call: Call) -> Answer:
        """Answer for the tenant of *call*, or of what it names; fan out what is of several."""
        if call.tenant is not None:
            return self._below(call if self._shards.only is not None else self._shards.at_home(call))
        if isinstance(call.scope, ByRowId):
            return self._by_row_id(call, call.scope)
        return self._fan_out(call)

    def explain(self, call: Call) -> Explanation:
        """Explain for the tenant that answering would find, if the directory knows it; nobody is asked."""
        found = _id(call, call.scope) if call.tenant is None else None
        if found is not None:
            scope, key = found
            tenant = self._directory.tenant(scope.kind, key)
            if tenant is not None:
                call = _of(call, scope, tenant)
        return self._below.explain(call)

    def _by_row_id(self, call: Call, scope: ByRowId) -> Answer:
        found = _id(call, scope)
        if found is None:  # the plain method says what is wrong
            return self._fan_out.on_first(call)
        scope, key = found
        tenant = self._directory.tenant(scope.kind, key)
        if tenant is None and not scope.search:
            tenant = self._fan_out.tenant_of(scope.kind, key)
        if tenant is not None:
            answer = self._below(self._shards.at_home(_of(call, scope, tenant)))
            if answer.value is not None or not scope.is_row:
                return answer
            self._directory.evict(scope.kind, [key])
        # Gone, or nobody knows whose: there, it may be anybody's.
        return self._fan_out.searched(call, scope) if scope.search else self._fan_out.of_nobody(call, scope.kind, key)


def _of(call: Call, scope: ByRowId, tenant: str) -> Call:
    """Return *call* as one of *tenant*, which is named in its arguments too where they have a place for it."""
    return call.of(tenant, call.arguments if scope.tenant is None else {**call.arguments, scope.tenant: tenant})


@cache
def _path(argument: str) -> tuple[str, tuple[str, ...]]:
    name, *attributes = argument.split(".")
    return name, tuple(attributes)


def _id(call: Call, scope: CallScope) -> tuple[ByRowId, str] | None:
    """Return the id that a call is about; of two places that may have it, the first that has it."""
    while isinstance(scope, ByRowId):
        name, attributes = _path(scope.argument)
        value: Any = call.arguments[name]
        for attribute in attributes:
            value = getattr(value, attribute, None)
        if isinstance(value, (str, UUID)):
            return scope, str(value)
        scope = scope.otherwise
    return None
