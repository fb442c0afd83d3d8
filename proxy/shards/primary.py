"""What the root recovery asks: the primary of the tenant's own shard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate.errors import StaleShardMap
from tidegate.position import Origin
from tidegate.proxy.database.ownership import check_ownership_to_read
from tidegate.proxy.database.primary import here
from tidegate.proxy.shards.registry import MOST_MOVES

if TYPE_CHECKING:
    from collections.abc import Collection

    from tidegate.cache.root_recovery import Ended, OldestRunning, Transaction
    from tidegate.position import AskedFor, History
    from tidegate.proxy.shards.registry import ShardPrimary, Shards
    from tidegate.routing.sharding.shard_map import Ownership


class ShardedPrimary:
    """Answer the questions of the root recovery on the primary of each tenant's shard.

    The contract is :class:`~tidegate.cache.root_recovery.Primary`.

    Args:
        shards: the shards of the gate.
    """

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    def asked(self, tenant: str) -> AskedFor:
        """Return whose marks the tenant's must be, by the newest map and history that are known here; ask nobody."""
        return self._shards.asked(tenant)

    def origin(self, tenant: str) -> Origin | None:
        """Return whose data the tenant's primary holds, read in one transaction with the check that it owns the tenant.

        Raises:
            StaleShardMap: the shard does not own the tenant, and nobody could say whether there is a newer map; or the
                tenant is flipped again and again.
        """
        if self._shards.only is not None:
            return self._shards.only.primary.origin(tenant)
        moves = 0
        while True:
            ownership = self._shards.ownership(tenant)
            try:
                return self._origin(ownership, check=True)
            except StaleShardMap as refused:
                moves += 1
                if not self._shards.moved(tenant, ownership, refused):
                    return self._origin(ownership, check=False)
                if moves == MOST_MOVES:
                    raise

    def transaction(self, tenant: str) -> Transaction:
        """Return a transaction id that no transaction had yet, and the position, of the tenant's primary."""
        return self._of(tenant).transaction(tenant)

    def oldest_running(self, tenant: str) -> OldestRunning:
        """Return the id below which all transactions of the tenant's primary have ended, and the position read then."""
        return self._of(tenant).oldest_running(tenant)

    def ended(self, tenant: str, xids: Collection[str]) -> Ended:
        """Return those of *xids* that are not in progress on the tenant's primary, and the position read after that."""
        return self._of(tenant).ended(tenant, xids)

    def renew(self, tenant: str, than: History) -> None:
        """Make a history of the tenant's primary that is newer than *than*."""
        self._of(tenant).renew(tenant, than)

    def _of(self, tenant: str) -> ShardPrimary:
        return self._shards.of_tenant(tenant).primary

    def _origin(self, ownership: Ownership, *, check: bool, making: bool = True) -> Origin | None:
        shard = self._shards.at(ownership.shard)
        with shard.engine.connect() as connection:
            if check:
                check_ownership_to_read(connection, [ownership])
            history = shard.histories.note(here(connection))
        if history is not None:
            return Origin(ownership.since_epoch, history, ownership.shard)
        # It must be made first, in a transaction of its own; and then the ownership is read again.
        if making and shard.primary.here().history is not None:
            return self._origin(ownership, check=check, making=False)
        return None
