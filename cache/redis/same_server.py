"""Which server answers under a URL: asked on each new connection, since the same name may lead to another server.

A server is known by an id in a key of its own and by its replication id. A copy of its data has the same id, and
another replication id. A server that was flushed has no id any more, and the same replication id. One that took over
from the known one, as Sentinel has it, says which replication id it had before; but so does a server that was started
from the known one's file, while that one goes on. So it proves nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tidegate.cache.redis.keys import decoded
from tidegate.cache.store import CacheServer, StoreUnavailable
from tidegate.error_text import error_text
from tidegate.interruptions import pass_interruption

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

ASK: Final = b"""
local info = redis.call('INFO', 'replication')
if not string.find(info, 'role:master', 1, true) then
  return redis.error_reply('NOTMASTER this server is a replica')
end
local id = redis.pcall('GET', KEYS[1])
return {type(id) == 'string' and id or '', string.match(info, 'master_replid:(%x+)')}
"""
NAME: Final = b"""
local id = redis.pcall('GET', KEYS[1])
if type(id) == 'string' and #id == 16 and not string.find(id, '%X') then return id end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
"""


_ID: Final = re.compile(rb"[0-9a-f]{16}").fullmatch


class ExpectedServer:
    """Compare the servers that answer with the one that is expected.

    Args:
        key: of the server's id.
    """

    def __init__(self, key: bytes) -> None:
        self.key: Final = key
        self.server: CacheServer | None = None
        self.why: str | None = None
        """Why no server may be used; None: the expected one may be, and any, while none is expected."""

    def questions(self) -> tuple[tuple[bytes, ...], ...]:
        """Return the commands that ask a server which one it is."""
        return (b"GET", self.key), (b"INFO", b"replication")

    def check(self, named: Any, info: Any) -> tuple[bytes, ...] | None:
        """Check the answers to the questions.

        Returns:
            A command that gives the server its id back, if it is the expected one and has lost it; else None.

        Raises:
            StoreUnavailable: another server has answered.
        """
        if self.server is None or not isinstance(info, bytes):
            return None
        life, known = _after(info, b"master_replid:"), (self.server.id or "").encode()
        if life == self.server.life:
            return None if named == known else (b"SET", self.key, known)
        self.why = (
            "another server answers under the cache's URL than the one that serves this database, or it was started "
            "anew"
        )
        raise StoreUnavailable(self.why)

    def refuse(self) -> None:
        """Refuse to use any server, if none may be used.

        Raises:
            StoreUnavailable: none may be.
        """
        if self.why is not None:
            raise StoreUnavailable(self.why)

    def has_life(self, life: bytes) -> bool:
        """Tell whether a server with this replication id is the expected one."""
        return self.why is None and (self.server is None or self.server.life.encode() == life)


def _after(info: bytes, name: bytes) -> str:
    return decoded(info.partition(name)[2].partition(b"\r\n")[0])


def server_of(reply: Any) -> CacheServer:
    """Return the server that has answered so."""
    name, life = reply
    # Whatever else stands there was written by somebody else.
    return CacheServer(decoded(name) if _ID(name) else None, decoded(life))


def ask_server(execute: Callable[..., Any], key: bytes, *, cluster: bool) -> CacheServer:
    """Ask a server which one it is, expected or not.

    Args:
        execute: runs a command, given as its parts.
        key: of the server's id.
        cluster: whether it is one of several, whose replication ids say nothing of the whole.

    Raises:
        StoreUnavailable: it does not answer, or is no master.
    """
    found = _run(lambda: server_of(execute("EVAL", ASK, 1, key)))
    return CacheServer(found.id, "") if cluster else found


def name_server(execute: Callable[..., Any], key: bytes, name: str) -> str:
    """Give a server the id *name*, if it has none, and return the one that it has.

    Args:
        execute: runs a command, given as its parts.
        key: of the server's id.
        name: 16 hexadecimal digits.

    Raises:
        StoreUnavailable: it does not answer.
    """
    return _run(lambda: decoded(execute("EVAL", NAME, 1, key, name)))


def _run(ask: Callable[[], T]) -> T:
    try:
        return ask()
    except Exception as error:  # a parser may raise anything on garbage
        pass_interruption(error)
        raise StoreUnavailable(f"{type(error).__name__}: {error_text(error)}") from error
