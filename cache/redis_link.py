"""Connections to Valkey or Redis: one round trip at a time, none of which can read another's answer.

redis-py opens the connections (see ``redis_client``); packed commands are sent and replies read on them directly, which
saves a good part of what its general path costs (``benchmarks.redis_store`` measures both).
"""

from __future__ import annotations

import os
import random
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AskError, MovedError, NoScriptError
from redis.retry import Retry

from tidegate.cache.breaker import Breaker, Pauses
from tidegate.cache.command import packed, packet
from tidegate.cache.store import StoreFull, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tidegate.cache.command import Command

T = TypeVar("T")

_MOST_IDLE: Final = 128
_NO_SERVER: Final = ("NOTMASTER", "READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN")


class Moved(StoreUnavailable):
    """The keys are on another server of the cluster."""


class ServerLink:
    """One server, found anew at each connection (Sentinel).

    Args:
        client: whose pool says how to connect.
        pauses: of the circuit breaker.
    """

    def __init__(self, client: redis.Redis, pauses: Pauses) -> None:
        self._client = client  # a Sentinel pool is known to its connections by a weak reference only
        self._pauses = pauses
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._idle: deque[Any] = deque(maxlen=_MOST_IDLE)
        self.breaker = Breaker(time.monotonic, lambda: random.uniform(0.5, 1.5), self._pauses)  # noqa: S311  # no secret

    def ask(self, commands: Sequence[Command], decode: Callable[[list[Any]], T]) -> T:
        """See :meth:`Link.ask`."""
        if self._pid != os.getpid():
            # A connection that parent and child share would give one the other's answers.
            self._start()
        if not self.breaker.admits():
            raise StoreUnavailable("the server failed a moment ago; it is asked again after a pause")
        try:
            replies = self._replies(commands)
        except Exception as error:  # a parser may raise anything on garbage
            self._failed()
            raise unavailable(error) from error
        if _has_refusals(replies):
            _raise_refusals(replies, self._failed, self.breaker.succeeded)
        try:
            answer = decode(replies)
        except Exception as error:  # whatever the reply was, it was not the answer
            self._failed()
            raise StoreUnavailable(f"a reply that makes no sense: {type(error).__name__}") from error
        self.breaker.succeeded()
        return answer

    def _failed(self) -> None:
        self.breaker.failed()
        self.close()

    def _replies(self, commands: Sequence[Command]) -> list[Any]:
        replies = self._exchange([packet(command) for command in commands])
        if not _has_refusals(replies):
            return replies
        again = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if again:
            texts = self._exchange([packed(commands[i].parts(whole_text=True)) for i in again])
            for i, reply in zip(again, texts, strict=True):
                replies[i] = reply
        return replies

    def _exchange(self, packets: list[bytes]) -> list[Any]:
        """Send and read; once more if an idle connection turns out to have been closed by the server.

        That is safe even for what changes marks, and even if the first of the two was carried out after all: an intent
        opened twice is one intent, tags stamped or bumped twice only have higher generations, and the steps of a root
        name the nonce and state they start from. A lease may look taken and a fill refused that were not; both cost a
        query, never freshness.
        """
        try:
            connection, used = self._idle.pop(), True
        except IndexError:
            connection, used = self._connected(), False
        try:
            return self._exchange_on(connection, packets)
        except redis.ConnectionError:
            if not used:
                raise
            self.close()
        return self._exchange_on(self._connected(), packets)

    def _exchange_on(self, connection: Any, packets: list[bytes]) -> list[Any]:
        try:
            # An idle connection that has died is found out by using it; asking first would be a round trip.
            connection.send_packed_command(packets, check_health=False)
            replies = [_reply(connection) for _ in packets]
        except BaseException:
            # Time-outs, and whatever else interrupts (KeyboardInterrupt, gevent.Timeout): an answer may still come, and
            # must find nobody who would take it for his own.
            connection.disconnect()
            raise
        self._idle.append(connection)
        return replies

    def _connected(self) -> Any:
        pool = self._client.connection_pool
        # redis-py's own retries sleep for seconds.
        connection = pool.connection_class(**{**pool.connection_kwargs, "retry": Retry(NoBackoff(), 0)})
        try:
            connection.connect()
        except BaseException:
            connection.disconnect()
            raise
        return connection

    def close(self) -> None:
        """See :meth:`Link.close`; also after a failure, for the other idle connections are no better."""
        while True:
            try:
                self._idle.pop().disconnect()
            except IndexError:
                return


def _reply(connection: Any) -> Any:
    """A reply; the server's refusals as values, since those of other commands follow."""
    try:
        return connection.read_response(disable_decoding=True)
    except redis.ResponseError as error:
        return error


def _has_refusals(replies: list[Any]) -> bool:
    for reply in replies:  # noqa: SIM110  # a generator would take three times as long, for the one reply there is
        if isinstance(reply, redis.RedisError):
            return True
    return False


def _raise_refusals(replies: list[Any], failed: Callable[[], None], succeeded: Callable[[], None]) -> None:
    for reply in replies:
        if isinstance(reply, redis.RedisError):
            if isinstance(reply, (AskError, MovedError)):
                succeeded()
                raise Moved(f"{reply}: of a cluster, whose URL would be redis+cluster://")
            # Out of memory or not permitted: others may be served. No master: nobody will be.
            gone = isinstance(reply, redis.ReadOnlyError) or str(reply).startswith(_NO_SERVER)
            (failed if gone else succeeded)()
            raise unavailable(reply)


def unavailable(error: Exception) -> StoreUnavailable:
    """What the store says of *error*."""
    kind = StoreFull if isinstance(error, redis.OutOfMemoryError) else StoreUnavailable
    return kind(f"{type(error).__name__}: {error}")
