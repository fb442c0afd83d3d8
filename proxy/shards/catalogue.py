"""The catalogue: the shard map as data, in a table on one shard, changed by compare-and-set; all gates follow it.

A new map replaces the old one only if the epoch is still the one that the new map was made from. A gate that follows
the catalogue is notified, and also asks regularly. While the catalogue does not answer, every gate goes on with the map
that it has. This is safe: what a shard owns is recorded on the shard itself, so a gate with an old map is refused
there, and no write goes to a wrong place.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError

from tidegate.error_text import first_line
from tidegate.errors import StaleShardMap, UnknownTenant
from tidegate.interruptions import pass_interruption
from tidegate.proxy.database.notifications import Listener, NotifiedThread, listens
from tidegate.proxy.database.placement import own
from tidegate.proxy.database.schema import CATALOGUE
from tidegate.proxy.shards.coalesced import CoalescedCall
from tidegate.routing.sharding.shard_map import ShardMap

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import ColumnElement, Engine

_CHANNEL: Final = "tidegate_catalogue"
_NAME: Final = "shards"
_HERE: Final = CATALOGUE.c.name == _NAME
_NOTIFY: Final = select(func.pg_notify(_CHANNEL, ""))
_ANSWER_S: Final = 5.0
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FlipPlan:
    """A flip that is under way.

    Args:
        slots: the slots that are flipped, in order.
        from_shard: the shard that gives them.
        to_shard: the shard that gets them.
        since_epoch: the epoch of the map in which *to_shard* owns them. Every attempt has an epoch of its own, also the
            attempt that takes over somebody else's flip. So if two processes carry out one flip, the shards can tell
            which of them came later.
    """

    slots: tuple[int, ...]
    from_shard: str
    to_shard: str
    since_epoch: int

    def as_text(self) -> str:
        """Return the plan as JSON; equal plans have equal texts."""
        return json.dumps([self.slots, self.from_shard, self.to_shard, self.since_epoch])

    @classmethod
    def of_text(cls, text: str) -> FlipPlan:
        """Return the plan that :meth:`as_text` wrote."""
        slots, *rest = json.loads(text)
        return cls(tuple(slots), *rest)


class Entry(NamedTuple):
    """What the catalogue holds: the map, the flip that is under way, and the next epoch that nothing has been given."""

    shard_map: ShardMap
    flip: FlipPlan | None
    next_epoch: int


class Catalogue:
    """Read and change the catalogue on one shard's primary. Errors of the database pass unchanged.

    Args:
        engine: the primary's engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def load(self) -> Entry | None:
        """Return what the catalogue holds, in one query; None if no map was published yet.

        Raises:
            SettingsError: it holds a map that this release cannot read.
        """
        columns = (CATALOGUE.c.map, CATALOGUE.c.flip, CATALOGUE.c.last_epoch)
        with own(self._engine).connect() as connection:
            row = connection.execute(select(*columns).where(_HERE)).one_or_none()
        if row is None:
            return None
        flip = None if row.flip is None else FlipPlan.of_text(row.flip)
        return Entry(ShardMap.of_text(row.map), flip, row.last_epoch + 1)

    def publish(self, shard_map: ShardMap, expected_epoch: int | None, *, ending: FlipPlan | None = None) -> None:
        """Replace the map, if its epoch is still *expected_epoch*, and notify all gates that follow it.

        Args:
            shard_map: the new map. Its epoch is the next one that was given to nothing yet, or that of the flip that
                ends.
            expected_epoch: the epoch of the map that the new one was made from; None: there is no map yet.
            ending: the flip that ends with this map; None: no flip may be under way.

        Raises:
            StaleShardMap: the catalogue has another epoch, or another flip is under way. Nothing was changed.
        """
        if expected_epoch is None:
            self._found(shard_map)
            return
        epoch = shard_map.epoch
        free = CATALOGUE.c.last_epoch < epoch if ending is None else CATALOGUE.c.last_epoch == epoch
        values = {"epoch": epoch, "last_epoch": epoch, "map": shard_map.as_text(), "flip": None}
        self._replace(expected_epoch, [_is(ending), free], values, notify=True)

    def plan(self, flip: FlipPlan, expected_epoch: int, *, instead_of: FlipPlan | None = None) -> None:
        """Record a flip that begins or is taken over, before anything of it is done.

        Args:
            flip: the flip.
            expected_epoch: the epoch of the map that it begins with.
            instead_of: the flip that it takes over; None: no flip may be under way.

        Raises:
            StaleShardMap: the catalogue has another epoch, or another flip is under way. Nothing was changed.
        """
        values = {"flip": flip.as_text(), "last_epoch": flip.since_epoch}
        self._replace(expected_epoch, [_is(instead_of), CATALOGUE.c.last_epoch < flip.since_epoch], values)

    def give_up(self, flip: FlipPlan, expected_epoch: int) -> None:
        """Remove the record of a flip of which nothing was done.

        Raises:
            StaleShardMap: somebody has taken the flip over.
        """
        self._replace(expected_epoch, [_is(flip)], {"flip": None})

    def _found(self, shard_map: ShardMap) -> None:
        epoch = shard_map.epoch
        row = {"name": _NAME, "epoch": epoch, "last_epoch": epoch, "map": shard_map.as_text()}
        try:
            with own(self._engine).begin() as connection:
                connection.execute(insert(CATALOGUE).values(row))
                connection.execute(_NOTIFY)
        except IntegrityError as error:
            raise StaleShardMap("the catalogue has a shard map already: load that map, and change it") from error

    def _replace(
        self, epoch: int, conditions: list[ColumnElement[bool]], values: dict[str, object], *, notify: bool = False
    ) -> None:
        with own(self._engine).begin() as connection:
            changed = update(CATALOGUE).where(_HERE, CATALOGUE.c.epoch == epoch, *conditions).values(values)
            if connection.execute(changed).rowcount == 0:
                columns = (CATALOGUE.c.epoch, CATALOGUE.c.last_epoch, CATALOGUE.c.flip)
                found = connection.execute(select(*columns).where(_HERE)).one_or_none()
                raise StaleShardMap(f"the catalogue is not at epoch {epoch} as expected, but {_shown(found)}")
            if notify:
                connection.execute(_NOTIFY)


class MapSource(Protocol):
    """Give a gate its shard map."""

    def current(self) -> ShardMap:
        """Return the map that this process has.

        Raises:
            UnknownTenant: the shard map was never read.
        """
        ...

    def refresh(self) -> bool:
        """Read the map again now. Tell whether its source answered, so that the map is the newest."""
        ...


class StaticMap:
    """Give the map of the settings, which never changes.

    Args:
        shard_map: the map of the settings.
    """

    def __init__(self, shard_map: ShardMap) -> None:
        self._map = shard_map

    def current(self) -> ShardMap:
        """Return the map of the settings."""
        return self._map

    def refresh(self) -> bool:
        """Return False: if a shard contradicts the settings, no newer map can explain it."""
        return False


class Follower:
    """Follow a catalogue: by its notifications, and by asking every *poll_s* seconds.

    Args:
        catalogue: the catalogue.
        listen: makes the listener that waits for notifications; None: there are none.
        poll_s: how long to wait for a notification before asking all the same, in seconds.
        answer_s: how long a caller of :meth:`refresh` waits for an answer, in seconds. A catalogue that takes longer
            counts as away.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        listen: Callable[[], Listener] | None,
        *,
        poll_s: float = 1.0,
        answer_s: float = _ANSWER_S,
    ) -> None:
        self._catalogue = catalogue
        self._map: ShardMap | None = None
        self._question = CoalescedCall(self._load, answer_s)
        self._notified = NotifiedThread(
            "tidegate-catalogue",
            listen,
            self.refresh,
            failed="the catalogue cannot be followed: %s",
            poll_s=poll_s,
            again_s=poll_s,
        )

    @classmethod
    def of(
        cls,
        engine: Engine,
        *,
        poll_s: float = 1.0,
        answer_s: float = _ANSWER_S,
    ) -> Follower:
        """Make a follower of the catalogue on *engine*.

        Args:
            engine: the engine of the primary that keeps the catalogue.
            poll_s: as for the class, in seconds.
            answer_s: as for the class, in seconds.
        """

        def listen() -> Listener:
            return Listener(engine, _CHANNEL, "tidegate-catalogue")

        return cls(Catalogue(engine), listen if listens(engine) else None, poll_s=poll_s, answer_s=answer_s)

    def current(self) -> ShardMap:
        """Return the map that this process has, and start following the catalogue in this process.

        Once there is a map, this costs no query.

        Raises:
            UnknownTenant: the shard map was never read.
        """
        self._notified.ensure_started()
        if self._map is None:
            self.refresh()
        if self._map is None:
            raise UnknownTenant(
                "the shard map was never read: its catalogue does not answer, or holds no map yet; without a map no "
                "tenant's shard is known"
            )
        return self._map

    def refresh(self) -> bool:
        """Read the map again now. Tell whether the catalogue answered in time.

        If many callers ask at once, one query answers all of them.
        """
        return self._question()

    def close(self) -> None:
        """End the thread."""
        self._notified.close()
        self._question.close()

    def _load(self) -> bool:
        try:
            entry = self._catalogue.load()
        except Exception as error:  # noqa: BLE001  # it is away, or unreadable: this process keeps the map that it has
            pass_interruption(error)
            _log.warning("the catalogue cannot be read, and the shard map stays as it is: %s", first_line(error))
            return False
        if entry is not None:
            self._take(entry.shard_map)
        return True

    def _take(self, found: ShardMap) -> None:
        before = self._map
        if before is not None and found.epoch < before.epoch:
            # A failover of the catalogue's shard may have lost the newest map. The ownership rows on the other shards
            # still say what that map said, so keep it.
            _log.warning("the catalogue went back from epoch %s to %s; the newer map stays", before.epoch, found.epoch)
            return
        self._map = found


def _is(flip: FlipPlan | None) -> ColumnElement[bool]:
    return CATALOGUE.c.flip.is_(None) if flip is None else CATALOGUE.c.flip == flip.as_text()


def _shown(found: Any) -> str:
    if found is None:
        return "empty"
    if found.flip is None:
        return f"at {found.epoch}, and has given out {found.last_epoch}"
    flip = FlipPlan.of_text(found.flip)
    return f"at {found.epoch}, with {len(flip.slots)} slots on their way from {flip.from_shard} to {flip.to_shard}"
