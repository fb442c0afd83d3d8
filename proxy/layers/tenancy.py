"""The tenants layer: whose call it is, before the cache is asked; and calls of several tenants, part by part.

A method that names no tenant says where its rows are (see :mod:`tidegate.repositories.scopes`). With one shard that
only tells whose the answer is, so that it can be cached; what is not known is simply asked.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from tidegate.ids import is_no_id
from tidegate.proxy.shards.sessions import for_spelt
from tidegate.repositories.scopes import OfId

if TYPE_CHECKING:
    from tidegate.proxy.call import Call, Pipeline
    from tidegate.proxy.layers.fan_out import Parted
    from tidegate.repositories.tenant_directory import TenantDirectory


class Tenants:
    """Gives calls their tenants.

    Args:
        below: the layers that answer for one tenant.
        directory: whose ids are whose.
        parted: answers calls of several tenants; None: there is one shard, which answers them as they are.
    """

    def __init__(self, below: Pipeline, directory: TenantDirectory, parted: Parted | None = None) -> None:
        self.below: Final = below
        self._directory: Final = directory
        self._parted: Final = parted

    def __call__(self, call: Call) -> object:
        """The answer."""
        where = call.policy.where
        if call.tenant is not None:
            return self._of_tenant(call, call.tenant)
        if isinstance(where, OfId):
            return self._of_id(call, where)
        if self._parted is None or where is None:
            return self.below(call)
        return self._parted(call, where)

    def name(self, call: Call) -> None:
        """Say whose *call* is, as answering it would, if the directory knows; nobody is asked."""
        where = call.policy.where
        found = _value(call, where) if call.tenant is None and isinstance(where, OfId) else None
        if found is not None:
            where, key = found
            call.tenant = self._directory.tenant(where.kind, key)
            if call.tenant is not None and where.tenant is not None:
                call.arguments = {**call.arguments, where.tenant: call.tenant}

    def _of_tenant(self, call: Call, tenant: str) -> object:
        if self._parted is not None:
            call.home = for_spelt(call.repository.__dict__["_tidegate_session_maker"], tenant)
        return self.below(call)

    def _of_id(self, call: Call, where: OfId) -> object:
        found = _value(call, where)
        if found is None:  # the plain method says what is wrong
            return self.below(call) if self._parted is None else self._parted.on_first(call)
        where, key = found
        tenant = self._directory.tenant(where.kind, key)
        if tenant is None and self._parted is not None and not where.search and not is_no_id(key):
            tenant = self._parted.find(where.kind, [key]).get(key)
        if tenant is not None:
            given = call.arguments
            if where.tenant is not None:
                call.arguments = {**given, where.tenant: tenant}
            call.tenant = tenant
            answer = self._of_tenant(call, tenant)
            if answer is not None or not where.is_row:
                return answer
            self._directory.forget(where.kind, [key])
            call.arguments, call.tenant, call.home, call.need = given, None, None, None
        # Gone, or nobody knows whose: there, it may be anybody's.
        if self._parted is None:
            return self.below(call)
        return self._parted.searched(call, where) if where.search else self._parted.of_nobody(call, where.kind, key)


@cache
def _path(argument: str) -> tuple[str, tuple[str, ...]]:
    name, *attributes = argument.split(".")
    return name, tuple(attributes)


def _value(call: Call, where: OfId | None) -> tuple[OfId, str] | None:
    """The id that a call is about; of two places that may have it, the first that has."""
    while where is not None:
        name, attributes = _path(where.argument)
        value: Any = call.arguments[name]
        for attribute in attributes:
            value = getattr(value, attribute, None)
        if isinstance(value, (str, UUID)):
            return where, str(value)
        where = where.otherwise
    return None
