"""Connections to Valkey or Redis: one round trip at a time, none of which can read another's answer.

redis-py opens the connections (see ``redis_client``); packed commands are sent and replies read on them directly, which
saves a good part of what its general path costs (``benchmarks.redis_store`` measures both).
"""

from __future__ import annotations

import math
import os
import random
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AskError, MovedError, NoScriptError
from redis.retry import Retry

from tidegate.cache.redis.breaker import Breaker, Pauses
from tidegate.cache.redis.bulkhead import Bulkhead
from tidegate.cache.redis.wire import packed, packet
from tidegate.cache.store import StoreFull, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tidegate.cache.redis.wire import Command

T = TypeVar("T")

_MOST_IDLE: Final = 128
_SILENT: Final = "the server is silent, and as many calls as may wait for it do"
_NO_SERVER: Final = ("NOTMASTER", "READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN")


class Moved(StoreUnavailable):
    """The keys are on another server of the cluster."""


class _Silent(StoreUnavailable):
    """Nobody was answered for a moment, and as many as may wait for that do."""


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
        self._waiters = Bulkhead(self._client.connection_pool.connection_kwargs.get("socket_timeout"))

    def ask(self, commands: Sequence[Command], decode: Callable[[list[Any]], T]) -> T:
        """See :meth:`Link.ask`."""
        if self._pid != os.getpid():
            # A connection that parent and child share would give one the other's answers.
            self._start()
        if not self.breaker.admits():
            raise StoreUnavailable("the server failed a moment ago; it is asked again after a pause")
        try:
            replies = self._in_turn(commands)
        except _Silent:  # no failure of this call's: those who wait will tell
            raise
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

    def _in_turn(self, commands: Sequence[Command]) -> list[Any]:
        """The replies, or a time-out: for one too many a moment after the server fell silent."""
        waiters = self._waiters
        placed = waiters.enter()
        hurried = not placed and self.breaker.closed  # a probe may always wait: nobody else does
        if hurried and waiters.silent:
            raise _Silent(_SILENT)
        try:
            replies = self._replies(commands, hurried=hurried)
        except Exception:
            if placed:
                waiters.spend()
            raise
        except BaseException:
            if placed:
                waiters.leave()
            raise
        if placed:
            waiters.leave()
        waiters.answered()
        return replies

    def _replies(self, commands: Sequence[Command], *, hurried: bool) -> list[Any]:
        replies = self._exchange([packet(command) for command in commands], hurried=hurried)
        if not _has_refusals(replies):
            return replies
        again = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if again:
            texts = self._exchange([packed(commands[i].parts(whole_text=True)) for i in again], hurried=hurried)
            for i, reply in zip(again, texts, strict=True):
                replies[i] = reply
        return replies

    def _exchange(self, packets: list[bytes], *, hurried: bool) -> list[Any]:
        """Send and read; once more if an idle connection turns out to have been closed by the server.

        That is safe even for what changes marks, and even if the first of the two was carried out after all: an intent
        opened twice is one intent, tags stamped or bumped twice only have higher generations, and the steps of a root
        name the nonce and state they start from. A lease may look taken and a fill refused that were not; both cost a
        query, never freshness.
        """
        try:
            connection, used = self._idle.pop(), True
        except IndexError:
            connection, used = self._connected(hurried=hurried), False
        try:
            return self._exchange_on(connection, packets, hurried=hurried)
        except redis.ConnectionError:
            if not used:
                raise
            self.close()
        return self._exchange_on(self._connected(hurried=hurried), packets, hurried=hurried)

    def _exchange_on(self, connection: Any, packets: list[bytes], *, hurried: bool) -> list[Any]:
        try:
            # An idle connection that has died is found out by using it; asking first would be a round trip.
            connection.send_packed_command(packets, check_health=False)
            if hurried:
                self._await_while_others_are_answered(connection)
            replies = [_reply(connection) for _ in packets]
        except BaseException:
            # Time-outs, and whatever else interrupts (KeyboardInterrupt, gevent.Timeout): an answer may still come, and
            # must find nobody who would take it for his own.
            connection.disconnect()
            raise
        self._idle.append(connection)
        return replies

    def _await_while_others_are_answered(self, connection: Any) -> None:
        waiters = self._waiters
        until_s = time.monotonic() + (waiters.timeout_s or math.inf)
        answers = waiters.answers
        # Asked twice: whoever sleeps on a busy machine may wake long after the answer came.
        while not connection.can_read(timeout=waiters.moment_s) and not connection.can_read(timeout=0):
            if waiters.answers == answers:
                waiters.fell_silent(answers)
                raise _Silent(_SILENT)
            if time.monotonic() >= until_s:
                raise redis.TimeoutError("no answer, while others got theirs")
            answers = waiters.answers

    def _connected(self, *, hurried: bool) -> Any:
        waiters, pool = self._waiters, self._client.connection_pool
        # redis-py's own retries sleep for seconds.
        options = {**pool.connection_kwargs, "retry": Retry(NoBackoff(), 0)}
        moment_s = waiters.moment_s if hurried else None
        if moment_s is not None:
            if not waiters.is_answering():
                raise _Silent(_SILENT)
            # Two: a hundred connecting at once may take longer than one on a busy machine.
            options |= dict.fromkeys(("socket_timeout", "socket_connect_timeout"), 2 * moment_s)
        connection = pool.connection_class(**options)
        try:
            connection.connect()
        except BaseException as error:
            connection.disconnect()
            if moment_s is not None and isinstance(error, redis.TimeoutError):
                raise _Silent(_SILENT) from error
            raise
        if moment_s is not None:
            _let_wait(connection, waiters.timeout_s)
        return connection

    def close(self) -> None:
        """See :meth:`Link.close`; also after a failure, for the other idle connections are no better."""
        while True:
            try:
                self._idle.pop().disconnect()
            except IndexError:
                return


def _let_wait(connection: Any, timeout_s: float | None) -> None:
    """Give a connection that was opened in a hurry the time-out of all others; redis-py has no way of its own to."""
    connection.socket_timeout = timeout_s
    connection._sock.settimeout(timeout_s)  # noqa: SLF001
    connection._parser.on_connect(connection)  # noqa: SLF001  # it has a time-out of its own, and nothing to read yet


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
            gone = isinstance(reply, redis.ReadOnlyError) or _says(reply, *_NO_SERVER)
            (failed if gone else succeeded)()
            raise unavailable(reply)


def unavailable(error: Exception) -> StoreUnavailable:
    """What the store says of *error*."""
    kind = StoreFull if isinstance(error, redis.OutOfMemoryError) or _says(error, "OOM") else StoreUnavailable
    return kind(f"{type(error).__name__}: {error}")


def _says(error: Exception, *codes: str) -> bool:
    """Whether *error* is one of these refusals; Redis before 7 tells them of a script's command inside a text."""
    text = str(error)
    return any(text.startswith(code) or f" -{code} " in text for code in codes)
