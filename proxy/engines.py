"""Engines: the primary's, which goes where the primary is, and one for the reads of each replica.

The replicas' engines have the primary engine's options: what a program gave ``create_engine`` for the primary, its
driver's arguments above all, is noted when that connects, and used for the others.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import NullPool, QueuePool, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError

from tidegate.errors import NoNodeAvailable, SettingsError
from tidegate.proxy.origins import timeline_of
from tidegate.routing.attempt import listen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import URL, Engine

    from tidegate.proxy.settings import PoolSettings, RoutingSettings, Settings, ShardSettings
    from tidegate.routing.topology import Topology

_CONNECT_S: Final = 5
_REPLICA_CONNECT_S: Final = 2
"""Of a replica, in whose place another node can answer; the least that libpq takes."""
_ADDRESS: Final = frozenset({"host", "hostaddr", "port", "user", "password", "dbname", "service"})
# Prepared, a statement is planned for tenants as they are on average; one tenant may have half of all rows.
_UNPREPARED: Final[dict[str, Any]] = {"prepare_threshold": None}


def checked_url(text: str, where: str) -> URL:
    """*text* as a URL.

    Raises:
        SettingsError: it is none; the message names the setting, and not the URL, which may hold a password.
    """
    try:
        url = make_url(text)
        url.get_dialect()
    except (ArgumentError, ImportError) as error:
        raise SettingsError(
            f"{where} cannot be used ({type(error).__name__}): expected postgresql+psycopg://..."
        ) from None
    return url


def hosts(url: URL) -> list[URL]:
    """One URL for each host of *url*, which may have several in its query."""
    several = url.query.get("host")
    if not isinstance(several, tuple):
        return [url]
    rest = {key: value for key, value in url.query.items() if key not in ("host", "port")}
    found = []
    for one in several:
        host, _, port = one.rpartition(":") if ":" in one else (one, "", "")
        found.append(url.set(host=host, port=int(port) if port else None, query=rest))
    return found


def primary_engine(shard: ShardSettings, settings: Settings) -> Engine:
    """The engine that a gate makes for its primary."""
    url = hosts(checked_url(shard.primary, f"shards.{shard.name}.primary"))[0]
    if url.get_backend_name() != "postgresql":
        return create_engine(url)
    routing, pool = settings.routing, settings.pool
    options = _options(routing.primary_statement_timeout_ms, routing.primary_lock_timeout_ms)
    engine = create_engine(
        url,
        pool_size=pool.size,
        max_overflow=pool.overflow,
        pool_timeout=pool.timeout_s,
        pool_pre_ping=True,
        connect_args=_connect_args(url) | {"options": f"-c timezone=UTC {options}".strip()},
    )
    return forgotten_in_children(engine)


def replica_engine(url: URL, pool: PoolSettings, routing: RoutingSettings, like: ConnectArguments) -> Engine:
    """The engine for reads on one replica, checked as :mod:`tidegate.routing.attempt` says."""
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=pool.size,
        max_overflow=pool.overflow,
        # Who comes when all are in use is better served elsewhere, and so is a read that fails: no ping before use.
        pool_timeout=0.05,
        connect_args=_connect_args(url) | {"connect_timeout": _REPLICA_CONNECT_S},
    )
    like.use_for(engine, _options(routing.statement_timeout_ms, routing.lock_timeout_ms))
    listen(engine)
    return forgotten_in_children(engine)


def monitor_engine(url: URL, like: ConnectArguments) -> Engine:
    """The engine for a monitor's own connection."""
    engine = create_engine(
        url, poolclass=NullPool, connect_args=_connect_args(url) | {"connect_timeout": _REPLICA_CONNECT_S}
    )
    like.use_for(engine, "-c statement_timeout=5000")
    return engine


def _connect_args(url: URL) -> dict[str, Any]:
    return {"connect_timeout": _CONNECT_S} | (_UNPREPARED if url.get_driver_name() == "psycopg" else {})


def _options(statement_timeout_ms: int, lock_timeout_ms: int) -> str:
    named = (("statement_timeout", statement_timeout_ms), ("lock_timeout", lock_timeout_ms))
    return " ".join(f"-c {name}={value}" for name, value in named if value)


class _Noted(Exception):  # noqa: N818  # no mistake: there is no need to connect any more
    pass


class ConnectArguments:
    """What the primary engine gives its driver, but for the address: noted whenever it connects.

    Args:
        engine: the primary's.
    """

    def __init__(self, engine: Engine) -> None:
        self._noted: dict[str, Any] = {}
        self._learning = 0
        event.listen(engine, "do_connect", self._note)

    def learn(self, engine: Engine) -> None:
        """Note them without connecting: the primary may be away, and the others are asked with them who is one."""
        aside = engine.pool.recreate()
        self._learning = threading.get_ident()
        try:
            aside.connect().close()  # only an engine that makes its connections by a function of its own gets so far
        except _Noted:
            pass
        finally:
            self._learning = 0
            aside.dispose()

    def _note(self, _dialect: Any, _record: Any, _cargs: Any, cparams: dict[str, Any]) -> None:
        self._noted = {key: value for key, value in cparams.items() if key not in _ADDRESS}
        if self._learning == threading.get_ident():
            raise _Noted

    def use_for(self, engine: Engine, options: str) -> None:
        """Have *engine* connect with them, and with these *options* of the server's besides."""

        def connects(_dialect: Any, _record: Any, _cargs: Any, cparams: dict[str, Any]) -> None:
            for key, value in self._noted.items():
                cparams.setdefault(key, value)
            given = str(self._noted.get("options", "-c timezone=UTC"))
            cparams["options"] = f"{given} {options}".strip()

        event.listen(engine, "do_connect", connects)


def follow_primary(engine: Engine, topology: Topology, addresses: Mapping[str, URL]) -> None:
    """Have *engine* connect to whoever is the primary, and drop connections to one that was demoted.

    Args:
        engine: watched and told of origins (see :mod:`tidegate.proxy.origins`).
        topology: knows who that is.
        addresses: URLs by the name of the node.
    """
    configured = topology.nodes[0].name  # not the primary's: that may be another one since before this program began

    def connects(dialect: Any, _record: Any, _cargs: Any, cparams: dict[str, Any]) -> None:
        name = topology.primary.name
        # As it was given, which may be a socket or a service, while nobody else has taken over.
        if name == configured and not several:
            return
        for key in _ADDRESS - {"user", "password"}:
            cparams.pop(key, None)
        cparams.update({key: value for key, value in _arguments(dialect, addresses[name]).items() if key in _ADDRESS})

    def still_primary(_raw: Any, record: Any, _proxy: Any) -> None:
        timeline = timeline_of(record.info)
        if timeline is None:
            raise NoNodeAvailable(
                f"{topology.primary.name} is a standby, and no other server is known to be the primary: "
                "a promotion may be under way; see 'tidegate doctor'"
            )
        if timeline < topology.timeline:
            raise DisconnectionError("this primary was demoted")

    def committing(connection: Any) -> None:
        timeline = timeline_of(connection.info)
        if timeline is not None and timeline >= topology.timeline:
            return
        # Another one was promoted while the transaction ran: it would be lost with this server, and is not committed.
        connection.invalidate()
        raise NoNodeAvailable(
            f"the primary that this transaction was begun on was demoted, and {topology.primary.name} is it now: "
            "nothing was committed, and all of it can be done again"
        )

    several = len(hosts(engine.url)) > 1
    event.listen(engine, "do_connect", connects)
    event.listen(engine, "checkout", still_primary)
    event.listen(engine, "commit", committing)
    event.listen(engine, "prepare_twophase", lambda connection, _xid: committing(connection))


def _arguments(dialect: Any, url: URL) -> dict[str, Any]:
    _, arguments = dialect.create_connect_args(url)
    return dict(arguments)


def forgotten_in_children(engine: Engine) -> Engine:
    """Have a process that is forked off begin with an empty pool: the connections are its parent's."""
    known = weakref.ref(engine)

    def forget() -> None:
        if (alive := known()) is not None:
            alive.dispose(close=False)

    os.register_at_fork(after_in_child=forget)
    return engine
