"""The tenants layer: whose call it is, before the cache is asked; and calls of several tenants, part by part.

A method that names no tenant says where its rows are (see :mod:`tidegate.repositories.scopes`). With one shard that
only tells whose the answer is, so that it can be cached; what is not known is simply asked.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from tidegate.ids import is_no_id
from tidegate.proxy.shards.sessions import for_canonical_tenant
from tidegate.repositories.scopes import ByRowId

if TYPE_CHECKING:
    from tidegate.proxy.call import Call, Layer
    from tidegate.proxy.layers.fan_out import FanOut
    from tidegate.repositories.tenant_directory import TenantDirectory


class Tenancy:
    """Gives calls their tenants.

    Args:
        below: the layers that answer for one tenant.
        directory: whose ids are whose.
        parted: answers calls of several tenants; None: there is one shard, which answers them as they are.
    """

    def __init__(self, below: Layer, directory: TenantDirectory, parted: FanOut | None = None) -> None:
        self.below: Final = below
        self._directory: Final = directory
        self._parted: Final = parted

    def __call__(self, call: Call) -> object:
        """The answer."""
        scope = call.policy.scope
        if call.tenant is not None:
            return self._of_tenant(call, call.tenant)
        if isinstance(scope, ByRowId):
            return self._of_id(call, scope)
        if self._parted is None or scope is None:
            return self.below(call)
        return self._parted(call, scope)

    def name(self, call: Call) -> None:
        """Say whose *call* is, as answering it would, if the directory knows; nobody is asked."""
        scope = call.policy.scope
        found = _value(call, scope) if call.tenant is None and isinstance(scope, ByRowId) else None
        if found is not None:
            scope, key = found
            call.tenant = self._directory.tenant(scope.kind, key)
            if call.tenant is not None and scope.tenant is not None:
                call.arguments = {**call.arguments, scope.tenant: call.tenant}

    def _of_tenant(self, call: Call, tenant: str) -> object:
        if self._parted is not None:
            call.home = for_canonical_tenant(call.repository.__dict__["_tidegate_session_maker"], tenant)
        return self.below(call)

    def _of_id(self, call: Call, scope: ByRowId) -> object:
        found = _value(call, scope)
        if found is None:  # the plain method says what is wrong
            return self.below(call) if self._parted is None else self._parted.on_first(call)
        scope, key = found
        tenant = self._directory.tenant(scope.kind, key)
        if tenant is None and self._parted is not None and not scope.search and not is_no_id(key):
            tenant = self._parted.find(scope.kind, [key]).get(key)
        if tenant is not None:
            given = call.arguments
            if scope.tenant is not None:
                call.arguments = {**given, scope.tenant: tenant}
            call.tenant = tenant
            answer = self._of_tenant(call, tenant)
            if answer is not None or not scope.is_row:
                return answer
            self._directory.evict(scope.kind, [key])
            call.arguments, call.tenant, call.home, call.need = given, None, None, None
        # Gone, or nobody knows whose: there, it may be anybody's.
        if self._parted is None:
            return self.below(call)
        return self._parted.searched(call, scope) if scope.search else self._parted.of_nobody(call, scope.kind, key)


@cache
def _path(argument: str) -> tuple[str, tuple[str, ...]]:
    name, *attributes = argument.split(".")
    return name, tuple(attributes)


def _value(call: Call, scope: ByRowId | None) -> tuple[ByRowId, str] | None:
    """The id that a call is about; of two places that may have it, the first that has."""
    while scope is not None:
        name, attributes = _path(scope.argument)
        value: Any = call.arguments[name]
        for attribute in attributes:
            value = getattr(value, attribute, None)
        if isinstance(value, (str, UUID)):
            return scope, str(value)
        scope = scope.otherwise
    return None
