"""The tenants layer: whose call it is, before the cache is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tidegate.proxy.sessions import for_tenant

if TYPE_CHECKING:
    from tidegate.proxy.call import Call, Pipeline


class Tenants:
    """Gives each call the sessions of its tenant.

    Args:
        below: the layers that answer for one tenant.
    """

    def __init__(self, below: Pipeline) -> None:
        self._below: Final = below

    def __call__(self, call: Call) -> object:
        """The answer."""
        if call.tenant is not None:
            call.home = for_tenant(call.repository.__dict__["_tidegate_session_maker"], call.tenant)
        return self._below(call)
