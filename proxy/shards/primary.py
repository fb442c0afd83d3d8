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
    """Ask the primary of a tenant's shard: a :class:`~tidegate.cache.root_recovery.Primary` of all shards.

    Args:
        shards: all of them.
    """

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    def epoch(self, tenant: str) -> int:
        """Return since when the tenant is where the newest map has it."""
        return self._shards.ownership(tenant).since_epoch

    def origin(self, tenant: str) -> Origin:
        """Return whose data the tenant's primary holds, in the transaction that has seen that it owns the tenant."""
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
        """Return a transaction id that no transaction had yet, and the position."""
        return self._of(tenant).transaction(tenant)

    def oldest_running(self, tenant: str) -> tuple[int, Position]:
        """Return a transaction id below which all have ended and are visible, and the position read after that."""
        return self._of(tenant).oldest_running(tenant)

    def ended(self, tenant: str, xids: Collection[str]) -> tuple[Collection[str], Position]:
        """Return those of *xids* that are not in progress, and the position read after that."""
        return self._of(tenant).ended(tenant, xids)

    def _of(self, tenant: str) -> Primary:
        return self._shards.of_tenant(tenant).primary

    def _origin(self, ownership: Ownership, *, check: bool) -> Origin:
        with self._shards.at(ownership.shard).engine.connect() as connection:
            if check:
                check_ownership_to_read(connection, [ownership])
            ((lsn, file),) = connection.exec_driver_sql(_POSITION).all()
        return Origin(ownership.since_epoch, Position.parse(lsn, file).timeline, ownership.shard)
