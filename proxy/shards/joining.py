"""How a gate joins its shards: it makes their tables, and checks that they have one cluster, one cache and a right map.

A shard that does not answer when the gate is made is joined when it is first needed.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import uuid4

from sqlalchemy.exc import DBAPIError

from tidegate.error_text import first_line
from tidegate.errors import NoNodeAvailable, SettingsError, StaleShardMap, UnknownTenant
from tidegate.fork_hooks import reset_after_fork
from tidegate.interruptions import pass_interruption
from tidegate.proxy.database.identity import cluster_id, cluster_namespace, database_id, is_named, name_shard
from tidegate.proxy.database.origins import note_origins
from tidegate.proxy.database.ownership import record_ownership, verify_existing
from tidegate.proxy.database.schema import make_tables, missing_tables
from tidegate.proxy.database.serving import served
from tidegate.proxy.nodes.engines import forgotten_in_children, primary_engine
from tidegate.proxy.nodes.open import nodes_of
from tidegate.proxy.shards.catalogue import Catalogue, Follower, StaticMap
from tidegate.proxy.shards.joined import Joined
from tidegate.routing.sharding.shard_map import FIRST_EPOCH

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import ExitStack

    from sqlalchemy import Engine

    from tidegate.proxy.database.serving import Serving
    from tidegate.proxy.nodes.shard_nodes import ShardNodes
    from tidegate.proxy.observe import Observer
    from tidegate.proxy.settings import Settings, ShardSettings
    from tidegate.proxy.shards.catalogue import MapSource
    from tidegate.routing.sharding.shard_map import ShardMap

_log: Final = logging.getLogger(__name__)


def join(settings: Settings, observe: Observer, undo: ExitStack) -> Joined:
    """Make the engines of all shards, and join the shards that answer.

    Args:
        settings: the gate's settings.
        observe: is told what happens on the way to a server.
        undo: gets what closes all that was made.

    Raises:
        SettingsError: a setting cannot work, or the shards do not belong together.
        DBAPIError: the first shard does not answer, and no other shard knows the cluster's id.
        NoNodeAvailable: no shard answers, or the first one has no primary just now and no other knows the cluster's id.
    """
    first, kept_by = settings.shard_map(), settings.sharding.catalogue
    engines = {shard.name: _engine(shard, settings, undo) for shard in settings.shards}
    nodes = {
        shard.name: nodes_of(
            engines[shard.name], shard, settings, observe, note_origins(engines[shard.name], shard.name)
        )
        for shard in settings.shards
    }
    for known in nodes.values():
        if known is not None:
            undo.callback(known.close)
    maps: MapSource = StaticMap(first)
    catalogue = None
    if kept_by is not None:
        catalogue = (kept_by, Catalogue(engines[kept_by]))
        follower = Follower.of(engines[kept_by], poll_s=settings.sharding.poll_s)
        undo.callback(follower.close)
        maps = follower
    joining = Joining(engines, nodes, first, maps, catalogue)
    joining.begin()
    if catalogue is not None:
        _warn_of_ignored(settings, first, maps)
    return Joined(engines, nodes, maps, joining, joining.joined, joining.namespace)


def _engine(shard: ShardSettings, settings: Settings, undo: ExitStack) -> Engine:
    engine = primary_engine(shard, settings)
    undo.callback(engine.dispose)
    if (name := engine.dialect.name) != "postgresql":
        raise SettingsError(
            f"shards.{shard.name}.primary: it is {name}, and where there are several shards each must be PostgreSQL"
        )
    note_origins(engine, shard.name)
    return forgotten_in_children(engine)


class _Failed(NamedTuple):
    """The last attempt to join a shard: when it began, on a monotonic clock, and the error."""

    began_at_s: float
    error: Exception


class Joining:
    """Join shards, each once.

    Args:
        engines: the engines of the primaries, by shard.
        nodes: the servers of each shard; None for a shard that has one server.
        first: the map of the settings.
        maps: the source of the map that is in force.
        catalogue: the name of the shard that keeps the catalogue, and the catalogue; None: the settings are the map.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        nodes: Mapping[str, ShardNodes | None],
        first: ShardMap,
        maps: MapSource,
        catalogue: tuple[str, Catalogue] | None,
    ) -> None:
        self._engines: Final = engines
        self._nodes: Final = nodes
        self._first: Final = first
        self._maps: Final = maps
        self._catalogue: Final = catalogue
        self._first_shard: Final = catalogue[0] if catalogue is not None else next(iter(engines))
        self._joined: set[str] = set()
        self._failed: dict[str, _Failed] = {}
        self._make_locks()
        self.cluster: str | None = None
        self._serving: Serving | None = None
        reset_after_fork(self._make_locks)

    def begin(self) -> None:
        """Join all shards that answer, beginning with the one that gives the cluster its id.

        That is the shard with the catalogue; without a catalogue, the first shard of the settings.

        Raises:
            SettingsError: the shards do not belong together, or a shard owns something else than the settings say.
            DBAPIError: the first shard does not answer, and no other shard knows the cluster's id.
            NoNodeAvailable: no shard answers, or the first one has no primary just now and no other knows the cluster's
                id.
        """
        names = sorted(self._engines, key=lambda name: name != self._first_shard)
        for name in names:
            try:
                self(name)
            except (DBAPIError, NoNodeAvailable) as error:  # NoNodeAvailable: a promotion is under way there
                if name == self._first_shard and not self._is_named():
                    raise
                _log.warning("the shard %s does not answer, and will be joined later: %s", name, first_line(error))
            except UnknownTenant as error:
                _log.warning("the shard %s will be joined later: %s", name, error)
        if self.cluster is None:
            raise NoNodeAvailable(f"no shard answers: {', '.join(names)}")

    def _make_locks(self) -> None:
        # A forked process makes new ones: those of its parent may have been held.
        self._locks = {name: threading.Lock() for name in self._engines}

    def _is_named(self) -> bool:
        """Tell whether another shard knows the cluster's id, and take it and the serving cache from there."""
        for engine in self._engines.values():
            with suppress(DBAPIError, NoNodeAvailable):
                if not missing_tables(engine):
                    database_id(engine)  # a copy is of no cluster yet
                    self.cluster = self.cluster or cluster_id(engine, None)
                    self._serving = self._serving or served(engine).by
        return self.cluster is not None

    def joined(self) -> list[Engine]:
        """Return the engines of the databases that have been joined, first the one that decides which cache serves."""
        names = sorted(self._joined, key=lambda name: name != self._first_shard)
        return [self._engines[name] for name in names]

    def namespace(self) -> str:
        """Return the name in the cache's keys that all shards of the cluster share."""
        return cluster_namespace(self.cluster or "")

    def __call__(self, shard: str) -> None:
        """Join *shard*, if this process has not joined it yet.

        Raises:
            SettingsError: as for :meth:`begin`.
            DBAPIError, NoNodeAvailable: the shard does not answer.
            UnknownTenant: the shard map was never read.
        """
        if shard in self._joined:
            return
        came_at_s = time.monotonic()
        with self._locks[shard]:
            if shard in self._joined:
                return
            failed = self._failed.get(shard)
            if failed is not None and failed.began_at_s >= came_at_s:
                # Many callers may wait here for a shard that hangs. If each of them tried again, they would wait for
                # it one after the other. So those who came before the last attempt began share its error.
                raise failed.error
            began_at_s = time.monotonic()
            try:
                self._join(shard, self._engines[shard])
            except Exception as error:
                pass_interruption(error)  # which is this caller's, and nobody's who waits with it
                self._failed[shard] = _Failed(began_at_s, error)
                raise
            self._joined.add(shard)
            self._failed.pop(shard, None)

    def _join(self, shard: str, engine: Engine) -> None:
        make_tables(engine)
        note_origins(engine, shard).join(database_id(engine))
        if self.cluster is None and shard == self._first_shard and cluster_id(engine, None) is None:
            self._is_named()  # its database was made anew, as a copy: the others know which cluster it is of
        # Only one shard gives the cluster its id, the same in all gates. Otherwise two gates might give it two ids.
        found = cluster_id(engine, self.cluster or (uuid4().hex if shard == self._first_shard else None))
        if found is None or self.cluster not in (None, found):
            raise SettingsError(f"shards.{shard}: its database belongs to another cluster of shards; check its URL")
        serving = served(engine).by
        if serving is not None and self._serving is not None and serving.id != self._serving.id:
            raise SettingsError(
                f"shards.{shard}: its database is served by the cache {serving.url}, and those of the other shards by "
                f"{self._serving.url}: all must have the same cache; see 'tidegate init --cache-url'"
            )
        self.cluster, self._serving = found, self._serving or serving
        named = is_named(engine, shard)
        self._own(shard, engine, named=named)
        if not named:  # last, after all checks: a name that came from a wrong URL could not be taken back
            name_shard(engine, shard)

    def _own(self, shard: str, engine: Engine, *, named: bool) -> None:
        if self._catalogue is not None and shard == self._catalogue[0]:
            _publish(self._catalogue[1], self._first)
        current = self._maps.current()
        if named and self._catalogue is not None:
            return  # its ownership was recorded before its name was, and a flip of its slots may be under way
        if current.epoch == FIRST_EPOCH:
            record_ownership(engine, shard, current)
        else:
            verify_existing(engine, shard, current)


def _warn_of_ignored(settings: Settings, first: ShardMap, maps: MapSource) -> None:
    """Warn of pins and ranges of the settings that the catalogue's map does not have, although no flip explains it."""
    try:
        current = maps.current()
    except UnknownTenant:  # the catalogue is away
        return
    pins = [
        f"pins of {tenant} to {held.shard}"
        for tenant, held in first.pins.items()
        if (found := current.pins.get(tenant)) is None or found.shard != held.shard
    ]
    ranges = [
        f"ranges of {shard} with [{low}, {high}]"
        for shard, stretches in settings.sharding.ranges.items()
        for low, high in stretches
        if any(held.since_epoch == FIRST_EPOCH and held.shard != shard for held in current.slots[low : high + 1])
    ]
    if pins or ranges:
        _log.warning(
            "sharding.pins and sharding.ranges are used for the catalogue's first map only, and that was made before "
            "these settings: it does not have the %s; see 'tidegate shards'",
            ", nor the ".join([*pins, *ranges]),
        )


def _publish(catalogue: Catalogue, first: ShardMap) -> None:
    if catalogue.load() is None:
        try:
            catalogue.publish(first, None)
        except StaleShardMap:  # another gate was faster: its map is the first
            _log.info("another gate has published the first shard map")
