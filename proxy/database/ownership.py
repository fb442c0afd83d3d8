"""What a shard owns, as the shard itself records it: this decides at last whether a write may be made there.

There is one row for each unit (a slot, or a pinned tenant). It says since which epoch the shard owns the unit, or does
not own it any more. A write reads the row of its tenant's unit FOR SHARE, in its own transaction. It is refused unless
the shard owns the unit. Whoever takes the unit away updates the row. So he waits until those writes have ended, and the
writes that come later are refused. Writers of one unit share its row; writers of different units never meet.

Triggers do this for rows of tracked tables, whoever writes them: :mod:`tidegate.proxy.database.ownership_functions`. A
gate is refused, too, unless the shard owns the unit since exactly the epoch that its map says. It asks by itself for
what no trigger has checked.

PostgreSQL lets new sharers pass an update that waits. So writes that overlap without end could keep the update waiting
for ever. Therefore a row in ``tidegate_closing`` refuses new writes before the update begins to wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from sqlalchemy import String, bindparam, exists, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.exc import DBAPIError

from tidegate.errors import SettingsError, StaleShardMap
from tidegate.proxy.database.placement import execute_own, own
from tidegate.proxy.database.schema import CLOSING, OWNERSHIP
from tidegate.routing.sharding.shard_map import FIRST_EPOCH, tenant_unit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection, Engine, Executable

    from tidegate.routing.sharding.shard_map import Ownership, ShardMap

_NOT_SERIALIZABLE: Final = "40001"
_UNITS: Final = OWNERSHIP.c.unit.in_(bindparam("units", expanding=True))
# All transactions lock their units in one order, so that two of them cannot deadlock.
_ROWS: Final = select(OWNERSHIP.c.unit, OWNERSHIP.c.since, OWNERSHIP.c.owned).order_by(OWNERSHIP.c.unit)
_ASKED: Final = _ROWS.where(_UNITS)
_NEWEST: Final = select(func.coalesce(func.max(OWNERSHIP.c.since), 0))
_CLOSED: Final = exists().where(
    CLOSING.c.unit == OWNERSHIP.c.unit, CLOSING.c.since > OWNERSHIP.c.since, CLOSING.c.closed
)
_SHARED: Final = _ASKED.where(~_CLOSED).with_for_update(read=True, of=OWNERSHIP)

_CLAIMED: Final = select(
    func.unnest(bindparam("claimed", type_=ARRAY(String))), literal(FIRST_EPOCH), literal(value=True)
)
_PINNED: Final = select(
    func.unnest(bindparam("pinned", type_=ARRAY(String))), literal(FIRST_EPOCH), literal(value=False)
)
_PIN: Final = insert(OWNERSHIP).from_select(["unit", "since", "owned"], _PINNED).on_conflict_do_nothing()
_CLAIM: Final = insert(OWNERSHIP).from_select(["unit", "since", "owned"], _CLAIMED).on_conflict_do_nothing()


class Executing(Protocol):
    """A connection with a transaction: SQLAlchemy's, or the one that commits."""

    def execute(self, statement: Executable, parameters: Any = None, /) -> Any:
        """Run *statement* in the transaction."""
        ...


def check_ownership(connection: Executing, ownerships: Sequence[Ownership]) -> None:
    """Check, before a write, that this shard owns some units as a map says, and keep it so until the transaction ends.

    This is one statement, which reads as many indexed rows as there are *ownerships*. It may wait for a flip of one of
    the units to end.

    Args:
        connection: in the transaction that writes, on the shard's primary.
        ownerships: those of the tenants whose rows are written, from the map by which the shard was chosen.

    Raises:
        StaleShardMap: the shard does not own one of the units, or is about to give it away; the message names it. The
            transaction must be rolled back.
    """
    try:
        rows = list(execute_own(connection, _SHARED, {"units": [row.unit for row in ownerships]}))
    except DBAPIError as error:
        # This is how a transaction that keeps its first snapshot learns that a flip came after that snapshot.
        if getattr(error.orig, "sqlstate", None) != _NOT_SERIALIZABLE:
            raise
        raise StaleShardMap(f"{ownerships[0].unit} was flipped while this transaction ran") from error
    _compare(rows, ownerships)


def not_held(held: Mapping[str, int], ownerships: Sequence[Ownership]) -> Sequence[Ownership]:
    """Return those of *ownerships* that a transaction does not keep on this shard yet, and so must be checked.

    Args:
        held: the units that its triggers have checked and keep, each with the epoch since which this shard owns it.
        ownerships: as the map says it, by which the shard was chosen.

    Raises:
        StaleShardMap: this shard owns one of the units since another epoch than the map says.
    """
    left = []
    for ownership in ownerships:
        since = held.get(ownership.unit)
        if since is None:
            left.append(ownership)
        elif since != ownership.since_epoch:
            raise _not_owned(ownership)
    return left


def check_ownership_to_read(connection: Executing, ownerships: Sequence[Ownership]) -> None:
    """Check, before a read, that this shard owns some units as a map says; lock nothing.

    This must run before the rows are read, in the same transaction, on any node. Units that are about to leave the
    shard may still be read here: until the next map is published, nobody writes them elsewhere.

    Raises:
        StaleShardMap: the shard does not own one of the units since the epoch that the map says. If the catalogue has
            no newer map, a flip is under way, and the rows here are still the newest.
    """
    _compare(execute_own(connection, _ASKED, {"units": [row.unit for row in ownerships]}), ownerships)


def check_epoch_to_read(connection: Executing, epoch: int) -> None:
    """Check that this shard knows no later epoch than *epoch*, before or after rows of any tenants are read.

    This is one statement over all rows of the ownership table: a few thousand at most.

    Raises:
        StaleShardMap: the shard knows a later epoch than that of the map, so there may be rows where the map does not
            look.
    """
    refuse_newer_epoch(newest_epoch(connection), epoch)


def newest_epoch(connection: Executing) -> int:
    """Return the epoch at which this shard last got or gave away a unit; 0 if it never did."""
    newest: int = next(iter(execute_own(connection, _NEWEST)))[0]
    return newest


def refuse_newer_epoch(newest: int, epoch: int) -> None:
    """Raise if a shard's *newest* epoch is later than the map's *epoch*; see :func:`check_epoch_to_read`.

    Raises:
        StaleShardMap: *newest* is later than *epoch*.
    """
    if newest > epoch:
        raise StaleShardMap(
            f"a shard knows of epoch {newest}, and the shard map that was used here is of epoch {epoch}: some tenants "
            "were flipped to another shard, or are being flipped now"
        )


def record_ownership(engine: Engine, shard: str, shard_map: ShardMap) -> None:
    """Make a shard own what the first map says, if it has never owned anything; otherwise check that it does own that.

    A later map makes no shard own anything: a shard that has lost its rows owns nothing, and so does a wrong database.

    Raises:
        SettingsError: the shard owns something else than the map says; the message names the first difference.
    """
    wanted = shard_map.owned_units(shard)
    with own(engine).begin() as connection:
        found = owned(connection)
        if not found and shard_map.epoch == FIRST_EPOCH and connection.execute(_ROWS.limit(1)).first() is None:
            connection.execute(_CLAIM, {"claimed": [row.unit for row in wanted]})
            note_pins(connection, shard, shard_map)
            found = owned(connection)
        # Raise inside the transaction. If two gates with different settings come at once, the later one then records
        # nothing.
        different = sorted({row.unit: row.since_epoch for row in wanted}.items() ^ found.items())
        if different:
            raise SettingsError(
                _difference(shard, different[0][0], {row.unit: row.since_epoch for row in wanted}, found)
            )


def note_pins(connection: Connection, shard: str, shard_map: ShardMap) -> None:
    """Record on a shard that tenants which are pinned to others are not its own, though their slots may be."""
    pinned = [tenant_unit(tenant) for tenant, held in shard_map.pins.items() if held.shard != shard]
    if pinned:
        execute_own(connection, _PIN, {"pinned": pinned})


def verify_existing(engine: Engine, shard: str, shard_map: ShardMap) -> None:
    """Check that a database which no gate has named yet is *shard*: its own table must know all that a later map says.

    Units that are about to leave the shard are still in that table, with a later epoch.

    Raises:
        SettingsError: the table does not know a unit; the message names the first one.
    """
    with own(engine).connect() as connection:
        found = {row.unit: row.since for row in connection.execute(_ROWS)}
    wanted = {row.unit: row.since_epoch for row in shard_map.owned_units(shard)}
    unknown = [unit for unit, since in wanted.items() if found.get(unit, 0) < since]
    if unknown:
        raise SettingsError(_difference(shard, unknown[0], wanted, found))


def owned(connection: Connection) -> dict[str, int]:
    """Return all units that a shard owns, each with the epoch since which it owns it."""
    return {row.unit: row.since for row in execute_own(connection, _ROWS.where(OWNERSHIP.c.owned))}


def _compare(rows: Any, ownerships: Sequence[Ownership]) -> None:
    found = {row.unit: row.since for row in rows if row.owned}
    for ownership in ownerships:
        if found.get(ownership.unit) != ownership.since_epoch:
            raise _not_owned(ownership)


def _not_owned(ownership: Ownership) -> StaleShardMap:
    return StaleShardMap(
        f"the shard {ownership.shard} does not own {ownership.unit} since epoch {ownership.since_epoch}, as the shard "
        "map that was used here says: the unit was flipped to another shard, or is being flipped now"
    )


def _difference(shard: str, unit: str, wanted: dict[str, int], found: dict[str, int]) -> str:
    def shown(since: int | None) -> str:
        return "does not own it" if since is None else f"owns it since epoch {since}"

    return (
        f"shards.{shard}: by the shard map it {shown(wanted.get(unit))} ({unit}), by its own table it "
        f"{shown(found.get(unit))}. Rows stay where they were written, so ranges and pins cannot be changed by the "
        "settings: go back to the settings that the shards began with, or check that this shard's URL leads to the "
        "right database"
    )
