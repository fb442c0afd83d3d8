"""The composition root: the only place where layers are put one on another. Reading it is reading the architecture.

facade -> telemetry -> caching -> routing -> plain repository            a read
plain repository -> watched engine -> commit protocol                    a write
"""

from __future__ import annotations

import logging
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
from tidegate.proxy.addresses import addresses
from tidegate.proxy.caching import Caching
from tidegate.proxy.commit import Commit
from tidegate.proxy.discovered import Discovered
from tidegate.proxy.engines import follow_primary, hosts, primary_engine
from tidegate.proxy.gate import Gate, Parts
from tidegate.proxy.nodes import Nodes
from tidegate.proxy.origins import note_origins
from tidegate.proxy.outbox import Applier, Outbox
from tidegate.proxy.primary import ClockPrimary, PostgresPrimary
from tidegate.proxy.routing import OnPrimary, Routing, needs_of
from tidegate.proxy.settings import Settings
from tidegate.proxy.state import make_tables, namespace, serving_cache
from tidegate.proxy.switches import Switches
from tidegate.proxy.telemetry import Counters, Log, Telemetry, all_of
from tidegate.proxy.watch import attach
from tidegate.repositories.tracked import TRACKED
from tidegate.routing.admission import Admission
from tidegate.routing.bans import Bans
from tidegate.routing.discovery import Discovery
from tidegate.routing.events import NotDiscovered, Promoted
from tidegate.routing.written import Written

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

    from tidegate.cache.pushes import Pushes
    from tidegate.cache.request import Need
    from tidegate.cache.store import Store
    from tidegate.proxy.call import Call, Pipeline
    from tidegate.proxy.settings import CacheSettings
    from tidegate.proxy.telemetry import Observer
    from tidegate.routing.topology import Node


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
    if len(settings.shards) != 1:
        raise SettingsError(f"shards: this release serves one, not {len(settings.shards)}")
    settings.shard_map()  # what pins, ranges and the catalogue name must be there, though one shard has it all
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
    """
    shard = _ONLY_SHARD
    counters = Counters()
    observe = all_of(counters, Log(logging.getLogger("tidegate")), observe)
    note_origins(engine, shard)
    nodes = _nodes(engine, settings, observe)
    try:
        make_tables(engine)
        store = store or _store(engine, settings)
    except BaseException:
        if nodes is not None:
            nodes.close()
        raise
    outbox = Outbox(notify=engine.dialect.name == "postgresql")
    written = _written(nodes)
    untold = written if store is None else _written(nodes)
    commit = Commit(
        store,
        outbox,
        shard=shard,
        consistency=settings.cache.when_away == "refuse",
        observe=observe,
        written=written,
        untold=untold,
    )
    watch = attach(engine, TRACKED, commit, strict=settings.cache.strict_sql)
    primary = _primary(engine, shard, settings)
    keeper = None if store is None else Keeper(store, primary, observe=observe)
    needs, peek = needs_of(store, keeper), needs_of(store, None)
    routing = None if nodes is None or untold is None else _routing(nodes, settings, needs, peek, untold, observe)
    below = routing or OnPrimary()
    applier = None if store is None else Applier(engine, store, url=None if nodes is None else nodes.primary_url)
    pushes = _pushes(store, settings.cache)
    switches = Switches(settings.cache.off, store)

    def pipeline(models: tuple[type[Any], ...]) -> Pipeline:
        if store is None or keeper is None:
            return Telemetry(counters, below)
        caching = Caching(
            read_through=ReadThrough(store, keeper, observe=observe),
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
        Parts(
            engine=engine,
            session_maker=session_maker,
            watch=watch,
            commit=commit,
            outbox=outbox,
            applier=applier,
            store=store,
            pushes=pushes,
            counters=counters,
            pipeline=pipeline,
            nodes=nodes,
            routing=routing,
            written=written,
            untold=untold,
            position_now=lambda: primary.transaction("")[1],
            on_close=on_close,
        )
    )


def _nodes(engine: Engine, settings: Settings, observe: Observer) -> Nodes | None:
    """The servers of the shard, with the engine bound to whoever is the primary; None where there is one only."""
    shard = settings.shards[0] if settings.shards else None
    if shard is None or (not shard.replicas and not shard.patroni and len(hosts(engine.url)) == 1):
        return None
    if engine.dialect.name != "postgresql":
        raise SettingsError(f"shards.{shard.name}.replicas: only PostgreSQL's are read from, not {engine.dialect.name}")

    def changed(before: Node, now: Node) -> None:
        observe(Promoted(now.name, before.name, nodes.topology.timeline))

    known = addresses(shard, settings, engine.url)
    nodes = Nodes(engine, known, settings.routing, changed)
    try:
        nodes.learn()
        if shard.patroni:
            every_s = settings.routing.discover_ms / 1000
            found, lost = Discovered(nodes, known[0]), lambda why: observe(NotDiscovered(why))
            nodes.discover(Discovery(shard.patroni, found, lost, every_s=every_s))
        nodes.find_primary()
        follow_primary(engine, nodes.topology, nodes.url_of)
    except BaseException:
        nodes.close()
        raise
    return nodes


def _written(nodes: Nodes | None) -> Written | None:
    """Waits for a commit that has not come back for so long that no replica that may be read from is without it."""
    return None if nodes is None else Written(unsure_s=max(30.0, 2 * nodes.most_lag_s()))


def _routing(
    nodes: Nodes,
    settings: Settings,
    needs: Callable[[Call], Need],
    peek: Callable[[Call], Need],
    untold: Written,
    observe: Observer,
) -> Routing:
    routing, pool = settings.routing, settings.pool
    reads = routing.primary_reads or max(1, (pool.size + pool.overflow) * 4 // 5)
    return Routing(
        nodes,
        shard=_ONLY_SHARD,
        epoch=0,
        needs=needs,
        peek=peek,
        written=untold,
        admission=Admission(reads, most_wait_s=routing.primary_wait_ms / 1000),
        silent_s=routing.silent_ms / 1000,
        bans=Bans(routing.ban_ms / 1000, routing.most_ban_ms / 1000),
        observe=observe,
    )


def _primary(engine: Engine, shard: str, settings: Settings) -> PostgresPrimary | ClockPrimary:
    if engine.dialect.name == "postgresql":
        return PostgresPrimary(engine, shard)
    return ClockPrimary(shard, settings.cache.transaction_timeout_s)


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
