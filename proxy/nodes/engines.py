"""Engines: the primary's, which goes where the primary is, and one for the reads of each replica.

The replicas' engines have the options of the primary's engine. What a program gave ``create_engine`` for the primary,
above all the arguments for its driver, is noted when that engine connects, and used for the others.
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
"""The time-out to connect to a replica, in seconds. Another node can answer instead; libpq takes no shorter one."""
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
"""The parameters of a URL that choose among several hosts; they mean nothing in a URL of one host."""
_DEFAULTS: Final[dict[str, Any]] = {
    "connect_timeout": _CONNECT_S,
    # With these, a server that vanished without closing the connection is noticed after a minute. Linux would take two
    # hours.
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # in ms. Keepalives watch an idle connection; this, one that has sent a statement
}
# A prepared statement gets a plan for an average tenant; but one tenant may have half of all rows.
_UNPREPARED: Final[dict[str, Any]] = {"prepare_threshold": None}


def checked_url(text: str, where: str) -> URL:
    """Return *text* as a URL.

    Args:
        text: a URL in SQLAlchemy's form.
        where: the name of the setting, for the message.

    Raises:
        SettingsError: it is no URL that can be used. The message names the setting, and not the URL, which may hold a
            password.
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
    """Return one URL for each host of *url*, which may name several in its query, in any of SQLAlchemy's forms."""
    if url.get_backend_name() != "postgresql" or "host" not in url.query:
        return [url]
    given = _arguments(url.get_dialect()(), url)
    names = str(given["host"]).split(",")
    if names[0].startswith("/"):  # a folder with a socket, not a host
        return [url]
    ports = str(given.get("port") or "," * (len(names) - 1)).split(",")
    rest = {key: value for key, value in url.query.items() if key not in _SEVERAL}
    return [
        url.set(host=name, port=int(port) if port else None, query=rest)
        for name, port in zip(names, ports, strict=True)
    ]


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
        pool_pre_ping=True,
        connect_args=_defaults(url) | {"options": " ".join((*options, _own_options(url)))},
    )
    return forgotten_in_children(engine)


def replica_engine(url: URL, pool: PoolSettings, routing: RoutingSettings, like: ConnectArguments) -> Engine:
    """Make the engine for reads on one replica, whose attempts :mod:`tidegate.routing.replicas.attempt` watches."""
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=pool.size,
        max_overflow=pool.overflow,
        # If all connections are in use, another node answers sooner: so the wait is short. A read that fails is tried
        # on another node too: so there is no ping before use.
        pool_timeout=0.05,
        connect_args=_soon(url),
    )
    like.use_for(engine, _options(routing.statement_timeout_ms, routing.lock_timeout_ms))
    listen(engine)
    return forgotten_in_children(engine)


def monitor_engine(url: URL, like: ConnectArguments) -> Engine:
    """Make the engine for a monitor's own connection."""
    engine = create_engine(url, poolclass=NullPool, connect_args=_soon(url))
    like.use_for(engine, ("-c statement_timeout=5000",))
    return engine


def _soon(url: URL) -> dict[str, Any]:
    return {} if "connect_timeout" in url.query else {"connect_timeout": _REPLICA_CONNECT_S}


def _defaults(url: URL) -> dict[str, Any]:
    """Return what the driver is given where neither the URL nor the program says otherwise."""
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
    """Note what the primary's engine gives its driver, except the address, and use it for other engines.

    It is noted each time that the engine connects.

    Args:
        engine: the primary's engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._noted: dict[str, Any] = {}
        self._learning = 0
        event.listen(engine, "do_connect", self._note)

    def learn(self, engine: Engine) -> None:
        """Note the arguments without connecting.

        The primary may be away, and the other servers are asked with these arguments which of them is the primary.
        """
        aside = engine.pool.recreate()
        self._learning = threading.get_ident()
        try:
            aside.connect().close()  # this line returns only for an engine that has a function of its own to connect
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
        """Have *engine* connect with these arguments and some *options* of the server. Its own URL comes first."""
        defaults, own = _defaults(engine.url), _own_options(engine.url)

        def connects(_dialect: Any, _record: Any, _cargs: Any, cparams: dict[str, Any]) -> None:
            for key, value in (defaults | self._noted).items():
                cparams.setdefault(key, value)
            given = str(self._noted.get("options", "-c timezone=UTC"))
            cparams["options"] = " ".join((given, *options, own))

        event.listen(engine, "do_connect", connects)


def follow_primary(engine: Engine, topology: Topology, url_of: Callable[[str], URL]) -> None:
    """Have *engine* connect to the node that is the primary, and drop connections to one that was demoted.

    Args:
        engine: the engine, which is watched, and whose connections note their origins (see
            :mod:`tidegate.proxy.database.origins`).
        topology: knows which node is the primary. Its first node is the one that *engine* was made for.
        url_of: returns the URL of a node by its name; nodes may come and go.
    """
    # The node that the engine's URL names. It need not be the primary: that may have changed before this program began.
    configured = topology.nodes[0].name

    def connects(dialect: Any, _record: Any, _cargs: Any, cparams: dict[str, Any]) -> None:
        name = topology.primary.name
        # While no other node has taken over, use the address as it was given: it may be a socket or a service.
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
                "a promotion may be under way; 'tidegate doctor' shows the state of each server"
            )
        if timeline < topology.timeline:
            raise DisconnectionError("this primary was demoted")

    def committing(connection: Any) -> None:
        timeline = timeline_of(connection.info)
        if timeline is not None and timeline >= topology.timeline:
            return
        # Another node was promoted while the transaction ran. A commit here would be lost with this server: refuse it.
        connection.invalidate()
        raise NoNodeAvailable(
            f"the primary that this transaction began on was demoted, and {topology.primary.name} is the primary now: "
            "nothing was committed; run the whole transaction again"
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
    """Have a forked process begin with an empty pool, since the connections belong to its parent; return *engine*."""
    known = weakref.ref(engine)

    def forget() -> None:
        if (alive := known()) is not None:
            alive.dispose(close=False)

    os.register_at_fork(after_in_child=forget)
    return engine
