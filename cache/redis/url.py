"""URLs of Valkey and Redis: which forms there are, and how they are shown, which is never with a password.

::

    redis://[user:password@]host:port/db                                 one server
    redis+sentinel://[user:password@]host:port,host:port/service/db      the master that Sentinel names
    redis+cluster://[user:password@]host:port,host:port                  a cluster, by some of its servers

``rediss`` instead of ``redis`` is with TLS. Options follow a question mark, by redis-py's names:
``?ssl_ca_certs=/etc/ssl/cache.pem``. User and password are those of the server. If the sentinels have others, these are
``?sentinel_username=...&sentinel_password=...``. A character with a meaning in a URL must be escaped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Self, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

from tidegate.error_text import remember_password
from tidegate.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind: TypeAlias = Literal["server", "sentinel", "cluster"]

_KINDS: Final[dict[str, Kind]] = {"": "server", "sentinel": "sentinel", "cluster": "cluster"}
_PORTS: Final[dict[Kind, int]] = {"server": 6379, "sentinel": 26379, "cluster": 6379}
_SENTINEL: Final = ("sentinel_password", "sentinel_username")
_FORMS: Final = (
    "redis://host:port/db, redis+sentinel://host:port,host:port/service/db or redis+cluster://host:port,host:port "
    "(rediss... for TLS) would work"
)


class Timeouts(NamedTuple):
    """How long a call waits: for a connection, and for an answer; in milliseconds."""

    connect_ms: int
    read_ms: int


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL names.

    Args:
        kind: one server, servers behind Sentinel, or a cluster.
        hosts: (host, port) of the server, of the sentinels, or of some servers of the cluster.
        tls: whether connections are encrypted.
        service: the name under which Sentinel knows the master; empty otherwise.
        server_url: user, password, database and options, as a URL of one server.
        sentinel: the sentinels' own ``username`` and ``password``, if they have any.
        shown: the URL without password and options.
    """

    kind: Kind
    hosts: tuple[tuple[str, int], ...]
    tls: bool
    service: str
    server_url: str = field(repr=False)
    sentinel: Mapping[str, str] = field(repr=False)
    shown: str

    @classmethod
    def of_url(cls, url: str) -> Self:
        """Parse *url*.

        Raises:
            SettingsError: *url* has none of the forms above; the message says which would work, and shows no password.
        """
        scheme, separator, rest = url.partition("://")
        secure, _, kind_name = scheme.partition("+")
        if not separator or secure not in ("redis", "rediss") or kind_name not in _KINDS:
            shown = f"{scheme}://..." if separator else "a text without ://"
            raise SettingsError(f"cache.url is {shown}; {_FORMS}")
        kind = _KINDS[kind_name]
        # A password may hold a slash or a question mark that is not escaped: the hosts begin after the last @.
        user, at, location = rest.rpartition("@")
        place = urlsplit(f"//{location}")
        shown = f"{scheme}://{'***@' if at else ''}{place.netloc}{place.path}"
        if forbidden := sorted({"db", "host", "port", "path", "password", "username"} & parse_qs(place.query).keys()):
            raise SettingsError(
                f"cache.url is {shown}, with the option {forbidden[0]}, which belongs before the '?'; {_FORMS}"
            )
        hosts = tuple(_host(text, _PORTS[kind], shown) for text in place.netloc.split(","))
        service, database = _path(kind, place.path, shown)
        host, port = hosts[0]
        remember_password(unquote(user.partition(":")[2]))
        sentinel, query = _sentinel_options(kind, place.query, shown)
        server_url = f"{secure}://{user}{at}{f'[{host}]' if ':' in host else host}:{port}/{database}?{query}"
        return cls(kind, hosts, secure == "rediss", service, server_url, sentinel, shown)


def _host(text: str, port: int, shown: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, given = parts.hostname, parts.port
    except ValueError as error:
        raise SettingsError(f"cache.url is {shown}: {error}; {_FORMS}") from None
    if not host:
        raise SettingsError(f"cache.url is {shown}, with {text!r} for a host; {_FORMS}")
    return host, port if given is None else given


def _path(kind: Kind, path: str, shown: str) -> tuple[str, str]:
    """Return the service (empty without Sentinel) and the database."""
    parts = [unquote(part) for part in path.split("/")[1:]]
    service = parts.pop(0) if kind == "sentinel" and parts else ""
    database = parts.pop(0) if parts else ""
    if parts or (kind == "sentinel" and not service) or not (database or "0").isdecimal():
        raise SettingsError(f"cache.url is {shown}, with {path!r} behind the hosts; {_FORMS}")
    if kind == "cluster" and database not in ("", "0"):
        raise SettingsError(f"cache.url is {shown}, with database {database}; a cluster has only database 0")
    return service, database or "0"


def _sentinel_options(kind: Kind, query: str, shown: str) -> tuple[dict[str, str], str]:
    """Return the options for the sentinels, by redis-py's names, and the query without them."""
    own = {name: values[-1] for name, values in parse_qs(query).items() if name in _SENTINEL}
    if own and kind != "sentinel":
        raise SettingsError(f"cache.url is {shown}, with the option {min(own)}, which only redis+sentinel:// can have")
    rest = "&".join(part for part in query.split("&") if part.partition("=")[0] not in _SENTINEL)
    return {name.removeprefix("sentinel_"): value for name, value in own.items()}, rest


def shown_url(url: str) -> str:
    """Return *url* without its password and options: so a cache is named in a message, and in the database.

    Raises:
        SettingsError: *url* cannot work.
    """
    return Target.of_url(url).shown
