"""The composition root: the only place where layers are put one on another. Reading it is reading the architecture.

facade -> telemetry -> caching -> routing -> plain repository            a read
plain repository -> watched engine -> commit protocol                    a write
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
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
from tidegate.proxy.commit import Commit
from tidegate.proxy.gate import Gate, Parts
from tidegate.proxy.origins import note_origins
from tidegate.proxy.outbox import Applier, Outbox
from tidegate.proxy.primary import ClockPrimary, PostgresPrimary
from tidegate.proxy.routing import OnPrimary
from tidegate.proxy.settings import Settings
from tidegate.proxy.state import make_tables, namespace, serving_cache
from tidegate.proxy.switches import Switches
from tidegate.proxy.telemetry import Counters, Log, Telemetry, all_of
from tidegate.proxy.watch import attach
from tidegate.repositories.tracked import TRACKED

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

    from tidegate.cache.events import Observer
    from tidegate.cache.pushes import Pushes
    from tidegate.cache.store import Store
    from tidegate.proxy.call import Pipeline
    from tidegate.proxy.settings import CacheSettings, ShardSettings


# In marks the one shard has no name: gates that call it differently would take each other for strangers.
_ONLY_SHARD: Final = ""
_log: Final = logging.getLogger(__name__)
_CONNECT: Final[dict[str, Any]] = {"options": "-c timezone=UTC", "connect_timeout": 5}
# Prepared, a statement is planned for tenants as they are on average; one tenant may have half of all rows.
_UNPREPARED: Final[dict[str, Any]] = {"prepare_threshold": None}


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
    if len(settings.shards) != 1:
        raise SettingsError(f"shards: this release serves one, not {len(settings.shards)}")
    engine = _engine(settings.shards[0], settings)
    return gate_on(engine, sessionmaker(engine), settings, observe=observe, on_close=engine.dispose)


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
        engine: the primary's; it is watched from now on.
        session_maker: what the repositories open sessions with.
        settings: of the cache; its shards are not looked at.
        observe: told what the cache does.
        on_close: called when the gate is closed.
        store: a cache to use instead of the one that the settings name.
    """
    shard = _ONLY_SHARD
    counters = Counters()
    observe = all_of(counters, Log(logging.getLogger("tidegate")), observe)
    note_origins(engine, shard)
    make_tables(engine)
    store, outbox = store or _store(engine, settings), Outbox(notify=engine.dialect.name == "postgresql")
    commit = Commit(store, outbox, shard=shard, consistency=settings.cache.when_away == "refuse", observe=observe)
    watch = attach(engine, TRACKED, commit, strict=settings.cache.strict_sql)
    pushes = _pushes(store, settings.cache)
    switches = Switches(settings.cache.off, store)
    below: Pipeline = OnPrimary()

    applier = None if store is None else Applier(engine, store)

    def pipeline(models: tuple[type[Any], ...]) -> Pipeline:
        if store is None:
            return Telemetry(counters, below)
        primary = (
            PostgresPrimary(engine, shard)
            if engine.dialect.name == "postgresql"
            else ClockPrimary(shard, settings.cache.transaction_timeout_s)
        )
        caching = Caching(
            read_through=ReadThrough(store, Keeper(store, primary, observe=observe), observe=observe),
            store=store,
            codec=Codec(models, blob_bytes=settings.cache.blob_bytes),
            near=Bounded(settings.cache.near_bytes, settings.cache.near_entries) if settings.cache.near else None,
            pushes=pushes,
            near_modes=settings.cache.near_modes,
            blobs=Bounded(settings.cache.near_bytes, settings.cache.near_entries),
            switches=switches,
            below=below,
            keep_alive=applier.ensure_started if applier is not None else lambda: None,
            observe=observe,
        )
        return Telemetry(counters, caching)

    return Gate(
        Parts(engine, session_maker, watch, commit, outbox, applier, store, pushes, counters, pipeline, on_close)
    )


def _engine(shard: ShardSettings, settings: Settings) -> Engine:
    try:
        url = make_url(shard.primary)
        pool = settings.pool
        if url.get_backend_name() != "postgresql":
            return create_engine(url)
        return create_engine(
            url,
            pool_size=pool.size,
            max_overflow=pool.overflow,
            pool_timeout=pool.timeout_s,
            pool_pre_ping=True,
            connect_args=_CONNECT | (_UNPREPARED if url.get_driver_name() == "psycopg" else {}),
        )
    except (ArgumentError, ImportError) as error:
        raise SettingsError(
            f"shards.{shard.name}.primary cannot be used ({type(error).__name__}): expected postgresql+psycopg://..."
        ) from None


def _store(engine: Engine, settings: Settings) -> Store | None:
    """The cache that the settings name, if it is the one that serves this database."""
    cache = settings.cache
    name = None if cache.url is None else shown_url(cache.url)
    serving = serving_cache(engine, name)
    if cache.url is None or serving != name:
        # Writes go to the outbox then, where a gate with the serving cache finds them; so they make nobody stale.
        if cache.url is not None:
            _log.warning(
                "the cache %s is not used: this database is served by %s; see tidegate init --cache-url", name, serving
            )
        return None
    if isinstance(engine.pool, StaticPool | SingletonThreadPool):
        raise SettingsError("cache.url: an in-memory SQLite is one connection's, and cannot be cached; use a file")
    try:
        return _redis(cache, namespace(engine))
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
