"""The catalogue: the shard map as data, in a table that one shard keeps, changed by compare-and-set, followed by all.

A map replaces another only where the epoch is still the one that its maker read. Whoever follows it is notified, and
asks now and then all the same. While the catalogue is away everyone goes on with the map they have: what a shard owns
stands on the shard itself, so an old map is refused there and leads no write astray.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError

from tidegate.errors import StaleShardMap, UnknownTenant
from tidegate.proxy.database.notifications import Listener, NotifiedThread
from tidegate.proxy.database.schema import CATALOGUE
from tidegate.proxy.shards.coalesced import CoalescedCall
from tidegate.routing.replicas.failures import first_line
from tidegate.routing.sharding.shard_map import ShardMap

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL, ColumnElement, Engine

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
        slots: that change hands, in order.
        from_shard: who gives them.
        to_shard: who gets them.
        since: the epoch of the map in which they have. Every attempt has one of its own, whoever takes a flip over
            too, so that of two who carry it out the shards can tell who came later.
    """

    slots: tuple[int, ...]
    from_shard: str
    to_shard: str
    since_epoch: int

    def as_text(self) -> str:
        """JSON; equal plans have equal texts."""
        return json.dumps([self.slots, self.from_shard, self.to_shard, self.since_epoch])

    @classmethod
    def of_text(cls, text: str) -> FlipPlan:
        """The plan that :meth:`as_text` wrote."""
        slots, *rest = json.loads(text)
        return cls(tuple(slots), *rest)


class Entry(NamedTuple):
    """What the catalogue holds: the map, the flip that is under way, and the next epoch that nobody was given."""

    shard_map: ShardMap
    flip: FlipPlan | None
    next_epoch: int


class Catalogue:
    """The catalogue on one shard's primary. Errors of the database pass unchanged.

    Args:
        engine: the primary's.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def load(self) -> Entry | None:
        """What is there, in one query; None where no map was published yet.

        Raises:
            SettingsError: what is there is no map that this release reads.
        """
        columns = (CATALOGUE.c.map, CATALOGUE.c.flip, CATALOGUE.c.last_epoch)
        with self._engine.connect() as connection:
            row = connection.execute(select(*columns).where(_HERE)).one_or_none()
        if row is None:
            return None
        flip = None if row.flip is None else FlipPlan.of_text(row.flip)
        return Entry(ShardMap.of_text(row.map), flip, row.last_epoch + 1)

    def publish(self, shard_map: ShardMap, expected_epoch: int | None, *, ending: FlipPlan | None = None) -> None:
        """Replace the map, if it is still that of *expected_epoch*, and notify all who follow it.

        Args:
            shard_map: the new one; its epoch is the next that nobody was given, or that of the flip that ends.
            expected_epoch: of the map it was made from; None: there is none yet.
            ending: the flip that ends with it; None: there must be none under way.

        Raises:
            StaleShardMap: the catalogue has another epoch, or another flip is under way; nothing was changed.
        """
        if expected_epoch is None:
            self._found(shard_map)
            return
        epoch = shard_map.epoch
        free = CATALOGUE.c.last_epoch < epoch if ending is None else CATALOGUE.c.last_epoch == epoch
        values = {"epoch": epoch, "last_epoch": epoch, "map": shard_map.as_text(), "flip": None}
        self._replace(expected_epoch, [_is(ending), free], values, notify=True)

    def plan(self, flip: FlipPlan, expected_epoch: int, *, instead_of: FlipPlan | None = None) -> None:
        """Note a flip that begins, or is taken over, before anything of it is done.

        Raises:
            StaleShardMap: the catalogue has another epoch, or another flip is under way.
        """
        values = {"flip": flip.as_text(), "last_epoch": flip.since_epoch}
        self._replace(expected_epoch, [_is(instead_of), CATALOGUE.c.last_epoch < flip.since_epoch], values)

    def give_up(self, flip: FlipPlan, expected_epoch: int) -> None:
        """Forget a flip of which nothing was done.

        Raises:
            StaleShardMap: somebody has taken it over.
        """
        self._replace(expected_epoch, [_is(flip)], {"flip": None})

    def _found(self, shard_map: ShardMap) -> None:
        epoch = shard_map.epoch
        row = {"name": _NAME, "epoch": epoch, "last_epoch": epoch, "map": shard_map.as_text()}
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(CATALOGUE).values(row))
                connection.execute(_NOTIFY)
        except IntegrityError as error:
            raise StaleShardMap("the catalogue has a shard map already; load it and change that one") from error

    def _replace(
        self, epoch: int, conditions: list[ColumnElement[bool]], values: dict[str, object], *, notify: bool = False
    ) -> None:
        with self._engine.begin() as connection:
            changed = update(CATALOGUE).where(_HERE, CATALOGUE.c.epoch == epoch, *conditions).values(values)
            if connection.execute(changed).rowcount == 0:
                columns = (CATALOGUE.c.epoch, CATALOGUE.c.last_epoch, CATALOGUE.c.flip)
                found = connection.execute(select(*columns).where(_HERE)).one_or_none()
                raise StaleShardMap(f"the catalogue is not at epoch {epoch} as expected, but {_shown(found)}")
            if notify:
                connection.execute(_NOTIFY)


class MapSource(Protocol):
    """Where a gate has its shard map from."""

    def current(self) -> ShardMap:
        """The map that this process has.

        Raises:
            UnknownTenant: it never had one.
        """
        ...

    def refresh(self) -> bool:
        """Read the map again now; whether where it comes from has answered, so that it is the newest."""
        ...


class StaticMap:
    """A map that never changes: that of the settings."""

    def __init__(self, shard_map: ShardMap) -> None:
        self._map = shard_map

    def current(self) -> ShardMap:
        """See :class:`MapSource`."""
        return self._map

    def refresh(self) -> bool:
        """Never: where a shard says otherwise, no newer map explains it."""
        return False


class Follower:
    """Follows a catalogue: by notification, and by asking every *poll_s*.

    Args:
        catalogue: whose map it is.
        listen: makes what waits for a notification.
        poll_s: how often it asks without one, in seconds.
        answer_s: how long who asks waits for an answer, in seconds: one that hangs is away for them.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        listen: Callable[[], Listener],
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
        url: Callable[[], URL] | None = None,
        poll_s: float = 1.0,
        answer_s: float = _ANSWER_S,
    ) -> Follower:
        """A follower of the catalogue on *engine*; *url* tells where that primary is now."""
        here = url or (lambda: engine.url)

        def listen() -> Listener:
            return Listener(here(), _CHANNEL, "tidegate-catalogue")

        return cls(Catalogue(engine), listen, poll_s=poll_s, answer_s=answer_s)

    def current(self) -> ShardMap:
        """See :class:`MapSource`; starts following in this process, and costs no query once there is a map."""
        self._notified.ensure_started()
        if self._map is None:
            self.refresh()
        if self._map is None:
            raise UnknownTenant(
                "the shard map was never read: its catalogue does not answer, or has none yet; no shard is guessed"
            )
        return self._map

    def refresh(self) -> bool:
        """See :class:`MapSource`. Of many who ask at once one asks the catalogue for all."""
        return self._question()

    def close(self) -> None:
        """End the thread."""
        self._notified.close()
        self._question.close()

    def _load(self) -> bool:
        try:
            entry = self._catalogue.load()
        except Exception as error:  # noqa: BLE001  # away, or unreadable: what this process has goes on
            _log.warning("the catalogue cannot be read, the shard map stays as it is: %s", first_line(error))
            return False
        if entry is not None:
            self._take(entry.shard_map)
        return True

    def _take(self, found: ShardMap) -> None:
        had = self._map
        if had is not None and found.epoch < had.epoch:
            # A failover of the catalogue's shard may have lost the newest map; the shards' own rows have not forgotten.
            _log.warning("the catalogue went back from epoch %s to %s; the newer map stays", had.epoch, found.epoch)
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
