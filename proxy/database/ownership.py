"""What a shard owns, on the shard itself: the last word on whether a write may be made there.

One row a unit (a slot, or a pinned tenant): since which epoch the shard owns it, or does not any more. A write reads
the row of its tenant's unit FOR SHARE, in its own transaction, and is refused unless the shard owns it since the very
epoch that the writer's map says. Whoever takes the unit away updates the row, and so waits until those writes have
ended and refuses those that come. Writers of one unit share its row; those of others never meet them.

Sharers do not queue behind an update that waits, so writes that overlap without end could keep it waiting for ever. A
row in ``tidegate_closing`` turns new ones away before the update begins to wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from sqlalchemy import String, bindparam, exists, func, literal, select, true
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.exc import DBAPIError

from tidegate.errors import SettingsError, StaleShardMap
from tidegate.proxy.database.schema import CLOSING, OWNERSHIP
from tidegate.proxy.database.transaction import TRANSACTION, transaction_of
from tidegate.routing.sharding.shard_map import FIRST_EPOCH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Engine, Executable

    from tidegate.position import Position
    from tidegate.routing.sharding.shard_map import Ownership, ShardMap

_NOT_SERIALIZABLE: Final = "40001"
_UNITS: Final = OWNERSHIP.c.unit.in_(bindparam("units", expanding=True))
# In one order, so that of two transactions with several units neither waits for the other.
_ROWS: Final = select(OWNERSHIP.c.unit, OWNERSHIP.c.since, OWNERSHIP.c.owned).order_by(OWNERSHIP.c.unit)
_ASKED: Final = _ROWS.where(_UNITS)
_NEWEST: Final = select(func.coalesce(func.max(OWNERSHIP.c.since), 0))
_CLOSED: Final = exists().where(
    CLOSING.c.unit == OWNERSHIP.c.unit, CLOSING.c.since > OWNERSHIP.c.since, CLOSING.c.closed
)
_SHARED: Final = _ASKED.where(~_CLOSED).with_for_update(read=True, of=OWNERSHIP)

_ROWS_SHARED: Final = _SHARED.subquery()
_HEAD: Final = select(*(made.label(f"t{at}") for at, made in enumerate(TRANSACTION))).subquery()
_WITH_TRANSACTION: Final = select(_HEAD, _ROWS_SHARED).select_from(_HEAD.outerjoin(_ROWS_SHARED, true()))

_CLAIMED: Final = select(
    func.unnest(bindparam("claimed", type_=ARRAY(String))), literal(FIRST_EPOCH), literal(value=True)
)
_CLAIM: Final = insert(OWNERSHIP).from_select(["unit", "since", "owned"], _CLAIMED).on_conflict_do_nothing()


class Executing(Protocol):
    """A connection with a transaction: SQLAlchemy's, or the one that commits."""

    def execute(self, statement: Executable, parameters: Any = None, /) -> Any:
        """Run *statement* in the transaction."""
        ...


def check_ownership(connection: Executing, ownerships: Sequence[Ownership]) -> None:
    """See that this shard owns some units as a map says, and hold them until the transaction has ended: before a write.

    One statement, of as many indexed rows as there are *ownerships*. It may wait for a flip of one of them to get by.

    Args:
        connection: in the transaction that writes, on the shard's primary.
        ownerships: of the tenants whose rows are written, from the map by which the shard was chosen.

    Raises:
        StaleShardMap: it does not, or is about to give one away; names it. The transaction must be rolled back.
    """
    _compare(_held(connection, _SHARED, ownerships), ownerships)


def check_ownership_at_commit(connection: Executing, ownerships: Sequence[Ownership]) -> tuple[str, Position]:
    """The same, and the transaction's id and position by the same statement, which a commit asks for anyway.

    Raises:
        StaleShardMap: see :func:`check_ownership`.
    """
    rows = _held(connection, _WITH_TRANSACTION, ownerships)
    _compare(rows, ownerships)
    return transaction_of(rows[0])


def _held(connection: Executing, statement: Executable, ownerships: Sequence[Ownership]) -> Sequence[Any]:
    try:
        return list(connection.execute(statement, {"units": [row.unit for row in ownerships]}))
    except DBAPIError as error:
        # A transaction that keeps its first snapshot is told of a flip since then by this.
        if getattr(error.orig, "sqlstate", None) != _NOT_SERIALIZABLE:
            raise
        raise StaleShardMap(f"{ownerships[0].unit} changed hands while this transaction ran") from error


def check_ownership_to_read(connection: Executing, ownerships: Sequence[Ownership]) -> None:
    """The same for a read, which holds nothing: before the rows are read, in the same transaction, on any node.

    Units that are about to go may still be read here: until the next map is published, nobody writes them elsewhere.

    Raises:
        StaleShardMap: the shard does not own one of them since the epoch that the map says. Unless the catalogue has a
            newer map, it is on its way and what lies here is still the newest.
    """
    _compare(connection.execute(_ASKED, {"units": [row.unit for row in ownerships]}), ownerships)


def check_epoch_to_read(connection: Executing, epoch: int) -> None:
    """See that this shard has given nothing away since a map of *epoch*: before or after rows of nobody in particular.

    One statement, of all rows that the shard has: a few thousand at most.

    Raises:
        StaleShardMap: it knows of a later epoch, so there may be rows where that map would not look for them.
    """
    refuse_newer_epoch(newest_epoch(connection), epoch)


def newest_epoch(connection: Executing) -> int:
    """Since when this shard has, or has given away, what it has last got or given: an epoch, 0 of a new one."""
    newest: int = next(iter(connection.execute(_NEWEST)))[0]
    return newest


def refuse_newer_epoch(newest: int, epoch: int) -> None:
    """Refuse the map of *epoch* for a shard's *newest* one; see :func:`check_epoch_to_read`."""
    if newest > epoch:
        raise StaleShardMap(
            f"a shard knows of epoch {newest}, and the shard map that was used here is of epoch {epoch}: some tenants "
            "were moved, or are on their way"
        )


def record_ownership(engine: Engine, shard: str, shard_map: ShardMap) -> None:
    """Make a shard own what the first map says, if it has never owned anything; otherwise see that it does.

    Nothing is claimed by a later map: a shard that has lost its rows, or the wrong database, owns nothing.

    Raises:
        SettingsError: the shard owns something else than the map says; the message names the first difference.
    """
    wanted = shard_map.owned_units(shard)
    with engine.begin() as connection:
        found = owned(connection)
        if not found and shard_map.epoch == FIRST_EPOCH and connection.execute(_ROWS.limit(1)).first() is None:
            connection.execute(_CLAIM, {"claimed": [row.unit for row in wanted]})
            found = owned(connection)
        # Raised inside the transaction: of two gates that claim by different settings at once, the later takes nothing.
        different = sorted({row.unit: row.since_epoch for row in wanted}.items() ^ found.items())
        if different:
            raise SettingsError(
                _difference(shard, different[0][0], {row.unit: row.since_epoch for row in wanted}, found)
            )


def verify_existing(engine: Engine, shard: str, shard_map: ShardMap) -> None:
    """See that a database that no gate has named yet is *shard*: its own table knows all that a later map says of it.

    Units that are about to leave are there still, since a later epoch.

    Raises:
        SettingsError: it does not; the message names the first difference.
    """
    with engine.connect() as connection:
        found = {row.unit: row.since for row in connection.execute(_ROWS)}
    wanted = {row.unit: row.since_epoch for row in shard_map.owned_units(shard)}
    unknown = [unit for unit, since in wanted.items() if found.get(unit, 0) < since]
    if unknown:
        raise SettingsError(_difference(shard, unknown[0], wanted, found))


def owned(connection: Connection) -> dict[str, int]:
    """All that a shard owns: units, and since which epoch."""
    return {row.unit: row.since for row in connection.execute(_ROWS.where(OWNERSHIP.c.owned))}


def _compare(rows: Any, ownerships: Sequence[Ownership]) -> None:
    found = {row.unit: row.since for row in rows if row.owned}
    for ownership in ownerships:
        if found.get(ownership.unit) != ownership.since_epoch:
            raise StaleShardMap(
                f"the shard {ownership.shard} does not own {ownership.unit} since epoch {ownership.since_epoch}, as "
                "the shard map that was used here says: it was moved, or is on its way"
            )


def _difference(shard: str, unit: str, wanted: dict[str, int], found: dict[str, int]) -> str:
    def shown(since: int | None) -> str:
        return "does not own it" if since is None else f"owns it since epoch {since}"

    return (
        f"shards.{shard}: by the shard map it {shown(wanted.get(unit))} ({unit}), by its own table it "
        f"{shown(found.get(unit))}. Rows lie where they were written, so ranges and pins cannot be changed by the "
        "settings: go back to those that the shards were begun with, or see that its URL leads to the right database"
    )
