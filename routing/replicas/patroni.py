"""How the servers of a shard are found by Patroni's REST interface, which knows who has joined and who has left.

Only *which* servers there are is asked there. Which one is the primary, and how far the others are, the monitors ask
the servers themselves: what Patroni says is some seconds old.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http.client import HTTPException
from random import uniform
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from tidegate.error_text import first_line
from tidegate.routing.threads.background import Background

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Mapping, Sequence

_JITTER: Final = 0.2
_MOST_BYTES: Final = 1024 * 1024
_LEADERS: Final = frozenset({"leader", "master", "standby_leader"})
_LIVES: Final = frozenset({"running", "streaming"})
_NOT_FOR_READS: Final = ("nofailover", "noloadbalance")
Fetch: TypeAlias = "Callable[[str], bytes]"
"""Reads what is at a URL; raises OSError or HTTPException."""


@dataclass(frozen=True, slots=True)
class Member:
    """A server that Patroni names and that may be used.

    The leader may always be used. A replica may unless it is not running, or has a tag that forbids to read from it.

    Args:
        host: its host.
        port: its port.
        api_url: where its Patroni answers; "" if that is unknown.
    """

    host: str
    port: int
    api_url: str = ""


def members_of(answer: bytes) -> list[Member]:
    """Return the servers that an answer to ``GET /cluster`` names, without those that must not be used.

    Raises:
        ValueError: *answer* is no such answer.
    """
    told = json.loads(answer)
    listed = told.get("members") if isinstance(told, dict) else None
    if not isinstance(listed, list):
        raise ValueError("the answer names no members")  # noqa: TRY004  # about an answer, not about an argument
    return [
        Member(str(one["host"]), int(one.get("port") or 5432), str(one.get("api_url") or ""))
        for one in listed
        if isinstance(one, dict) and one.get("host") and _is_usable(one)
    ]


def _is_usable(member: Mapping[str, Any]) -> bool:
    if member.get("role") in _LEADERS:
        return True
    tags = member.get("tags")
    return member.get("state") in _LIVES and not (
        isinstance(tags, dict) and any(tags.get(tag) for tag in _NOT_FOR_READS)
    )


def fetch(url: str) -> bytes:
    """Read what is at *url*, within two seconds.

    Raises:
        OSError: it cannot be read, or the URL does not begin with http:// or https://.
    """
    if not url.startswith(("http://", "https://")):
        raise URLError(f"expected a URL like http://host:8008, not {shown(url)!r:.80}")
    with urlopen(url, timeout=2) as answer:  # noqa: S310  # of http or https, as was just seen
        return bytes(answer.read(_MOST_BYTES))


def shown(url: str) -> str:
    """Return *url* without the parts that may be secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


class Discovery:
    """Ask for the members now and then, in a thread of the process that uses this object.

    Args:
        urls: where Patroni's REST interface answers on some members; the answers name the others.
        found: is told the members whenever a Patroni has answered; must not raise.
        lost: is told, in words, whenever none has answered.
        every_s: the pause between two questions, in seconds; it is jittered.
        fetch: reads a URL.
    """

    def __init__(
        self,
        urls: Sequence[str],
        found: Callable[[Sequence[Member]], None],
        lost: Callable[[str], None],
        *,
        every_s: float,
        fetch: Fetch = fetch,
    ) -> None:
        self._given = tuple(url.rstrip("/") for url in urls)
        self._learned: tuple[str, ...] = ()
        self._found = found
        self._lost = lost
        self._every_s = every_s
        self._fetch = fetch
        self._background = Background("tidegate-discovery", self._run)

    def ensure_started(self) -> None:
        """Start the thread in this process, if it does not run."""
        self._background.ensure_started()

    def ask_now(self) -> bool:
        """Ask once, in the caller's thread, and tell whether a Patroni has answered."""
        troubles = []
        for url in dict.fromkeys((*self._given, *self._learned)):
            try:
                members = members_of(self._fetch(f"{url}/cluster"))
            except (OSError, HTTPException, ValueError, TypeError) as error:
                troubles.append(f"{shown(url)}: {first_line(error)}")
                continue
            self._learned = _api_urls(members)
            self._found(members)
            return True
        self._lost("; ".join(troubles))
        return False

    def close(self) -> None:
        """End the thread."""
        self._background.close(wait_s=0)  # not waited for: it may be in the middle of a question that takes seconds

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(self._every_s * uniform(1 - _JITTER, 1 + _JITTER)):  # noqa: S311  # no secret
            self.ask_now()


def _api_urls(members: Iterable[Member]) -> tuple[str, ...]:
    """Return where the members' own interfaces are: ``http://host:8008/patroni`` means its root."""
    return tuple(member.api_url.removesuffix("/patroni").rstrip("/") for member in members if member.api_url)
