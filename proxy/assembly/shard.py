"""What one shard needs of its own: its servers, the way of its writes, and who answers its reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.orm import sessionmaker

from tidegate.proxy.database.primary import ClockPrimary, PostgresPrimary
from tidegate.proxy.layers.routing import OnPrimary, Routing
from tidegate.proxy.shards.registry import ShardParts
from tidegate.proxy.shards.sessions import CheckedSession
from tidegate.proxy.writes.commit import Commit
from tidegate.proxy.writes.outbox import Applier, Outbox
from tidegate.proxy.writes.watch import attach
from tidegate.repositories.tracked import TRACKED
from tidegate.routing.replicas.admission import Admission
from tidegate.routing.replicas.health import Bans
from tidegate.routing.replicas.own_writes import Written

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Engine

    from tidegate.cache.store import Change, Store
    from tidegate.proxy.layers.routing import Asked
    from tidegate.proxy.nodes.shard_nodes import Nodes
    from tidegate.proxy.observe import Observer
    from tidegate.proxy.settings import Settings
    from tidegate.routing.sharding.shard_map import Holding


def primary_of(engine: Engine, shard: str, settings: Settings) -> PostgresPrimary | ClockPrimary:
    """What the keeper asks."""
    if engine.dialect.name == "postgresql":
        return PostgresPrimary(engine, shard)
    return ClockPrimary(shard, settings.cache.transaction_timeout_s)


def parts_of(
    name: str,
    engine: Engine,
    nodes: Nodes | None,
    store: Store | None,
    primary: PostgresPrimary | ClockPrimary,
    needs: Asked,
    settings: Settings,
    observe: Observer,
    *,
    holdings_of: Callable[[Sequence[str]], Sequence[Holding]] | None = None,
    make_root: Callable[[str], bool] | None = None,
    committed: Callable[[Sequence[Change]], None] | None = None,
) -> ShardParts:
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
        holdings_of: see :class:`Commit`.
        committed: see :class:`Commit`.
        make_root: see :func:`~tidegate.proxy.writes.outbox.apply`.
    """
    written = _written(nodes)
    untold = written if store is None else _written(nodes)
    outbox = Outbox(notify=engine.dialect.name == "postgresql")
    commit = Commit(
        store,
        outbox,
        shard=name,
        holdings_of=holdings_of,
        consistency=settings.cache.when_away == "refuse",
        observe=observe,
        written=written,
        untold=untold,
        committed=committed,
    )
    return ShardParts(
        name=name,
        engine=engine,
        watch=attach(engine, TRACKED, commit, strict=settings.cache.strict_sql),
        outbox=outbox,
        applier=_applier(engine, store, nodes, make_root),
        primary=primary,
        routing=_routing(nodes, settings, name, needs, untold, observe),
        nodes=nodes,
        written=written,
        untold=untold,
        sessions=sessionmaker(engine, class_=CheckedSession),
    )


def _written(nodes: Nodes | None) -> Written | None:
    """Waits for a commit that has not come back for so long that no replica that may be read from is without it."""
    return None if nodes is None else Written(unsure_s=max(30.0, 2 * nodes.most_lag_s()))


def _applier(
    engine: Engine, store: Store | None, nodes: Nodes | None, make_root: Callable[[str], bool] | None
) -> Applier | None:
    if store is None:
        return None
    return Applier(engine, store, url=None if nodes is None else nodes.primary_url, make_root=make_root)


def _routing(
    nodes: Nodes | None,
    settings: Settings,
    shard: str,
    needs: Asked,
    untold: Written | None,
    observe: Observer,
) -> Routing | OnPrimary:
    if nodes is None or untold is None:
        return OnPrimary()
    routing, pool = settings.routing, settings.pool
    reads = routing.primary_reads or max(1, (pool.size + pool.overflow) * 4 // 5)
    return Routing(
        nodes,
        shard=shard,
        needs=needs.ask,
        peek=needs.peek,
        written=untold,
        admission=Admission(reads, most_wait_s=routing.primary_wait_ms / 1000),
        silent_s=routing.silent_ms / 1000,
        bans=Bans(routing.ban_ms / 1000, routing.most_ban_ms / 1000),
        observe=observe,
    )
