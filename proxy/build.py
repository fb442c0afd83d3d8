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

from tidegate.cache.events import ignore
from tidegate.cache.root_recovery import RootRecovery
from tidegate.errors import SettingsError
from tidegate.proxy.assembly.cache import CacheAssembly, serving_store, store_of
from tidegate.proxy.assembly.shard import assemble_shard, primary_of
from tidegate.proxy.database.origins import note_origins
from tidegate.proxy.database.schema import cluster_id, make_tables
from tidegate.proxy.gate import Gate, GateParts
from tidegate.proxy.layers.caller_sessions import CallerSessions
from tidegate.proxy.layers.fan_out import FanOut
from tidegate.proxy.layers.id_recorder import IdRecorder, record_committed
from tidegate.proxy.layers.routing import needs_of
from tidegate.proxy.layers.sharding import Sharding
from tidegate.proxy.layers.telemetry import Telemetry
from tidegate.proxy.layers.tenancy import Tenancy
from tidegate.proxy.nodes.engines import primary_engine
from tidegate.proxy.nodes.open import nodes_of
from tidegate.proxy.observe import Counters, Log, all_of
from tidegate.proxy.settings import Settings
from tidegate.proxy.shards.id_search import IdSearch
from tidegate.proxy.shards.joining import join
from tidegate.proxy.shards.primary import ShardedPrimary
from tidegate.proxy.shards.registry import Shards
from tidegate.proxy.shards.sessions import routed_maker
from tidegate.routing.sharding.scatter import Scatter
from tidegate.routing.sharding.tenant_directory import IdDirectory

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

    from tidegate.cache.store import Store
    from tidegate.proxy.call import Layer
    from tidegate.proxy.observe import Observer


# In marks the one shard has no name: gates that call it differently would take each other for strangers.
_ONLY_SHARD: Final = ""


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
        store = store or store_of(engine, settings)
    except BaseException:
        if nodes is not None:
            nodes.close()
        raise
    primary = primary_of(engine, _ONLY_SHARD, settings)
    recovery = None if store is None else RootRecovery(store, primary, observe=observe)
    directory = IdDirectory()
    needs, learn = needs_of(store, recovery), None if store is None else partial(record_committed, directory)
    only = assemble_shard(_ONLY_SHARD, engine, nodes, store, primary, needs, settings, observe, committed=learn)

    cache = CacheAssembly(settings, store, recovery, only.keep_alive, observe)

    def pipeline(models: tuple[type[Any], ...]) -> Layer:
        if store is None:  # whose a call is need not be known
            return Telemetry(counters, only.routing)
        return Telemetry(counters, Tenancy(cache.over(IdRecorder(directory, only.routing), models), directory))

    return Gate(
        GateParts(
            shards=(only,),
            routed=None,
            session_maker=session_maker,
            store=store,
            pushes=cache.pushes,
            counters=counters,
            pipeline=pipeline,
            in_session=None,
            flip_wait_s=0,
            on_close=on_close,
        )
    )


def _on_shards(settings: Settings, observe: Observer) -> Gate:
    counters = Counters()
    observe = all_of(counters, Log(logging.getLogger("tidegate")), observe)
    with ExitStack() as undo:
        joined = join(settings, observe, undo)
        shards = Shards(joined.maps, joined.joining)
        store = serving_store(settings, joined.joining.serving, joined.joining.namespace)
        primary = ShardedPrimary(shards)
        recovery = None if store is None else RootRecovery(store, primary, observe=observe)
        needs, directory = needs_of(store, recovery), IdDirectory()
        for name, engine in joined.engines.items():
            parts = assemble_shard(
                name,
                engine,
                joined.nodes[name],
                store,
                primary_of(engine, name, settings),
                needs,
                settings,
                observe,
                owned_units=partial(shards.ownerships_on, name),
                make_root=None if recovery is None else partial(_make_root, recovery, shards, name),
                committed=partial(record_committed, directory),
            )
            shards.add(parts)
        cache = CacheAssembly(settings, store, recovery, shards.keep_alive, observe, epoch=primary.epoch)
        sharding = IdRecorder(directory, Sharding(shards, needs.ask, settings.sharding.flip_wait_s))
        scatter = Scatter(timeout_s=settings.sharding.scatter_s)
        undo.callback(scatter.close)
        find = IdSearch(directory, shards, scatter)
        closing = undo.pop_all()

    def pipeline(models: tuple[type[Any], ...]) -> Layer:
        below = cache.over(sharding, models)
        parted = FanOut(below, shards, scatter, find, settings.sharding.flip_wait_s)
        return Telemetry(counters, Tenancy(below, directory, parted))

    return Gate(
        GateParts(
            shards=tuple(shards.parts.values()),
            routed=shards,
            session_maker=routed_maker(shards),
            store=store,
            pushes=cache.pushes,
            counters=counters,
            pipeline=pipeline,
            in_session=CallerSessions(shards, scatter, find),
            flip_wait_s=settings.sharding.flip_wait_s,
            on_close=closing.close,
        )
    )


def _make_root(recovery: RootRecovery, shards: Shards, shard: str, tenant: str) -> bool:
    recovery.create_root(tenant)
    return shards.ownership(tenant).shard == shard


def _refuse_one_of_several(engine: Engine) -> None:
    """A gate on one shard alone would use other keys than those on all of them, and check nothing."""
    if cluster_id(engine, None) is not None:
        raise SettingsError("shards: this database is one of several: name all of them, as the other gates do")


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
