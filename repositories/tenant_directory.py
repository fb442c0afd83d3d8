"""Whose a row is, by its id alone: what routing and cache ask before a call that names no tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Kind: TypeAlias = str
"""What an id is the id of, as a tracked model says it (``Tracked.identifies``): "run", "node", "pause"."""


class TenantDirectory(Protocol):
    """Ids that were found, and their tenants. An id never changes its tenant; one that is not known may be there."""

    def tenants(self, kind: Kind, ids: Iterable[str]) -> Mapping[str, str]:
        """The tenants of those of *ids* that are known, by the id as it was given."""
        ...

    def tenant(self, kind: Kind, key: str) -> str | None:
        """The tenant of one id, None if it is not known."""
        ...

    def record(self, kind: Kind, found: Iterable[tuple[str, str]]) -> None:
        """Remember (id, tenant) of rows that were written or read."""
        ...

    def evict(self, kind: Kind, ids: Iterable[str]) -> None:
        """Forget ids whose rows are gone: should one come back, it is searched for."""
        ...
