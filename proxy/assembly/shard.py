"""What one shard needs of its own: its servers, the way of its writes, and who answers its reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.orm import sessionmaker

from tidegate.proxy.database.primary import ClockPrimary, PostgresPrimary
from tidegate.proxy.layers.routing import PrimaryOnly, Routing
from tidegate.proxy.shards.registry import Shard
from tidegate.proxy.shards.sessions import CheckedSession
from tidegate.proxy.writes.commit import IntentAndStamp
from tidegate.proxy.writes.outbox import Applier, Outbox
from tidegate.proxy.writes.watch import attach
from tidegate.repositories.tracked import TRACKED
from tidegate.routing.replicas.admission import Admission
from tidegate.routing.replicas.health import BackoffPolicy
from tidegate.routing.replicas.own_writes import OwnWrites

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Engine

    from tidegate.cache.store import Change, Store
    from tidegate.proxy.layers.routing import ReadRequirements
    from tidegate.proxy.nodes.shard_nodes import ShardNodes
    from tidegate.proxy.observe import Observer
    from tidegate.proxy.settings import Settings
    from tidegate.routing.sharding.shard_map import Ownership


def primary_of(engine: Engine, shard: str, settings: Settings) -> PostgresPrimary | ClockPrimary:
    """What the root recovery asks."""
    if engine.dialect.name == "postgresql":
        return PostgresPrimary(engine, shard)
    return ClockPrimary(shard, settings.cache.transaction_timeout_s)


def assemble_shard(
    name: str,
    engine: Engine,
    nodes: ShardNodes | None,
    store: Store | None,
    primary: PostgresPrimary | ClockPrimary,
    needs: ReadRequirements,
    settings: Settings,
    observe: Observer,
    *,
    owned_units: Callable[[Sequence[str]], Sequence[Ownership]] | None = None,
    make_root: Callable[[str], bool] | None = None,
    committed: Callable[[Sequence[Change]], None] | None = None,
) -> Shard:
    """A shard's parts, on an engine that is watched from now on.

    Args:
        name: the shard's, in marks.
        engine: its primary's.
        nodes: see :func:`nodes_of`.
        store: the cache that serves it.
        primary: see :func:`primary_of`.
        needs: tells which node will do for a call that the caching has not asked about.
        settings: of cache, pools and replicas.
        observe: told what happens.
        owned_units: see :class:`IntentAndStamp`.
        committed: see :class:`IntentAndStamp`.
        make_root: see :func:`~tidegate.proxy.writes.outbox.apply`.
    """
    all_writes = _own_writes(nodes)
    unmarked_writes = all_writes if store is None else _own_writes(nodes)
    outbox = Outbox(notify=engine.dialect.name == "postgresql")
    commit = IntentAndStamp(
        store,
        outbox,
        shard=name,
        owned_units=owned_units,
        consistency=settings.cache.when_away == "refuse",
        observe=observe,
        all_writes=all_writes,
        unmarked_writes=unmarked_writes,
        committed=committed,
    )
    return Shard(
        name=name,
        engine=engine,
        watch=attach(engine, TRACKED, commit, strict=settings.cache.strict_sql),
        outbox=outbox,
        applier=_applier(engine, store, nodes, make_root),
        primary=primary,
        routing=_routing(nodes, settings, name, needs, unmarked_writes, observe),
        nodes=nodes,
        all_writes=all_writes,
        unmarked_writes=unmarked_writes,
        sessions=sessionmaker(engine, class_=CheckedSession),
    )


def _own_writes(nodes: ShardNodes | None) -> OwnWrites | None:
    """Waits for a commit that has not come back for so long that no replica that may be read from is without it."""
    return None if nodes is None else OwnWrites(unsure_s=max(30.0, 2 * nodes.most_lag_s()))


def _applier(
    engine: Engine, store: Store | None, nodes: ShardNodes | None, make_root: Callable[[str], bool] | None
) -> Applier | None:
    if store is None:
        return None
    return Applier(engine, store, url=None if nodes is None else nodes.primary_url, make_root=make_root)


def _routing(
    nodes: ShardNodes | None,
    settings: Settings,
    shard: str,
    needs: ReadRequirements,
    unmarked_writes: OwnWrites | None,
    observe: Observer,
) -> Routing | PrimaryOnly:
    if nodes is None or unmarked_writes is None:
        return PrimaryOnly()
    routing, pool = settings.routing, settings.pool
    reads = routing.primary_reads or max(1, (pool.size + pool.overflow) * 4 // 5)
    return Routing(
        nodes,
        shard=shard,
        needs=needs.ask,
        peek=needs.peek,
        own_writes=unmarked_writes,
        admission=Admission(reads, most_wait_s=routing.primary_wait_ms / 1000),
        silent_s=routing.silent_ms / 1000,
        bans=BackoffPolicy(routing.ban_ms / 1000, routing.most_ban_ms / 1000),
        observe=observe,
    )
