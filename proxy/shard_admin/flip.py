"""Flipping slots from one shard to another: at no moment do two shards accept writes for one slot.

There are five steps. Each is a transaction, and each is harmless when it is repeated::

    plan      in the catalogue: which slots, from where to where, at which epoch. From now on anybody can finish it
    close     on the shard that gives: new writes to these slots are refused, and those that have begun may end
    fence     on the shard that gives: it owns them no more. This waits for the writes that had begun
    grant     on the shard that gets: it owns them, since that epoch
    publish   in the catalogue: the map of that epoch, and the plan is done

Before the fence one shard accepts writes; after it, no shard does. For a write needs a shard that owns the slot *since
the epoch that the writer's map says*, and no map says this epoch until it is published. Reads go on where the rows are.

If the process that flips dies, the plan stays. :meth:`Flipper.finish` takes it over, with an epoch of its own, and goes
through all steps again. If the first process was only slow, and comes back, it does no harm: neither the rows of a
shard nor the catalogue go back to an older epoch.

This flips slots, and moves no rows: the rows of their tenants must have been copied before, or there must be none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, delete, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from tidegate.errors import RoutingError, SettingsError, StaleShardMap
from tidegate.proxy.database.ownership import note_pins
from tidegate.proxy.database.placement import execute_own, own
from tidegate.proxy.database.schema import CLOSING, OWNERSHIP
from tidegate.proxy.shards.catalogue import FlipPlan
from tidegate.routing.sharding.shard_map import slot_unit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sqlalchemy import BindParameter, Connection, Engine

    from tidegate.proxy.shards.catalogue import Catalogue, Entry
    from tidegate.routing.sharding.shard_map import ShardMap

_CANCELED: Final = "57014"
_UNITS: Final[BindParameter[Any]] = bindparam("units", expanding=True)
_ROWS: Final = (
    select(OWNERSHIP.c.unit, OWNERSHIP.c.since, OWNERSHIP.c.owned)
    .where(OWNERSHIP.c.unit.in_(_UNITS))
    .order_by(OWNERSHIP.c.unit)  # the order in which writes lock them, so that there is no deadlock
)
_LOCKED: Final = _ROWS.with_for_update(key_share=True)
_NOTICES: Final = (
    select(CLOSING.c.unit)
    .where(CLOSING.c.unit.in_(_UNITS), CLOSING.c.since == bindparam("since"), CLOSING.c.closed)
    .order_by(CLOSING.c.unit)
    .with_for_update()
)


class Flipper:
    """Flip slots, one flip at a time for all who share a catalogue.

    Args:
        catalogue: holds the map and the plan.
        engines: the engines of the shards' primaries, by name; at least those of the two shards.
        drain_s: how long writes that had begun may take to end, in seconds; new ones are refused meanwhile.
        objection: is asked on the shard that gives, when no write is under way there any more and the shard still owns
            the slots. It returns a reason against the flip, like rows that would be left behind; None: there is none.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        engines: Mapping[str, Engine],
        *,
        drain_s: float = 5.0,
        objection: Callable[[Connection, FlipPlan], str | None] = lambda _connection, _plan: None,
    ) -> None:
        self._catalogue = catalogue
        self._engines = engines
        self._drain_s = drain_s
        self._objection = objection

    def flip(self, slots: Iterable[int], from_shard: str, to_shard: str) -> ShardMap:
        """Flip *slots*, and return the map that says so. If it is done already, change nothing.

        Raises:
            SettingsError: a shard is not known, its primary is a standby, or *from_shard* does not own a slot.
            RoutingError: another flip is under way, writes did not end in time, or there was an objection. Nothing was
                flipped.
            StaleShardMap: somebody else has changed the map meanwhile, or has taken this flip over.
        """
        entry = self._entry()
        wanted = tuple(sorted(set(slots)))
        plan = FlipPlan(wanted, from_shard, to_shard, entry.next_epoch)
        if entry.flip is not None:
            if replace(entry.flip, since_epoch=plan.since_epoch) != plan:
                raise RoutingError(
                    f"{len(entry.flip.slots)} slots are on their way from {entry.flip.from_shard} to "
                    f"{entry.flip.to_shard}: finish that flip first"
                )
            return self._carry_out(plan, entry)
        target = entry.shard_map.with_slots_moved(wanted, to_shard)
        if [held.shard for held in target.slots] == [held.shard for held in entry.shard_map.slots]:
            return entry.shard_map
        self._check(plan, entry.shard_map)
        return self._carry_out(plan, entry)

    def finish(self) -> ShardMap:
        """Finish the flip that is under way, whoever began it, and return the map. If there is none, change nothing.

        Raises:
            RoutingError, StaleShardMap: as for :meth:`flip`.
        """
        entry = self._entry()
        if entry.flip is None:
            return entry.shard_map
        return self._carry_out(replace(entry.flip, since_epoch=entry.next_epoch), entry)

    def _entry(self) -> Entry:
        entry = self._catalogue.load()
        if entry is None:
            raise SettingsError("the catalogue has no shard map yet: a gate with sharding.catalogue set publishes one")
        return entry

    def _check(self, plan: FlipPlan, shard_map: ShardMap) -> None:
        """Check what can be checked before anything is done.

        It asks both shards, so that a flip with a shard that is down refuses no write.
        """
        for slot in plan.slots:
            if (holder := shard_map.slots[slot].shard) != plan.from_shard:
                raise SettingsError(f"slot {slot} is held by {holder}, not by {plan.from_shard}")
        for name in (plan.from_shard, plan.to_shard):
            if name not in self._engines:
                raise SettingsError(f"no database is known of the shard {name!r}; known are {', '.join(self._engines)}")
            with self._engines[name].connect() as connection:
                if connection.scalar(text("SELECT pg_is_in_recovery()")):
                    raise SettingsError(f"the primary of the shard {name!r} is a standby: its URL leads to a replica")

    def _carry_out(self, plan: FlipPlan, entry: Entry) -> ShardMap:
        shard_map = entry.shard_map
        self._plan(plan, entry)
        self._close(plan)
        try:
            self._fence(plan, shard_map)
        except _NotDrained as error:
            self._give_up(plan, shard_map)
            raise RoutingError(
                f"writes on {plan.from_shard} that had begun did not end within {self._drain_s:g} s, so nothing was "
                "flipped; look for the oldest transaction in pg_stat_activity and pg_prepared_xacts"
            ) from error.__cause__
        except _Objected as error:
            self._give_up(plan, shard_map)
            raise RoutingError(f"{error}; nothing was flipped") from None
        self._grant(plan, shard_map)
        return self._publish(plan, shard_map)

    def _plan(self, plan: FlipPlan, entry: Entry) -> None:
        self._catalogue.plan(plan, entry.shard_map.epoch, instead_of=entry.flip)

    def _close(self, plan: FlipPlan, *, closed: bool = True) -> None:
        notices = [{"unit": unit, "since": plan.since_epoch, "closed": closed} for unit in _units(plan)]
        with own(self._engines[plan.from_shard]).begin() as connection:
            noted = insert(CLOSING).values(notices)
            values = {"since": noted.excluded.since, "closed": noted.excluded.closed}
            # This waits for the fence of an earlier attempt at this flip. It changes nothing where a later attempt has
            # taken the flip over: then fewer rows come back.
            done = noted.on_conflict_do_update(
                index_elements=["unit"], set_=values, where=CLOSING.c.since <= noted.excluded.since
            )
            if len(connection.execute(done.returning(CLOSING.c.unit)).all()) != len(notices):
                raise _taken_over(plan)

    def _fence(self, plan: FlipPlan, shard_map: ShardMap) -> None:
        units = {"units": _units(plan)}
        with self._engines[plan.from_shard].begin() as connection:
            if len(execute_own(connection, _NOTICES, units | {"since": plan.since_epoch}).all()) != len(plan.slots):
                raise _taken_over(plan)
            was_fenced = not any(row.owned for row in execute_own(connection, _ROWS, units))
            connection.execute(text(f"SET LOCAL statement_timeout = {int(self._drain_s * 1000)}"))
            try:
                rows = execute_own(connection, _LOCKED, units).all()
            except DBAPIError as error:
                # Give the flip up only if no earlier attempt has fenced it: after a fence, it can only go forward.
                raise error if was_fenced or not _is_canceled(error) else _NotDrained from error
            self._check_rows(plan, shard_map, rows)
            if not was_fenced and (objection := self._objection(connection, plan)):
                raise _Objected(objection)
            gone = update(OWNERSHIP).where(OWNERSHIP.c.unit.in_(_UNITS)).values(since=plan.since_epoch, owned=False)
            execute_own(connection, gone, units)
            execute_own(connection, delete(CLOSING).where(CLOSING.c.unit.in_(_UNITS)), units)

    def _check_rows(self, plan: FlipPlan, shard_map: ShardMap, rows: Iterable[Any]) -> None:
        """Check that the units are owned as the map says, or were fenced by an earlier attempt at this flip."""
        found = {row.unit: (row.owned, row.since) for row in rows}
        for slot in plan.slots:
            since = shard_map.slots[slot].since_epoch
            owned, really = found.get(slot_unit(slot), (False, 0))
            as_mapped, fenced_before = owned and really == since, not owned and since < really < plan.since_epoch
            if not (as_mapped or fenced_before):
                raise StaleShardMap(
                    f"by the catalogue {plan.from_shard} owns slot {slot} since epoch {since}; by its own table it "
                    f"{'owns it' if owned else 'does not own it'}, since epoch {really}"
                )

    def _give_up(self, plan: FlipPlan, shard_map: ShardMap) -> None:
        # The rows stay in the table. If an earlier attempt at this flip is only slow, they keep it from closing the
        # slots again.
        self._close(plan, closed=False)
        self._catalogue.give_up(plan, shard_map.epoch)

    def _grant(self, plan: FlipPlan, shard_map: ShardMap) -> None:
        units = _units(plan)
        with own(self._engines[plan.to_shard]).begin() as connection:
            note_pins(connection, plan.to_shard, shard_map)  # before it owns a slot of theirs: it may be new
            granted = insert(OWNERSHIP).values(
                [{"unit": unit, "since": plan.since_epoch, "owned": True} for unit in units]
            )
            connection.execute(
                granted.on_conflict_do_update(
                    index_elements=["unit"],
                    set_={"since": granted.excluded.since, "owned": True},
                    where=OWNERSHIP.c.since < granted.excluded.since,
                )
            )
            # If the shard does not own them at this epoch, it has had them at a later one: then this attempt is an old
            # one that was slow.
            if not self._owns(connection, units, plan.since_epoch):
                raise _taken_over(plan)

    def _owns(self, connection: Connection, units: list[str], since: int) -> bool:
        return all(row.owned and row.since == since for row in connection.execute(_ROWS, {"units": units}))

    def _publish(self, plan: FlipPlan, shard_map: ShardMap) -> ShardMap:
        flipped = shard_map.with_slots_moved(plan.slots, plan.to_shard, plan.since_epoch)
        self._catalogue.publish(flipped, shard_map.epoch, ending=plan)
        return flipped


class _NotDrained(Exception):  # noqa: N818  # caught here
    """Writes that had begun did not end in time."""


class _Objected(Exception):  # noqa: N818  # caught here
    """There is a reason against the flip."""


def _units(plan: FlipPlan) -> list[str]:
    return sorted(slot_unit(slot) for slot in plan.slots)


def _is_canceled(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) == _CANCELED


def _taken_over(plan: FlipPlan) -> StaleShardMap:
    return StaleShardMap(
        f"the flip of {len(plan.slots)} slots from {plan.from_shard} to {plan.to_shard} at epoch {plan.since_epoch} "
        "was taken over, and is finished or given up by now; nothing more was done here"
    )
