"""Which tenant a row belongs to, by its id alone: routing and cache ask this before a call that names no tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Kind: TypeAlias = str
"""What an id is of, as a tracked model says it (``Tracked.identifies``): "run", "node", "pause"."""


class TenantDirectory(Protocol):
    """Remember ids that were found, and their tenants.

    An id never changes its tenant. An id that is not known may exist all the same.
    """

    def tenants(self, kind: Kind, ids: Iterable[str]) -> Mapping[str, str]:
        """Return the tenants of those *ids* that are known, by the id as it was given."""
        ...

    def tenant(self, kind: Kind, key: str) -> str | None:
        """Return the tenant of one id; None if it is not known."""
        ...

    def record(self, kind: Kind, found: Iterable[tuple[str, str]]) -> None:
        """Remember (id, tenant) of rows that were written or read."""
        ...

    def evict(self, kind: Kind, ids: Iterable[str]) -> None:
        """Forget ids whose rows are gone. If such a row comes back, it is searched for."""
        ...
