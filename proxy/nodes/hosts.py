"""The hosts of a URL, which may name several, in any of SQLAlchemy's forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from tidegate.error_text import remember_password
from tidegate.errors import SettingsError

if TYPE_CHECKING:
    from sqlalchemy import URL

SEVERAL: Final = ("host", "port", "hostaddr", "load_balance_hosts", "target_session_attrs")
"""The parameters of a URL that choose among several hosts; they mean nothing in a URL of one host."""


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
        remember_password(url.password)
        remember_password(url.query.get("password"))
    except (ArgumentError, ImportError, ValueError) as error:  # such as a port that is no number
        raise SettingsError(
            f"{where} cannot be used ({type(error).__name__}): expected postgresql+psycopg://..."
        ) from None
    return url


def hosts(url: URL) -> list[URL]:
    """Return one URL for each host of *url*."""
    if url.get_backend_name() != "postgresql" or "host" not in url.query:
        return [url]
    _, given = url.get_dialect()().create_connect_args(url)
    names = str(given["host"]).split(",")
    if names[0].startswith("/"):  # a folder with a socket, not a host
        return [url]
    ports = str(given.get("port") or "," * (len(names) - 1)).split(",")
    rest = {key: value for key, value in url.query.items() if key not in SEVERAL}
    return [
        url.set(host=name, port=int(port) if port else None, query=rest)
        for name, port in zip(names, ports, strict=True)
    ]
