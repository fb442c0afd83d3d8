"""What the root recovery asks: the primary of the tenant's own shard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tidegate.errors import StaleShardMap
from tidegate.position import Origin, Position
from tidegate.proxy.database.ownership import check_ownership_to_read
from tidegate.proxy.shards.registry import MOST_MOVES

if TYPE_CHECKING:
    from collections.abc import Collection

    from tidegate.cache.root_recovery import Primary
    from tidegate.proxy.shards.registry import Shards
    from tidegate.routing.sharding.shard_map import Ownership

_POSITION: Final = "SELECT pg_current_wal_insert_lsn()::text, pg_walfile_name(pg_current_wal_insert_lsn())"


class ShardedPrimary:
    """Answer the questions of the root recovery on the primary of each tenant's shard.

    The contract is :class:`~tidegate.cache.root_recovery.Primary`.

    Args:
        shards: the shards of the gate.
    """

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    def epoch(self, tenant: str) -> int:
        """Return the epoch since which the tenant is on its shard, by the newest map here; ask nobody."""
        return self._shards.ownership(tenant).since_epoch

    def origin(self, tenant: str) -> Origin:
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

    def transaction(self, tenant: str) -> tuple[str, Position]:
        """Return a transaction id that no transaction had yet, and the position, of the tenant's primary."""
        return self._of(tenant).transaction(tenant)

    def oldest_running(self, tenant: str) -> tuple[int, Position]:
        """Return the id below which all transactions of the tenant's primary have ended, and the position read then."""
        return self._of(tenant).oldest_running(tenant)

    def ended(self, tenant: str, xids: Collection[str]) -> tuple[Collection[str], Position]:
        """Return those of *xids* that are not in progress on the tenant's primary, and the position read after that."""
        return self._of(tenant).ended(tenant, xids)

    def _of(self, tenant: str) -> Primary:
        return self._shards.of_tenant(tenant).primary

    def _origin(self, ownership: Ownership, *, check: bool) -> Origin:
        with self._shards.at(ownership.shard).engine.connect() as connection:
            if check:
                check_ownership_to_read(connection, [ownership])
            ((lsn, file),) = connection.exec_driver_sql(_POSITION).all()
        return Origin(ownership.since_epoch, Position.parse(lsn, file).timeline, ownership.shard)
