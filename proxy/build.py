"""The composition root: the only place where layers are put one on another. Reading it is reading the architecture.

    a call         facade -> telemetry -> tenancy -> covered -> caching -> id recorder -> sharding -> routing ->
                   plain repository
    of several tenants           tenancy -> fan-out -> a part for each shard, from the caching down
    with a session the caller's  facade -> caller sessions -> plain repository
    a write        plain repository -> watched engine -> commit protocol: notes, intent, COMMIT, stamp; or the outbox

The facade is in the repository itself, and the routing is each shard's own. A gate without a cache has no caching
layer. One shard is a case of many: the same layers, of which the sharding and the fan-out ask nothing then.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.orm import sessionmaker

from tidegate.cache.events import ignore
from tidegate.cache.root_recovery import RootRecovery
from tidegate.cache.untold import UntoldChanges
from tidegate.errors import SettingsError
from tidegate.proxy.assembly.cache import CacheAssembly, serving_store
from tidegate.proxy.assembly.shard import Shared, assemble_shard
from tidegate.proxy.gate import Gate, GateParts
from tidegate.proxy.layers.caller_sessions import CallerSessions
from tidegate.proxy.layers.covered import Covered
from tidegate.proxy.layers.fan_out import FanOut
from tidegate.proxy.layers.gated_repositories import NodeExecutions, WorkflowRuns
from tidegate.proxy.layers.id_recorder import IdRecorder, commit_recorder
from tidegate.proxy.layers.routing import read_requirements
from tidegate.proxy.layers.sharding import Sharding
from tidegate.proxy.layers.telemetry import Telemetry
from tidegate.proxy.layers.tenancy import Tenancy
from tidegate.proxy.nodes.engines import forgotten_in_children, primary_engine
from tidegate.proxy.observe import Counters, Log, all_of
from tidegate.proxy.settings import Settings
from tidegate.proxy.shards.id_queries import TrackedIds
from tidegate.proxy.shards.id_search import IdSearch
from tidegate.proxy.shards.joined import join_one
from tidegate.proxy.shards.joining import join
from tidegate.proxy.shards.primary import ShardedPrimary
from tidegate.proxy.shards.registry import Shards
from tidegate.proxy.tracking.coverage import Coverage
from tidegate.proxy.tracking.observers import Observers
from tidegate.proxy.tracking.tracked_tables import Tables, keys_of
from tidegate.public import public
from tidegate.repositories.node_policies import NODE_EXECUTION_POLICIES
from tidegate.repositories.run_policies import WORKFLOW_RUN_POLICIES
from tidegate.repositories.tracked import TRACKED
from tidegate.routing.sharding.scatter import Scatter
from tidegate.routing.sharding.tenant_directory import IdDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

    from tidegate.cache.codec.records import HostTypes
    from tidegate.cache.store import Store
    from tidegate.proxy.call import Layer
    from tidegate.proxy.observe import Observer
    from tidegate.proxy.shards.joined import Joined
    from tidegate.repositories.policies import Tracked


@public
def connect(
    settings: Settings | Path | str | None = None, *, embedded: bool = False, observe: Observer = ignore
) -> Gate:
    """Make a gate.

    Args:
        settings: the path of a TOML file, or :class:`Settings`; None: TIDEGATE_CONFIG, or TIDEGATE_DATABASE_URL and
            TIDEGATE_CACHE_URL.
        embedded: run PostgreSQL and Valkey of its own, which end with the gate; for trying things out.
        observe: told what the gate does; see :mod:`tidegate.cache.events` and :mod:`tidegate.routing.events`.

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
        counters, observe = _observed(observe)
        with ExitStack() as undo:
            return _put_together(join(settings, observe, undo), settings, counters, observe, undo)
    engine = primary_engine(settings.shards[0], settings)
    try:
        return gate_on(engine, sessionmaker(engine), settings, observe=observe, on_close=engine.dispose)
    except BaseException:
        engine.dispose()
        raise


@public
def gate_on(
    engine: Engine,
    session_maker: sessionmaker[Session],
    settings: Settings,
    *,
    observe: Observer = ignore,
    on_close: Callable[[], None] = lambda: None,
    store: Store | None = None,
) -> Gate:
    """Make a gate on an engine that the program has already.

    Processes that are forked after this open connections of their own, as they must: the gate has opened some here.

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
    counters, observe = _observed(observe)
    if engine.dialect.name == "postgresql":  # SQLite has no server for which two processes could be one client
        forgotten_in_children(engine)
    with ExitStack() as undo:
        joined = join_one(engine, session_maker, settings, observe, undo)
        gate = _put_together(joined, settings, counters, observe, undo, store)
    gate.also_close(on_close)
    return gate


def _observed(observe: Observer) -> tuple[Counters, Observer]:
    """Make the counters of a gate, and the observer that tells them, the log and the program's own."""
    counters = Counters()
    return counters, all_of(counters, Log(logging.getLogger("tidegate")), observe)


def _put_together(
    joined: Joined,
    settings: Settings,
    counters: Counters,
    observe: Observer,
    undo: ExitStack,
    store: Store | None = None,
) -> Gate:
    """Put a gate together on shards that were found; what *undo* closes is closed with the gate."""
    coverage = Coverage(Tables(TRACKED))
    coverage.note_repository(WorkflowRuns.__name__, WORKFLOW_RUN_POLICIES, TRACKED)
    coverage.note_repository(NodeExecutions.__name__, NODE_EXECUTION_POLICIES, TRACKED)

    def ready(name: str) -> None:
        joined.ready(name)
        coverage.ensure(name, joined.engines[name])

    shards, wait_s = Shards(joined.maps, ready, joined.session_maker), settings.sharding.flip_wait_s
    there = joined.joined()
    for name, engine in joined.engines.items():  # before a cache serves: it has nothing yet that could be old
        if engine in there:
            coverage.look(name, engine, now=True)
    look: Callable[[Engine], None] | None = None
    if store is None:
        store, look = serving_store(settings, joined.joined, joined.namespace)
    recovery = None if store is None else RootRecovery(store, ShardedPrimary(shards), observe=observe)
    untold = UntoldChanges()
    requirements, tracked_ids = read_requirements(store, recovery, untold, shards.asked), TrackedIds(TRACKED)
    # Without a cache nobody asks one shard whose a call is: its tenant is what the call names, or unknown.
    directory = IdDirectory() if store is not None or joined.session_maker is None else IdDirectory(0)
    committed = commit_recorder(directory, tracked_ids)
    observers = Observers(coverage.tables, observe)
    undo.callback(observers.close)
    shared = Shared(
        settings, shards, store, recovery, untold, requirements, coverage, committed, look, observe, observers
    )
    for name, engine in joined.engines.items():
        shards.add(assemble_shard(name, engine, joined.nodes[name], shared))
    for shard in shards.every:
        if shard.applier is not None and shard.engine in there:
            shard.applier.look()
    cache = CacheAssembly(settings, store, recovery, shards, untold, observe)
    undo.callback(cache.close)
    scatter = Scatter(timeout_s=settings.sharding.scatter_s)
    undo.callback(scatter.close)
    search = IdSearch(directory, tracked_ids, shards, scatter)

    def layers(tracked: Sequence[Tracked], types: HostTypes | None) -> Layer:
        below = IdRecorder(directory, tracked, Sharding(shards, requirements.ask, wait_s))
        models = [row.model for row in tracked]
        caching = cache.caching(below, [model for model in models if isinstance(model, type)], types)
        cached = Covered(caching, coverage, [key for model in models for key in keys_of(model)])
        fan_out = FanOut(cached, shards, scatter, search, wait_s)
        return Telemetry(counters, Tenancy(cached, directory, shards, fan_out), cached=store is not None)

    closing = undo.pop_all()
    parts = GateParts(
        shards=shards,
        store=store,
        pushes=cache.pushes,
        counters=counters,
        layers=layers,
        caller_sessions=CallerSessions(shards, scatter, search),
        tracked_ids=tracked_ids,
        coverage=coverage,
        observers=observers,
        flip_wait_s=wait_s,
        on_close=closing.close,
    )
    try:
        return Gate(parts)
    except BaseException:
        closing.close()
        raise


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
