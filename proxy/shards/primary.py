"""What the root recovery asks where there are several shards: the primary of the tenant's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tidegate.errors import StaleShardMap
from tidegate.position import Origin, Position
from tidegate.proxy.database.ownership import check_ownership_to_read
from tidegate.proxy.shards.registry import MOST_MOVES

if TYPE_CHECKING:
    from collections.abc import Collection

    from tidegate.proxy.database.primary import ClockPrimary, PostgresPrimary
    from tidegate.proxy.shards.registry import Shards
    from tidegate.routing.sharding.shard_map import Ownership

_POSITION: Final = "SELECT pg_current_wal_insert_lsn()::text, pg_walfile_name(pg_current_wal_insert_lsn())"


class ShardedPrimary:
    """A :class:`~tidegate.cache.root_recovery.Primary` of all shards.

    Args:
        shards: all of them.
    """

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    def epoch(self, tenant: str) -> int:
        """Since when the tenant is where the newest map has it."""
        return self._shards.ownership(tenant).since_epoch

    def origin(self, tenant: str) -> Origin:
        """Whose data the tenant's primary holds, of the transaction that has seen that it owns the tenant."""
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
        """See ``Primary``."""
        return self._of(tenant).transaction(tenant)

    def oldest_running(self, tenant: str) -> tuple[int, Position]:
        """See ``Primary``."""
        return self._of(tenant).oldest_running(tenant)

    def ended(self, tenant: str, xids: Collection[str]) -> tuple[Collection[str], Position]:
        """See ``Primary``."""
        return self._of(tenant).ended(tenant, xids)

    def _of(self, tenant: str) -> PostgresPrimary | ClockPrimary:
        return self._shards.at(self._shards.ownership(tenant).shard).primary

    def _origin(self, ownership: Ownership, *, check: bool) -> Origin:
        with self._shards.at(ownership.shard).engine.connect() as connection:
            if check:
                check_ownership_to_read(connection, [ownership])
            ((lsn, file),) = connection.exec_driver_sql(_POSITION).all()
        return Origin(ownership.since_epoch, Position.parse(lsn, file).timeline, ownership.shard)
