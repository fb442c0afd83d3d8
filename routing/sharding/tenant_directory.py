"""The directory: which tenant an id belongs to, for the ids that this process has met.

It remembers ids that were found, and never that an id was not found: that may be wrong a moment later. What it knows is
certain, as an id does not change its tenant. A row that was deleted is looked for where it was, and is found to be
gone.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from tidegate.fork_hooks import reset_after_fork
from tidegate.ids import canonical, is_canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tidegate.repositories.tenant_directory import Kind

BYTES_AN_ID: Final = 300
"""How much memory one id may take, with its share of the table; a test measures it."""


class IdDirectory:
    """Remember the tenants of ids in this process; a :class:`~tidegate.repositories.tenant_directory.TenantDirectory`.

    Threads may share it.

    Args:
        most_ids: how many ids it remembers, of all kinds together. Those used longest ago are forgotten first.
    """

    def __init__(self, most_ids: int = 200_000) -> None:
        self._most = most_ids
        self._known: OrderedDict[tuple[Kind, str], str] = OrderedDict()
        self._lock = threading.Lock()
        reset_after_fork(self._forget_lock)

    def __len__(self) -> int:
        return len(self._known)

    def tenants(self, kind: Kind, ids: Iterable[str]) -> Mapping[str, str]:
        """Return the tenants of those *ids* that are known, by the id as it was given."""
        found = {}
        keys = [(given, (kind, canonical(given))) for given in ids]
        with self._lock:
            for given, key in keys:
                tenant = self._known.get(key)
                if tenant is not None:
                    self._known.move_to_end(key)
                    found[given] = tenant
        return found

    def tenant(self, kind: Kind, key: str) -> str | None:
        """Return the tenant of one id; None if it is not known."""
        known = (kind, canonical(key))
        with self._lock:
            tenant = self._known.get(known)
            if tenant is not None:
                self._known.move_to_end(known)
            return tenant

    def record(self, kind: Kind, found: Iterable[tuple[str, str]]) -> None:
        """Remember (id, tenant) of rows that were written or read."""
        if not self._most:
            return
        tenants: dict[str, str] = {}
        keys = []
        for key, tenant in found:
            if tenant not in tenants:
                tenants[tenant] = str(canonical(tenant))
            keys.append(
                ((kind, key if key.__class__ is str and is_canonical(key) else str(canonical(key))), tenants[tenant])
            )
        with self._lock:
            for known, tenant in keys:
                self._known[known] = tenant
                self._known.move_to_end(known)
            while len(self._known) > self._most:
                self._known.popitem(last=False)

    def evict(self, kind: Kind, ids: Iterable[str]) -> None:
        """Forget ids whose rows are gone."""
        keys = [(kind, canonical(key)) for key in ids]
        with self._lock:
            for key in keys:
                self._known.pop(key, None)

    def _forget_lock(self) -> None:
        self._lock = threading.Lock()  # a new one: the parent's lock may have been held at the fork
