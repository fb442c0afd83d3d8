"""Engines: the primary's, which goes where the primary is, and one for the reads of each replica.

Those of the replicas and monitors are siblings of the primary's engine (:mod:`tidegate.proxy.database.sibling_engine`).
"""

from __future__ import annotations

import os
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import QueuePool, create_engine, event
from sqlalchemy.exc import DisconnectionError

from tidegate.errors import NoNodeAvailable
from tidegate.proxy.database.origins import is_left, life_of
from tidegate.proxy.database.sibling_engine import root_of, sibling_engine
from tidegate.proxy.nodes.connecting import driver_defaults, own_options
from tidegate.proxy.nodes.hosts import checked_url
from tidegate.proxy.nodes.idle_ping import ping_idle
from tidegate.routing.replicas.attempt import listen

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL, Engine

    from tidegate.proxy.nodes.addresses import Address
    from tidegate.proxy.nodes.connecting import Connecting
    from tidegate.proxy.settings import RoutingSettings, Settings, ShardSettings
    from tidegate.routing.replicas.topology import Topology


def primary_engine(shard: ShardSettings, settings: Settings) -> Engine:
    """Make the engine for a shard's primary.

    Raises:
        SettingsError: the shard's URL cannot be used.
    """
    url = checked_url(shard.primary, f"shards.{shard.name}.primary")
    if url.get_backend_name() != "postgresql":
        return create_engine(url)
    routing, pool = settings.routing, settings.pool
    options = ("-c timezone=UTC", *_options(routing.primary_statement_timeout_ms, routing.primary_lock_timeout_ms))
    engine = create_engine(
        url,
        pool_size=pool.size,
        max_overflow=pool.overflow,
        pool_timeout=pool.timeout_s,
        connect_args=driver_defaults(url) | {"options": " ".join((*options, own_options(url)))},
    )
    ping_idle(engine)
    return engine


def replica_engine(
    address: Address, routing: RoutingSettings, connecting: Connecting, state: Callable[[], str]
) -> Engine:
    """Make the engine for reads on one replica, whose attempts :mod:`tidegate.routing.replicas.attempt` watches."""
    to, pool = address.destination(_options(routing.statement_timeout_ms, routing.lock_timeout_ms)), address.pool
    engine = sibling_engine(
        root_of(connecting.engine),
        lambda connection_record: connecting.connect(to, connection_record),
        # If all connections are in use, another node answers sooner: so the wait is short. A read that fails is tried
        # on another node too: so there is no ping before use.
        partial(QueuePool, pool_size=pool.size, max_overflow=pool.overflow, timeout=0.05),
        # Ours come before the program's listeners: their questions end with a rollback, which would undo what one of
        # the program's has set on the connection or in the transaction.
        first=partial(listen, state=state),
    )
    engine.url = address.url
    return forgotten_in_children(engine)


def monitor_engine(address: Address, connecting: Connecting) -> Engine:
    """Make the engine for a monitor's own connection."""
    to = address.destination(("-c statement_timeout=5000",))

    def opened(connection_record: Any) -> Any:
        if connecting.ignores and not to.as_given:
            # Nothing is read there, but where the primary is must be known: a commit on one that was demoted is lost.
            return connecting.connect_by_url(to)
        return connecting.connect(to, connection_record)

    return sibling_engine(connecting.engine, opened)


def _options(statement_timeout_ms: int, lock_timeout_ms: int) -> tuple[str, ...]:
    named = (("statement_timeout", statement_timeout_ms), ("lock_timeout", lock_timeout_ms))
    return tuple(f"-c {name}={value}" for name, value in named if value)


def follow_primary(
    connecting: Connecting, topology: Topology, url_of: Callable[[str], URL], watched: Callable[[], None]
) -> None:
    """Have the program's engine connect to the node that is the primary, and drop connections to one that was demoted.

    Args:
        connecting: how that engine connects. The engine is watched, and its connections note their origins (see
            :mod:`tidegate.proxy.database.origins`).
        topology: knows which node is the primary. Its first node is the one that the engine was made for.
        url_of: returns the URL of a node by its name; nodes may come and go.
        watched: is called with each use of a connection; it has the servers watched in this process, if they are not.
    """
    engine = connecting.engine
    several = len(connecting.hosts()) > 1
    # The node that the engine's URL names. It need not be the primary: that may have changed before this program began.
    configured = topology.nodes[0].name

    def usual() -> URL | None:
        name = topology.primary.name
        # While no other node has taken over, use the address as it was given: it may be a socket or a service.
        return None if name == configured and not several else url_of(name)

    def still_primary(_raw: Any, record: Any, _proxy: Any) -> None:
        watched()
        life = life_of(record.info)
        if life is None:
            raise NoNodeAvailable(
                f"{topology.primary.name} is a standby, and no other server is known to be the primary: "
                "a promotion may be under way; 'tidegate doctor' shows the state of each server"
            )
        if is_left(life, topology.timeline, topology.demoted):
            raise DisconnectionError("this primary was demoted")

    def committing(connection: Any) -> None:
        if not is_left(life_of(connection.info), topology.timeline, topology.demoted):
            return
        # Another node was promoted while the transaction ran. A commit here would be lost with this server: refuse it.
        connection.invalidate()
        raise NoNodeAvailable(
            f"the primary that this transaction began on was demoted, and {topology.primary.name} is the primary now: "
            "nothing was committed; run the whole transaction again"
        )

    connecting.usual = usual
    event.listen(engine, "checkout", still_primary)
    event.listen(engine, "commit", committing)
    event.listen(engine, "prepare_twophase", lambda connection, _xid: committing(connection))


def forgotten_in_children(engine: Engine) -> Engine:
    """Have a forked process begin with an empty pool, since the connections belong to its parent; return *engine*."""
    known = weakref.ref(root_of(engine))

    def forget() -> None:
        if (alive := known()) is not None:
            alive.dispose(close=False)

    os.register_at_fork(after_in_child=forget)
    return engine
