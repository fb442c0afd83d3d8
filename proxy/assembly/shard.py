"""Assemble what one shard has of its own: its servers, the way of its writes, and who answers its reads."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy.orm import sessionmaker

from tidegate.cache.store import Miss
from tidegate.proxy.database.origins import note_origins
from tidegate.proxy.database.primary import ClockPrimary, PostgresPrimary
from tidegate.proxy.layers.routing import PrimaryOnly, Routing
from tidegate.proxy.shards.registry import ONLY_SHARD, Shard
from tidegate.proxy.shards.sessions import CheckedSession
from tidegate.proxy.writes.applier import Applier
from tidegate.proxy.writes.commit import IntentAndStamp
from tidegate.proxy.writes.comparable_types import check_comparable
from tidegate.proxy.writes.outbox import Outbox
from tidegate.proxy.writes.watch import attach
from tidegate.routing.replicas.admission import Admission
from tidegate.routing.replicas.health import BackoffPolicy
from tidegate.routing.replicas.own_writes import OwnWrites

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Engine

    from tidegate.cache.root_recovery import RootRecovery
    from tidegate.cache.store import Change, Store
    from tidegate.cache.untold import UntoldChanges
    from tidegate.proxy.call import Layer
    from tidegate.proxy.database.histories import Histories
    from tidegate.proxy.layers.routing import ReadRequirements
    from tidegate.proxy.nodes.shard_nodes import ShardNodes
    from tidegate.proxy.observe import Observer
    from tidegate.proxy.settings import Settings
    from tidegate.proxy.shards.registry import ShardPrimary, Shards
    from tidegate.proxy.tracking.coverage import Coverage
    from tidegate.proxy.tracking.observers import Observers


class Shared(NamedTuple):
    """What all shards of a gate have in common.

    Args:
        settings: of cache, pools and replicas.
        shards: of the gate.
        store: the cache that serves them; None: there is none.
        recovery: advances its roots.
        untold: whose changes the cache was not told of.
        requirements: tells which node will do for a call that the caching has not asked about.
        coverage: which tracked tables have their triggers.
        committed: told what commits have changed, once they have returned.
        look: looks whether the store is still the right one; None: nobody need ask.
        observe: told what happens.
        observers: told what was committed.
    """

    settings: Settings
    shards: Shards
    store: Store | None
    recovery: RootRecovery | None
    untold: UntoldChanges
    requirements: ReadRequirements
    coverage: Coverage
    committed: Callable[[Sequence[Change]], None]
    look: Callable[[Engine], None] | None
    observe: Observer
    observers: Observers


def assemble_shard(name: str, engine: Engine, nodes: ShardNodes | None, shared: Shared) -> Shard:
    """Assemble a shard on an engine, which is watched from now on.

    Args:
        name: the shard's, in marks.
        engine: its primary's.
        nodes: its servers; None: there is one, and nobody watches it.
        shared: what it has in common with the others.

    Raises:
        SettingsError: a tracked table tells tenants or tags by a type that cannot tell them.
    """
    settings, store = shared.settings, shared.store
    check_comparable(engine, shared.coverage.tables)
    all_writes = _own_writes(nodes)
    unmarked_writes = all_writes if store is None else _own_writes(nodes)
    histories = note_origins(engine, name)
    if store is not None:
        histories.use(store)
    primary = _primary(engine, name, settings, histories)
    outbox = Outbox(notify=engine.dialect.name == "postgresql", untold=None if store is None else shared.untold)
    commit = IntentAndStamp(
        store,
        outbox,
        shard=name,
        owned_units=None if name == ONLY_SHARD else partial(shared.shards.ownerships_on, name),
        consistency=settings.cache.when_away == "refuse",
        observe=shared.observe,
        all_writes=all_writes,
        unmarked_writes=unmarked_writes,
        committed=None if store is None and name == ONLY_SHARD else shared.committed,
        knows=histories.knows,
    )
    applier = _applier(name, engine, shared, primary, histories)
    if applier is not None:
        histories.on_change = partial(_look_anew, name, shared.coverage, applier)
    return Shard(
        name=name,
        engine=engine,
        watch=attach(engine, commit, left_note=None if applier is None else applier.wake, observers=shared.observers),
        outbox=outbox,
        applier=applier,
        primary=primary,
        histories=histories,
        routing=_routing(name, nodes, unmarked_writes, shared),
        nodes=nodes,
        all_writes=all_writes,
        unmarked_writes=unmarked_writes,
        sessions=sessionmaker(engine, class_=CheckedSession),
    )


def _look_anew(shard: str, coverage: Coverage, applier: Applier) -> None:
    """Have nothing cached in a new history before somebody has seen that its database has the triggers; at once."""
    coverage.doubt(shard)
    applier.wake()


def _primary(engine: Engine, shard: str, settings: Settings, histories: Histories) -> ShardPrimary:
    """Make what the root recovery asks."""
    if engine.dialect.name == "postgresql":
        return PostgresPrimary(engine, shard, histories)
    return ClockPrimary(shard, settings.cache.transaction_timeout_s)


def _own_writes(nodes: ShardNodes | None) -> OwnWrites | None:
    """Keep positions of writes, where replicas may be read from.

    A commit that has not come back is waited for so long that no replica that may be read from is without it.
    """
    return None if nodes is None else OwnWrites(unsure_s=max(30.0, 2 * nodes.most_lag_s()))


def _applier(name: str, engine: Engine, shared: Shared, primary: ShardPrimary, histories: Histories) -> Applier | None:
    if shared.store is None:
        return None

    def look() -> None:
        primary.here()  # first: if our tables have moved, what follows must find them
        if histories.is_lost:  # which cache serves this database is its own gates' business
            return
        shared.coverage.look(name, engine)
        if shared.look is not None:
            shared.look(engine)
        if (rival := histories.meet()) is not None:
            primary.renew("", rival)

    def settle(tenant: str) -> None:
        if shared.store is not None and shared.recovery is not None:
            found = shared.store.lookup(tenant, "-", "-", shared.shards.asked(tenant), refresh=True)
            if isinstance(found, Miss) and found.foreign:
                shared.recovery.advance(tenant, found)

    make_root = None
    if name != ONLY_SHARD and shared.recovery is not None:
        make_root = shared.recovery.create_root
    return Applier(
        engine,
        shared.store,
        name,
        shared.untold,
        histories,
        look=look,
        settle=settle,
        make_root=make_root,
        observe=shared.observe,
        applied=shared.observers.applied,
    )


def _routing(name: str, nodes: ShardNodes | None, unmarked_writes: OwnWrites | None, shared: Shared) -> Layer:
    if nodes is None or unmarked_writes is None:
        return PrimaryOnly()
    routing, pool = shared.settings.routing, shared.settings.pool
    reads = routing.primary_reads or max(1, (pool.size + pool.overflow) * 4 // 5)
    return Routing(
        nodes,
        shard=name,
        requirements=shared.requirements,
        own_writes=unmarked_writes,
        admission=Admission(reads, most_wait_s=routing.primary_wait_ms / 1000),
        silent_s=routing.silent_ms / 1000,
        bans=BackoffPolicy(routing.ban_ms / 1000, routing.most_ban_ms / 1000),
        observe=shared.observe,
    )
