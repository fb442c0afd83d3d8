"""The stream of pushes of Valkey or Redis >= 6: ``CLIENT TRACKING`` in broadcast mode, on a connection of its own.

A thread reads the stream. The first caller starts it; a forked process starts its own. ``INFO replication`` is the
question by which the stream shows that it is alive: a server that is no master any more, or that is another one than at
the beginning of the stream, vouches for nothing. The stream shares no connection with ``link``: a connection there may
hold nothing but the answers that were asked for.
"""

from __future__ import annotations

import random
import select
import threading
from collections import deque
from fcntl import ioctl
from functools import partial
from termios import FIONREAD
from typing import TYPE_CHECKING, Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tidegate.cache.near.push_versions import ALIVE_S, VersionsByTenant
from tidegate.cache.redis.wire import packed
from tidegate.fork_hooks import reset_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.cache.redis.client import Client
    from tidegate.cache.redis.keys import Keys

BEAT_S: Final = ALIVE_S / 5
"""How often the server is asked, in seconds."""
_GIVE_UP_S: Final = 4 * ALIVE_S
_PAUSES_S: Final = (0.05, 2.0)
_NOTHING: Final = bytes(4)
_ASK: Final = packed((b"INFO", b"replication"))


class _Pushed(list[bytes]):
    """The keys that a push names."""


_EVERYTHING: Final = _Pushed()


class RedisPushes:
    """Read the pushes of one server; a :class:`~tidegate.cache.near.push_versions.PushVersions`.

    Args:
        client: its connection pool says how to connect.
        keys: the keys of the namespace.
        is_expected: tells whether a server with this replication id is the one whose entries are served.
        beat_s: how often the server is asked whether it is there, in seconds.
    """

    def __init__(
        self,
        client: redis.Redis,
        keys: Keys,
        is_expected: Callable[[bytes], bool] = lambda _life: True,
        *,
        beat_s: float = BEAT_S,
    ) -> None:
        self._is_expected = is_expected
        self._client = client
        self._keys = keys
        self.beat_s = beat_s
        self._start_anew()
        reset_after_fork(self._start_anew)

    def _start_anew(self) -> None:
        # This also runs in a forked child: the parent's thread is not there, and what it vouched for does not count.
        self._versions = VersionsByTenant()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def alive(self) -> bool:
        """Tell whether all changes until 250 ms ago have been pushed to here. The first call starts the thread."""
        if self._thread is None:
            self._launch()
        return self._versions.alive()

    def version(self, tenant: str) -> int:
        """Return a number that is another one each time the marks of *tenant* may have changed."""
        return self._versions.of(self._keys.marks(tenant))

    def caught_up(self, timeout_s: float) -> bool:
        """Wait until all changes before this call have been pushed to here.

        Returns:
            Whether that was within *timeout_s* seconds.
        """
        self.alive()
        return self._versions.wait_until_vouched(self._versions.clock(), timeout_s)

    def close(self) -> None:
        """End the thread. It does no harm to repeat this."""
        with self._lock:
            self._closed.set()
            thread, self._thread = self._thread, threading.current_thread()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_GIVE_UP_S)
        self._versions.silence()

    def _launch(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._follow, name="tidegate-pushes", daemon=True)
                self._thread.start()

    def _follow(self) -> None:
        pause_s, longest_s = _PAUSES_S
        versions, closed = self._versions, self._closed
        while not closed.is_set():
            connection = None
            try:
                connection = self._connected()
                life = self._subscribe(connection)
                # Void everything now, after the subscription: what was looked up before it may have changed without
                # a push.
                versions.void_all()
                _Following(connection, versions, life, self.beat_s).run(closed)
                pause_s = _PAUSES_S[0]
            except Exception:  # noqa: BLE001  # a parser may raise anything on garbage; until then near caches ask
                pause_s = min(pause_s * 2, longest_s)
            finally:
                versions.silence()
                if connection is not None:
                    connection.disconnect()
            closed.wait(pause_s * random.uniform(0.5, 1.5))  # noqa: S311  # no secret

    def _connected(self) -> Any:
        pool = self._client.connection_pool
        options = {**pool.connection_kwargs, "protocol": 3, "retry": Retry(NoBackoff(), 0)}
        connection = pool.connection_class(**options)
        connection.connect()
        return connection

    def _subscribe(self, connection: Any) -> bytes:
        """Ask for pushes, and return the replication id of the server."""
        connection._parser.set_invalidation_push_handler(_pushed)  # noqa: SLF001  # as redis-py's own cache does
        connection.send_packed_command(
            [packed((b"CLIENT", b"TRACKING", b"ON", b"BCAST", b"PREFIX", self._keys.marks_prefix())), _ASK]
        )
        _reply(connection)
        life = _life(_reply(connection))
        if not self._is_expected(life):
            raise ConnectionError("another server answers than the one whose entries are served")
        return life


class _Following:
    """Follow the pushes on one connection, as long as it lives."""

    def __init__(self, connection: Any, versions: VersionsByTenant, life: bytes, beat_s: float) -> None:
        self._connection = connection
        self._versions = versions
        self._life = life
        self._beat_s = beat_s
        self._fd: int = connection._sock.fileno()  # noqa: SLF001  # redis-py has no other way to wait without reading
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._asked: deque[float] = deque()

    def run(self, closed: threading.Event) -> None:
        """Take note of all that comes, until *closed* is set. An error says that the stream can no longer be used."""
        versions, clock, next_s = self._versions, self._versions.clock, 0.0
        versions.being_read, versions.unread = False, partial(_has_unread, self._fd)
        while not closed.is_set():
            now_s = clock()
            if now_s >= next_s:
                self._ask(now_s)
                next_s = now_s + self._beat_s
            # Wait without reading: others must see what has come, either as unread or as being read.
            if self._poll.poll(max(0.0, next_s - clock()) * 1000):
                versions.being_read = True
                self._take()
                while self._connection.can_read(timeout=0):
                    self._take()
                versions.being_read = False

    def _ask(self, now_s: float) -> None:
        if self._asked:
            if now_s - self._asked[0] > _GIVE_UP_S:
                raise TimeoutError(f"the stream of pushes has not answered for {_GIVE_UP_S:g} s")
            return
        self._asked.append(now_s)
        self._connection.send_packed_command([_ASK], check_health=False)

    def _take(self) -> None:
        found = self._connection.read_response(disable_decoding=True, push_request=True)
        if isinstance(found, _Pushed):
            if found is _EVERYTHING:
                self._versions.void_all()
            for key in found:
                self._versions.void(key)
        elif isinstance(found, bytes):
            if _life(found) != self._life:
                raise ConnectionError("another server answers than the one with which the stream began")
            self._versions.vouch(self._asked.popleft())
        else:
            raise ConnectionError(f"the stream gave neither a push nor an answer, but a {type(found).__name__}")


def pushes_of(client: Client, keys: Keys, is_expected: Callable[[bytes], bool]) -> RedisPushes | None:
    """Return the stream of the server of *client*; None for a cluster: each of its masters would have its own."""
    return RedisPushes(client, keys, is_expected) if isinstance(client, redis.Redis) else None


def _has_unread(fd: int) -> bool:
    try:
        return ioctl(fd, FIONREAD, _NOTHING) != _NOTHING
    except OSError:  # the connection was closed meanwhile
        return True


def _pushed(message: Any) -> _Pushed:
    # This must not raise: redis-py would log the error and go on, and a push would be lost.
    keys = message[1] if len(message) > 1 else None
    return _EVERYTHING if keys is None else _Pushed(keys)


def _reply(connection: Any) -> Any:
    """Return the next reply. Pushes that come before it are of no interest yet."""
    while isinstance(reply := connection.read_response(disable_decoding=True, push_request=True), _Pushed):
        pass
    return reply


def _life(info: Any) -> bytes:
    """Return the replication id of a master.

    Raises:
        ConnectionError: the server is no master.
    """
    if not isinstance(info, bytes) or b"role:master" not in info:
        raise ConnectionError("the server is no master")
    return info.partition(b"master_replid:")[2].partition(b"\r\n")[0]
