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
from tidegate.proxy.database.origins import timeline_of
from tidegate.routing.replicas.attempt import listen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import URL, Engine

    from tidegate.proxy.settings import PoolSettings, RoutingSettings, Settings, ShardSettings
    from tidegate.routing.replicas.topology import Topology

_CONNECT_S: Final = 5
_REPLICA_CONNECT_S: Final = 2
"""Of a replica, in whose place another node can answer; the least that libpq takes."""
_ADDRESS: Final = frozenset(
    {
        "dbname",
        "host",
        "hostaddr",
        "load_balance_hosts",
        "password",
        "port",
        "service",
        "target_session_attrs",
        "user",
    }
)
_SEVERAL: Final = ("host", "port", "hostaddr", "load_balance_hosts", "target_session_attrs")
"""What of a URL's query chooses among several hosts, and means nothing for one of them."""
_DEFAULTS: Final[dict[str, Any]] = {
    "connect_timeout": _CONNECT_S,
    # A peer that vanished without a word is noticed after a minute, rather than after two hours as Linux would.
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # keepalives are for a connection at rest; this, for one that has sent a statement
}
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
        hosts(url)
    except (ArgumentError, ImportError) as error:
        raise SettingsError(
            f"{where} cannot be used ({type(error).__name__}): expected postgresql+psycopg://..."
        ) from None
    return url


def hosts(url: URL) -> list[URL]:
    """One URL for each host of *url*, which may have several in its query, in any of SQLAlchemy's forms."""
    if url.get_backend_name() != "postgresql" or "host" not in url.query:
        return [url]
    given = _arguments(url.get_dialect()(), url)
    names = str(given["host"]).split(",")
    if names[0].startswith("/"):  # the folder of a socket
        return [url]
    ports = str(given.get("port") or "," * (len(names) - 1)).split(",")
    rest = {key: value for key, value in url.query.items() if key not in _SEVERAL}
    return [
        url.set(host=name, port=int(port) if port else None, query=rest)
        for name, port in zip(names, ports, strict=True)
    ]


def primary_engine(shard: ShardSettings, settings: Settings) -> Engine:
    """The engine that a gate makes for its primary."""
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
        pool_pre_ping=True,
        connect_args=_defaults(url) | {"options": " ".join((*options, _own_options(url)))},
    )
    return forgotten_in_children(engine)


def replica_engine(url: URL, pool: PoolSettings, routing: RoutingSettings, like: ConnectArguments) -> Engine:
    """The engine for reads on one replica, checked as :mod:`tidegate.routing.replicas.attempt` says."""
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=pool.size,
        max_overflow=pool.overflow,
        # Who comes when all are in use is better served elsewhere, and so is a read that fails: no ping before use.
        pool_timeout=0.05,
        connect_args=_soon(url),
    )
    like.use_for(engine, _options(routing.statement_timeout_ms, routing.lock_timeout_ms))
    listen(engine)
    return forgotten_in_children(engine)


def monitor_engine(url: URL, like: ConnectArguments) -> Engine:
    """The engine for a monitor's own connection."""
    engine = create_engine(url, poolclass=NullPool, connect_args=_soon(url))
    like.use_for(engine, ("-c statement_timeout=5000",))
    return engine


def _soon(url: URL) -> dict[str, Any]:
    return {} if "connect_timeout" in url.query else {"connect_timeout": _REPLICA_CONNECT_S}


def _defaults(url: URL) -> dict[str, Any]:
    """What the driver is given where neither the URL nor the program says otherwise."""
    drivers = _UNPREPARED if url.get_driver_name() == "psycopg" else {}
    return {key: value for key, value in (_DEFAULTS | drivers).items() if key not in url.query}


def _own_options(url: URL) -> str:
    options = url.query.get("options", "")
    return options if isinstance(options, str) else " ".join(options)


def _options(statement_timeout_ms: int, lock_timeout_ms: int) -> tuple[str, ...]:
    named = (("statement_timeout", statement_timeout_ms), ("lock_timeout", lock_timeout_ms))
    return tuple(f"-c {name}={value}" for name, value in named if value)


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

    def use_for(self, engine: Engine, options: Sequence[str]) -> None:
        """Have *engine* connect with them, and with these *options* of the server's; its URL's own come first."""
        defaults, own = _defaults(engine.url), _own_options(engine.url)

        def connects(_dialect: Any, _record: Any, _cargs: Any, cparams: dict[str, Any]) -> None:
            for key, value in (defaults | self._noted).items():
                cparams.setdefault(key, value)
            given = str(self._noted.get("options", "-c timezone=UTC"))
            cparams["options"] = " ".join((given, *options, own))

        event.listen(engine, "do_connect", connects)


def follow_primary(engine: Engine, topology: Topology, url_of: Callable[[str], URL]) -> None:
    """Have *engine* connect to whoever is the primary, and drop connections to one that was demoted.

    Args:
        engine: watched and told of origins (see :mod:`tidegate.proxy.database.origins`).
        topology: knows who that is; its first node is the one that *engine* was made for.
        url_of: the URL of a node by its name; nodes may come and go.
    """
    configured = topology.nodes[0].name  # not the primary's: that may be another one since before this program began

    def connects(dialect: Any, _record: Any, _cargs: Any, cparams: dict[str, Any]) -> None:
        name = topology.primary.name
        # As it was given, which may be a socket or a service, while nobody else has taken over.
        if name == configured and not several:
            return
        for key in _ADDRESS - {"user", "password"}:
            cparams.pop(key, None)
        cparams.update({key: value for key, value in _arguments(dialect, url_of(name)).items() if key in _ADDRESS})

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
