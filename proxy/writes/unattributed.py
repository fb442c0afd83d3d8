"""Writes whose tenant no rule can tell: they are refused, or counted and let through."""

from __future__ import annotations

import logging
from typing import Final

from tidegate.errors import PolicyError

_log: Final = logging.getLogger(__name__)


class UnattributedWrites:
    """Decide what becomes of a write to a tracked table that names no tenant.

    Args:
        strict: refuse it. Otherwise it is counted and let through, and what was cached before it may be stale.
    """

    def __init__(self, *, strict: bool) -> None:
        self.strict: Final = strict
        self.ignored = 0

    def __call__(self, table: str, what: str) -> None:
        """Refuse or count a write of *table*; *what* says in words what kind of write it is.

        Raises:
            PolicyError: in strict mode. Nothing has been executed.
        """
        if self.strict:
            raise PolicyError(
                f"{what} writes {table}, which is tracked, and does not say for which tenant: use the ORM or a Core "
                "statement on the table, or give the tenant as a parameter that has the name of its column, and call "
                "gate.invalidate(tenant_id) in the transaction for any other tenant"
            )
        self.ignored += 1
        _log.warning("%s writes %s for tenants that are not known: what is cached of them may be stale", what, table)
