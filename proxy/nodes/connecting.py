"""How connections to all servers of a shard are opened: as the program's engine opens its own, to another address.

The program's engine is asked to connect, and the address is changed on the way, in the ``do_connect`` event of its
dialect. So its arguments for the driver, and what its listeners make of them, need not be known. The address is changed
before the program's listeners run, since one may need it, for example for a password that is made for this server. It
is changed once more after them, since one may have put in the primary's.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event

from tidegate.interruptions import pass_interruption
from tidegate.proxy.nodes.hosts import SEVERAL, hosts
from tidegate.routing.replicas.attempt import NotReached

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL, Engine

CONNECT_S: Final = 5
_ELSEWHERE_CONNECT_S: Final = 2
"""The time-out to connect to a server beside the primary, in seconds. Another one can answer instead; libpq takes no
shorter one."""
_DEFAULTS: Final[dict[str, Any]] = {
    "connect_timeout": CONNECT_S,
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
_ADDRESS: Final = frozenset({"dbname", "host", "hostaddr", "password", "port", "user"})
IGNORED: Final = (
    "is not read from, because the program's engine connects by a function of its own (creator=, or a do_connect "
    "listener that makes the connection), which takes no other address"
)
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a connection goes.

    Args:
        url: the server's URL. What it names comes before what the program's engine gives.
        as_given: whether the address is that of the program's engine, whatever its URL says: it may be a socket, a
            service, or what a function of the program's finds.
        options: options of the server for this connection, like "-c statement_timeout=5000".
    """

    url: URL
    as_given: bool = False
    options: tuple[str, ...] = ()


class AddressIgnored(NotReached):
    """The program's engine has connected to another address than it was given, and the connection was closed."""


class _Noted(Exception):  # noqa: N818  # no mistake: there is no need to connect any more
    pass


@dataclass(slots=True, eq=False)
class _Opening:
    """A connection that is being opened beside those of the program's engine.

    Args:
        by: what opens it.
        to: where it goes; None: nowhere, the arguments are only to be seen.
        led: whether the address was handed to the program's engine.
    """

    by: Connecting
    to: Destination | None
    led: bool = False


_opening: Final[ContextVar[_Opening | None]] = ContextVar("tidegate_opening", default=None)

_inside: Final[ContextVar[bool]] = ContextVar("tidegate_opening_inside", default=False)
"""Whether the listeners are called by one of us, and not by SQLAlchemy."""


class Connecting:
    """Open connections as the program's engine does, to any server of a shard.

    Args:
        engine: the program's engine.

    Attributes:
        engine: the same.
        usual: returns where the connections of the program's engine itself go; None: to the address that it has.
        ignored: is called once if the program's engine turns out to ignore addresses.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine: Final = engine
        self.usual: Callable[[], URL | None] = lambda: None
        self.ignored: Callable[[], None] = lambda: None
        self.ignores = False
        self._given: dict[str, Any] = {}
        event.listen(engine, "do_connect", self._connect)
        # SQLAlchemy has no way to register a listener to this event before those that are there.
        listeners: Any = engine.dialect.dispatch.do_connect.listeners
        listeners.remove(self._connect)
        listeners.appendleft(self._connect)

    def learn(self) -> None:
        """Find out what the program's engine gives its driver, without connecting.

        An engine with a function of its own to connect connects all the same, once.
        """
        token = _opening.set(_Opening(self, None))
        try:
            self.engine.pool._invoke_creator(None).close()  # type: ignore[arg-type]  # noqa: SLF001
        except _Noted:
            return
        except Exception as error:  # noqa: BLE001  # its server may be away; it was not to go to this address
            pass_interruption(error)
        finally:
            _opening.reset(token)
        self._note_ignored()

    def hosts(self) -> list[URL]:
        """Return one URL for each host of the program's engine, as its URL and its arguments name them."""
        url, given = self.engine.url, self._given
        if "host" not in given or url.get_backend_name() != "postgresql":
            return hosts(url)
        query = {key: str(given[key]) for key in ("host", "port") if given.get(key)}
        return hosts(url.set(host=None, port=None).difference_update_query(["host", "port"]).update_query_dict(query))

    def connect(self, to: Destination, connection_record: Any) -> Any:
        """Open a DBAPI connection.

        Raises:
            AddressIgnored: it has gone elsewhere, and was closed.
        """
        opening = _Opening(self, to)
        token = _opening.set(opening)
        try:
            raw: Any = self.engine.pool._invoke_creator(connection_record)  # noqa: SLF001
        finally:
            _opening.reset(token)
        if to.as_given or (opening.led and _leads_to(raw, to.url)):
            return raw
        with suppress(Exception):
            raw.close()
        self._note_ignored()
        raise AddressIgnored(f"{to.url.host}:{to.url.port or 5432} {IGNORED}")

    def connect_by_url(self, to: Destination) -> Any:
        """Open a DBAPI connection by the URL alone, for an engine that ignores addresses."""
        dialect: Any = self.engine.dialect
        cargs, cparams = dialect.create_connect_args(to.url)
        self._settle(to, given := dict(cparams))
        return dialect.connect(*cargs, **given)

    def _note_ignored(self) -> None:
        if not self.ignores:
            self.ignores = True
            _log.warning(
                "replicas are not read from, and the engine does not follow its primary to another address: it "
                "connects by a function of its own (creator=, or a do_connect listener that makes the connection), "
                "which takes no other address"
            )
            self.ignored()

    def _connect(self, dialect: Any, record: Any, cargs: Any, cparams: dict[str, Any]) -> Any:
        """Connect in place of SQLAlchemy, if the address is to be another one; else return None."""
        opening = _opening.get()
        if opening is None:
            url = self.usual()
            if url is None:
                return None
            if _inside.get():  # another gate on this engine connects, with lists of its own
                _turn(cparams, url, _address(dialect, url))
                return None
            return self._connect_to(url, None, dialect, record, cargs, cparams)
        if opening.by is not self:
            return None
        if opening.to is None:
            self._given = dict(cparams)
            raise _Noted
        opening.led = True
        return self._connect_to(opening.to.url, opening.to, dialect, record, cargs, cparams)

    def _connect_to(
        self, url: URL, to: Destination | None, dialect: Any, record: Any, cargs: Any, cparams: dict[str, Any]
    ) -> Any:
        """Connect to the host of *url*; *to* is None for a connection of the program's engine itself."""
        # SQLAlchemy 2.0 gives the same lists to all connections, so nothing may be changed in them.
        args, params = list(cargs), dict(cparams)
        turned = to is None or not to.as_given
        if turned:
            _turn(params, url, _address(dialect, url) if to is None else _arguments(dialect, url))
        raw = self._from_listeners(dialect, record, args, params)
        if raw is not None:
            return raw
        if turned:
            _send_to(params, url)
        if to is not None:
            self._settle(to, params)
        return dialect.connect(*args, **params)

    def _from_listeners(self, dialect: Any, record: Any, args: list[Any], params: dict[str, Any]) -> Any:
        """Have the other listeners change the arguments; return the connection of the first that makes one."""
        token = _inside.set(True)
        try:
            for listener in tuple(dialect.dispatch.do_connect):
                if listener != self._connect and (raw := listener(dialect, record, args, params)) is not None:
                    return raw
        finally:
            _inside.reset(token)
        return None

    def _settle(self, to: Destination, cparams: dict[str, Any]) -> None:
        """Set what a connection beside the primary's has of its own: its time-outs, where the URL says nothing else."""
        for key, value in driver_defaults(to.url).items():
            cparams.setdefault(key, value)
        if "connect_timeout" not in to.url.query:
            cparams["connect_timeout"] = _ELSEWHERE_CONNECT_S
        own = "" if to.as_given else own_options(to.url)
        given = cparams.get("options")
        if given is None:
            # Options that are given here replace those of a service, which say for example which schema is read. So
            # there the time-outs are left out; what reads on a replica is cut from here in any case.
            if not own and _by_service(self.engine.url, cparams):
                return
            given = os.environ.get("PGOPTIONS", "")
        parts = (given if isinstance(given, str) else " ".join(given), *to.options, own)
        cparams["options"] = " ".join(part for part in parts if part)


def driver_defaults(url: URL) -> dict[str, Any]:
    """Return what the driver is given where neither the URL nor the program says otherwise."""
    drivers = _UNPREPARED if url.get_driver_name() == "psycopg" else {}
    return {key: value for key, value in (_DEFAULTS | drivers).items() if key not in url.query}


def own_options(url: URL) -> str:
    """Return the options of the server that a URL names, as one text."""
    options = url.query.get("options", "")
    return options if isinstance(options, str) else " ".join(options)


def _arguments(dialect: Any, url: URL) -> dict[str, Any]:
    _, arguments = dialect.create_connect_args(url)
    return dict(arguments)


def _address(dialect: Any, url: URL) -> dict[str, Any]:
    """Return of what *url* says only where it leads, and as whom."""
    return {key: value for key, value in _arguments(dialect, url).items() if key in _ADDRESS}


def _turn(cparams: dict[str, Any], url: URL, own: dict[str, Any]) -> None:
    """Put into *cparams* the address of *url*, and what else it names, except options of the server."""
    if url.username is not None and url.username != cparams.get("user"):
        cparams.pop("password", None)  # it is another user's
    cparams.update({key: value for key, value in own.items() if key != "options" and key not in SEVERAL})
    _send_to(cparams, url)


def _send_to(cparams: dict[str, Any], url: URL) -> None:
    """Put the one host of *url* into *cparams*, so that nothing else chooses: no service, variable or further host."""
    folder = url.query.get("host", "")
    cparams["host"] = url.host or (folder if isinstance(folder, str) else folder[0])
    cparams["port"] = str(url.port or url.query.get("port") or os.environ.get("PGPORT") or 5432)
    cparams["hostaddr"] = url.query.get("hostaddr", "")
    cparams["target_session_attrs"] = "any"
    cparams.pop("load_balance_hosts", None)


def _leads_to(raw: Any, url: URL) -> bool:
    """Tell whether a connection goes to the host of *url*, as far as its driver says where it goes."""
    wanted: dict[str, Any] = {}
    _send_to(wanted, url)
    info = getattr(raw, "info", None)
    return info is None or (info.host, str(info.port)) == (wanted["host"] or info.host, wanted["port"])


def _by_service(url: URL, cparams: dict[str, Any]) -> bool:
    """Tell whether a service or a connection string may give options."""
    return bool({"service", "conninfo", "dsn"} & (url.query.keys() | cparams.keys())) or "PGSERVICE" in os.environ
