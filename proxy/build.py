"""The composition root: the only place where layers are put one on another. Reading it is reading the architecture.

facade -> telemetry -> tenants -> caching -> routing -> plain repository               a read
facade -> telemetry -> tenants -> caching -> sharding -> routing -> plain repository   the same, of several shards
plain repository -> watched engine -> commit protocol                                  a write
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from tidegate.cache.codec import Codec
from tidegate.cache.events import ignore
from tidegate.cache.keeper import Keeper
from tidegate.cache.near import Bounded
from tidegate.cache.read_through import ReadThrough
from tidegate.cache.redis_store import RedisStore
from tidegate.cache.redis_url import shown_url
from tidegate.cache.store import StoreUnavailable
from tidegate.errors import CacheUnavailable, SettingsError
from tidegate.proxy.caching import Caching
from tidegate.proxy.engines import primary_engine
from tidegate.proxy.finder import Finder
from tidegate.proxy.gate import Gate, Parts
from tidegate.proxy.in_sessions import InSessions
from tidegate.proxy.joining import join
from tidegate.proxy.learning import Learning, committed
from tidegate.proxy.origins import note_origins
from tidegate.proxy.parted import Parted
from tidegate.proxy.routing import needs_of
from tidegate.proxy.sessions import routed_maker
from tidegate.proxy.settings import Settings
from tidegate.proxy.shard_parts import nodes_of, parts_of, primary_of
from tidegate.proxy.sharded_primary import ShardedPrimary
from tidegate.proxy.sharding import Sharding
from tidegate.proxy.shards import Shards
from tidegate.proxy.state import cluster_id, make_tables, namespace, serving_cache
from tidegate.proxy.switches import Switches
from tidegate.proxy.telemetry import Counters, Log, Telemetry, all_of
from tidegate.proxy.tenants import Tenants
from tidegate.routing.directory import Directory
from tidegate.routing.scatter import Scatter

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

    from tidegate.cache.pushes import Pushes
    from tidegate.cache.store import Store
    from tidegate.proxy.call import Pipeline
    from tidegate.proxy.settings import CacheSettings
    from tidegate.proxy.telemetry import Observer


# In marks the one shard has no name: gates that call it differently would take each other for strangers.
_ONLY_SHARD: Final = ""
_log: Final = logging.getLogger(__name__)


def connect(
    settings: Settings | Path | str | None = None, *, embedded: bool = False, observe: Observer = ignore
) -> Gate:
    """A gate.

    Args:
        settings: the path of a TOML file, or :class:`Settings`; None: TIDEGATE_CONFIG, or TIDEGATE_DATABASE_URL and
            TIDEGATE_CACHE_URL.
        embedded: run PostgreSQL and Valkey of its own, which end with the gate; for trying things out.
        observe: told what the cache does; see :mod:`tidegate.cache.events`.

    Raises:
        SettingsError: a setting cannot work; names it.
    """
    if embedded:
        return _embedded(settings, observe)
    if settings is None:
        settings = Settings.from_environment()
    elif not isinstance(settings, Settings):
        settings = Settings.from_toml(Path(settings))
    if not settings.shards:
        raise SettingsError("shards: there is none; a gate needs [[shards]] with a name and the URL of its primary")
    settings.shard_map()  # what pins, ranges and the catalogue name must be there, though one shard may have it all
    if len(settings.shards) > 1:
        return _on_shards(settings, observe)
    engine = primary_engine(settings.shards[0], settings)
    try:
        return gate_on(engine, sessionmaker(engine), settings, observe=observe, on_close=engine.dispose)
    except BaseException:
        engine.dispose()
        raise


def gate_on(
    engine: Engine,
    session_maker: sessionmaker[Session],
    settings: Settings,
    *,
    observe: Observer = ignore,
    on_close: Callable[[], None] = lambda: None,
    store: Store | None = None,
) -> Gate:
    """A gate on an engine that the program has already.

    Args:
        engine: the primary's; it is watched from now on, and goes where the primary goes.
        session_maker: what the repositories open sessions with.
        settings: of cache and replicas; the primary's URL in them is not looked at.
        observe: told what the gate does.
        on_close: called when the gate is closed.
        store: a cache to use instead of the one that the settings name.

    Raises:
        SettingsError: a setting cannot work, or the database is one of several shards.
    """
    if len(settings.shards) > 1:
        raise SettingsError(f"shards: there are {len(settings.shards)}, and one engine is one's: use connect()")
    counters = Counters()
    observe = all_of(counters, Log(logging.getLogger("tidegate")), observe)
    note_origins(engine, _ONLY_SHARD)
    nodes = nodes_of(engine, settings.shards[0] if settings.shards else None, settings, observe)
    try:
        make_tables(engine)
        _refuse_one_of_several(engine)
        store = store or _store(engine, settings)
    except BaseException:
        if nodes is not None:
            nodes.close()
        raise
    primary = primary_of(engine, _ONLY_SHARD, settings)
    keeper = None if store is None else Keeper(store, primary, observe=observe)
    directory = Directory()
    needs, learn = needs_of(store, keeper), None if store is None else partial(committed, directory)
    only = parts_of(_ONLY_SHARD, engine, nodes, store, primary, needs, settings, observe, committed=learn)

    cache = _CacheOf(settings, store, keeper, only.keep_alive, observe)

    def pipeline(models: tuple[type[Any], ...]) -> Pipeline:
        if store is None:  # whose a call is need not be known
            return Telemetry(counters, only.routing)
        return Telemetry(counters, Tenants(cache.over(Learning(directory, only.routing), models), directory))

    return Gate(
        Parts(
            shards=(only,),
            routed=None,
            session_maker=session_maker,
            store=store,
            pushes=cache.pushes,
            counters=counters,
            pipeline=pipeline,
            in_session=None,
            patience_s=0,
            on_close=on_close,
        )
    )


def _on_shards(settings: Settings, observe: Observer) -> Gate:
    counters = Counters()
    observe = all_of(counters, Log(logging.getLogger("tidegate")), observe)
    with ExitStack() as undo:
        joined = join(settings, observe, undo)
        shards = Shards(joined.maps, joined.joining)
        store = _serving(settings, joined.joining.serving, joined.joining.namespace)
        primary = ShardedPrimary(shards)
        keeper = None if store is None else Keeper(store, primary, observe=observe)
        needs, directory = needs_of(store, keeper), Directory()
        for name, engine in joined.engines.items():
            parts = parts_of(
                name,
                engine,
                joined.nodes[name],
                store,
                primary_of(engine, name, settings),
                needs,
                settings,
                observe,
                holdings_of=partial(shards.holdings_on, name),
                make_root=None if keeper is None else keeper.make,
                committed=partial(committed, directory),
            )
            shards.add(parts)
        cache = _CacheOf(settings, store, keeper, shards.keep_alive, observe, epoch=primary.epoch)
        sharding = Learning(directory, Sharding(shards, needs.ask, settings.sharding.flip_wait_s))
        scatter = Scatter(timeout_s=settings.sharding.scatter_s)
        undo.callback(scatter.close)
        find = Finder(directory, shards, scatter)
        closing = undo.pop_all()

    def pipeline(models: tuple[type[Any], ...]) -> Pipeline:
        below = cache.over(sharding, models)
        parted = Parted(below, shards, scatter, find, settings.sharding.flip_wait_s)
        return Telemetry(counters, Tenants(below, directory, parted))

    return Gate(
        Parts(
            shards=tuple(shards.parts.values()),
            routed=shards,
            session_maker=routed_maker(shards),
            store=store,
            pushes=cache.pushes,
            counters=counters,
            pipeline=pipeline,
            in_session=InSessions(shards, scatter, find),
            patience_s=settings.sharding.flip_wait_s,
            on_close=closing.close,
        )
    )


def _refuse_one_of_several(engine: Engine) -> None:
    """A gate on one shard alone would use other keys than those on all of them, and check nothing."""
    if cluster_id(engine, None) is not None:
        raise SettingsError("shards: this database is one of several: name all of them, as the other gates do")


class _CacheOf:
    """The caching of a gate, for any repository's models over any layer that asks a node."""

    def __init__(
        self,
        settings: Settings,
        store: Store | None,
        keeper: Keeper | None,
        keep_alive: Callable[[], None],
        observe: Observer,
        *,
        epoch: Callable[[str], int] | None = None,
    ) -> None:
        self._settings = settings.cache
        self._store = store
        self._keeper = keeper
        self._keep_alive = keep_alive
        self._observe = observe
        self._epoch = epoch
        self._switches = Switches(settings.cache.off, store)
        self.pushes = _pushes(store, settings.cache)

    def over(self, below: Pipeline, models: tuple[type[Any], ...]) -> Pipeline:
        """The layers from the caching down; those below alone where there is no cache."""
        cache, store = self._settings, self._store
        if store is None or self._keeper is None:
            return below
        return Caching(
            read_through=ReadThrough(store, self._keeper, observe=self._observe, epoch=self._epoch),
            store=store,
            codec=Codec(models, blob_bytes=cache.blob_bytes),
            near=Bounded(cache.near_bytes, cache.near_entries) if cache.near else None,
            pushes=self.pushes,
            near_modes=cache.near_modes,
            blobs=Bounded(cache.near_bytes, cache.near_entries),
            switches=self._switches,
            below=below,
            keep_alive=self._keep_alive,
            observe=self._observe,
        )


def _store(engine: Engine, settings: Settings) -> Store | None:
    """The cache that the settings name, if it is the one that serves this database."""
    name = None if settings.cache.url is None else shown_url(settings.cache.url)

    def ns() -> str:
        if isinstance(engine.pool, StaticPool | SingletonThreadPool):
            raise SettingsError("cache.url: an in-memory SQLite is one connection's, and cannot be cached; use a file")
        return namespace(engine)

    return _serving(settings, serving_cache(engine, name), ns)


def _serving(settings: Settings, serving: str | None, ns: Callable[[], str]) -> Store | None:
    cache = settings.cache
    name = None if cache.url is None else shown_url(cache.url)
    if name is None or serving != name:
        # Writes go to the outbox then, where a gate with the serving cache finds them; so they make nobody stale.
        if name is not None:
            _log.warning(
                "the cache %s is not used: this database is served by %s; see tidegate init --cache-url", name, serving
            )
        return None
    try:
        return _redis(cache, ns())
    except StoreUnavailable as error:  # a cluster is asked for its map at once
        raise CacheUnavailable(f"the cache {name} does not answer: {error}") from error


def _pushes(store: Store | None, cache: CacheSettings) -> Pushes | None:
    """What near answers in ``bounded`` mode rely on."""
    if not cache.near or not isinstance(store, RedisStore):
        return None
    pushes = store.pushes()
    if pushes is None and "bounded" in cache.near_modes.values():
        _log.warning("cache.near_modes: on a cluster 'bounded' is 'strict': near answers are checked at each use")
    return pushes


def _redis(cache: CacheSettings, ns: str) -> RedisStore:
    return RedisStore.from_url(
        cache.url or "",
        ns,
        connect_timeout_ms=cache.connect_timeout_ms,
        read_timeout_ms=cache.read_timeout_ms,
        most_bytes=cache.most_bytes,
    )


def _embedded(settings: object, observe: Observer) -> Gate:
    from tidegate.proxy.embedded import Cluster
    from tidegate.repositories.indexes import create_indexes
    from tidegate.repositories.models import Base

    if settings is not None:
        raise SettingsError("connect() takes settings or embedded=True, not both")
    cluster = Cluster().start()
    try:
        gate = connect(cluster.settings(), observe=observe)
        Base.metadata.create_all(gate.engine)
        create_indexes(gate.engine)
    except BaseException:
        cluster.close()
        raise
    gate.also_close(cluster.close)
    return gate
