"""Connections to Valkey or Redis: one round trip at a time, so that none can read the answer of another.

redis-py opens the connections (see ``client``). Packed commands are sent, and replies are read, on the connections
directly. That saves a good part of the cost of redis-py's general path (``benchmarks.cache.store_round_trip`` measures
both).
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
from tidegate.cache.store import StoreRefused, StoreUnavailable
from tidegate.error_text import error_text
from tidegate.interruptions import pass_interruption

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tidegate.cache.redis.same_server import ExpectedServer
    from tidegate.cache.redis.wire import Command

T = TypeVar("T")

_MOST_IDLE: Final = 128
_SILENT: Final = "the server is silent, and no more calls may wait for it"
_RAISE_FAULTS: Final = ("builtins", "redis", "hiredis")
_NO_SERVER: Final = ("NOTMASTER", "READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN")


class Moved(StoreUnavailable):
    """The keys are on another server of the cluster."""


class _Silent(StoreUnavailable):
    """No call was answered for a moment, and as many calls wait for that already as may."""


class ServerLink:
    """Ask one server. With Sentinel, each connection finds the master anew.

    Args:
        client: its connection pool says how to connect.
        pauses: when the circuit breaker opens, and for how long.
        expected: compares the server of each new connection with the one that is expected; None: any will do.
    """

    def __init__(self, client: redis.Redis, pauses: Pauses, expected: ExpectedServer | None = None) -> None:
        self._expected = expected
        self._client = client  # kept alive here: connections hold a Sentinel pool by a weak reference only
        self._pauses = pauses
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._idle: deque[Any] = deque(maxlen=_MOST_IDLE)
        self.breaker = Breaker(time.monotonic, lambda: random.uniform(0.5, 1.5), self._pauses)  # noqa: S311  # no secret
        self._waiters = Bulkhead(self._client.connection_pool.connection_kwargs.get("socket_timeout"))

    def ask(self, commands: Sequence[Command], decode: Callable[[list[Any]], T]) -> T:
        """Send all commands in one round trip, and return the decoded replies; see :meth:`Link.ask`."""
        if self._pid != os.getpid():
            # On a connection that parent and child share, one of them would read the answers of the other.
            self._start()
        if not self.breaker.admits():
            raise StoreUnavailable("the server failed a moment ago; it is asked again after a pause")
        try:
            replies = self._in_turn(commands)
        except _Silent:  # this call did not fail: those who still wait will report
            raise
        except Exception as error:  # a parser may raise anything on garbage
            pass_others(error)
            self._failed()
            raise unavailable(error) from error
        if _has_refusals(replies):
            _raise_refusals(replies, self._failed, self.breaker.succeeded)
        try:
            answer = decode(replies)
        except Exception as error:  # a reply that cannot be decoded is no answer
            pass_others(error)
            self._failed()
            raise StoreUnavailable(f"the server's reply makes no sense: {type(error).__name__}") from error
        self.breaker.succeeded()
        return answer

    def _failed(self) -> None:
        self.breaker.failed()
        self.close()

    def _in_turn(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies, or raise after the time-out.

        A call without a place gives up one moment after the server has fallen silent.
        """
        waiters = self._waiters
        placed = waiters.enter()
        try:
            hurried = not placed and self.breaker.closed  # with the breaker open this is a probe, and may wait
            replies = self._replies(commands, hurried=hurried)
        except BaseException as error:
            if placed:
                (waiters.spend if _is_fault(error) else waiters.leave)()
            raise
        if placed:
            waiters.leave()
        waiters.answered()
        return replies

    def _replies(self, commands: Sequence[Command], *, hurried: bool) -> list[Any]:
        if hurried and self._waiters.silent:
            raise _Silent(_SILENT)
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
        """Send the packets and read the replies.

        Do it once more if the server had closed the idle connection that was used.

        To do it again is safe even for what changes marks, and even if the first attempt was carried out after all. An
        intent that is opened twice is one intent. Tags that are stamped or bumped twice only get higher generations.
        The steps of a root name the nonce and the state that they start from. A lease may look taken although it is
        ours, and a fill may look refused although it was not: both cost a query, never freshness.
        """
        try:
            connection, used = self._idle.pop(), True
        except IndexError:
            connection, used = self._connected(hurried=hurried), False
        try:
            return self._exchange_on(connection, packets, hurried=hurried)
        except redis.ConnectionError as error:
            if not used:
                raise
            pass_others(error)
            self.close()
        return self._exchange_on(self._connected(hurried=hurried), packets, hurried=hurried)

    def _exchange_on(self, connection: Any, packets: list[bytes], *, hurried: bool) -> list[Any]:
        try:
            # Use shows whether an idle connection has died; to ask first would cost a round trip.
            connection.send_packed_command(packets, check_health=False)
            if hurried:
                self._await_while_others_are_answered(connection)
            replies = [_reply(connection) for _ in packets]
        except BaseException:
            # After a time-out, or another interruption (KeyboardInterrupt, gevent.Timeout), the answer may still come.
            # The next call on this connection would take it for its own, so nobody may use the connection again.
            connection.disconnect()
            raise
        self._idle.append(connection)
        return replies

    def _await_while_others_are_answered(self, connection: Any) -> None:
        waiters = self._waiters
        until_s = time.monotonic() + (waiters.timeout_s or math.inf)
        answers = waiters.answers
        # Ask twice: on a busy machine this thread may wake long after the answer came.
        while not connection.can_read(timeout=waiters.moment_s) and not connection.can_read(timeout=0):
            if waiters.answers == answers:
                waiters.fell_silent(answers)
                raise _Silent(_SILENT)
            if time.monotonic() >= until_s:
                raise redis.TimeoutError("the server did not answer in time, although it answered other calls")
            answers = waiters.answers

    def _connected(self, *, hurried: bool) -> Any:
        waiters, pool = self._waiters, self._client.connection_pool
        # redis-py's own retries sleep for seconds.
        options = {**pool.connection_kwargs, "retry": Retry(NoBackoff(), 0)}
        moment_s = waiters.moment_s if hurried else None
        if moment_s is not None:
            if not waiters.is_answering():
                raise _Silent(_SILENT)
            # Two moments: on a busy machine a hundred threads that connect at once may need more than one.
            options |= dict.fromkeys(("socket_timeout", "socket_connect_timeout"), 2 * moment_s)
        connection = pool.connection_class(**options)
        try:
            connection.connect()
            if self._expected is not None and self._expected.server is not None:
                self._check_server(connection, self._expected)
        except BaseException as error:
            connection.disconnect()
            if moment_s is not None and isinstance(error, redis.TimeoutError):
                raise _Silent(_SILENT) from error
            raise
        if moment_s is not None:
            _let_wait(connection, waiters.timeout_s)
        return connection

    def _check_server(self, connection: Any, expected: ExpectedServer) -> None:
        connection.send_packed_command([packed(question) for question in expected.questions()])
        if (gives_back := expected.check(_reply(connection), _reply(connection))) is not None:
            connection.send_packed_command([packed(gives_back)])
            _reply(connection)

    def close(self) -> None:
        """Close the idle connections. After a failure this is done too, since the others are no better."""
        while True:
            try:
                self._idle.pop().disconnect()
            except IndexError:
                return


def _let_wait(connection: Any, timeout_s: float | None) -> None:
    """Give a connection that was opened in a hurry the time-out of all others.

    redis-py itself has no way to do that.
    """
    connection.socket_timeout = timeout_s
    connection._sock.settimeout(timeout_s)  # noqa: SLF001
    connection._parser.on_connect(connection)  # noqa: SLF001  # it keeps a time-out too, and has nothing to read yet


def _reply(connection: Any) -> Any:
    """Read a reply. A refusal of the server is returned as a value, since the replies of other commands follow it."""
    try:
        return connection.read_response(disable_decoding=True)
    except redis.ResponseError as error:
        return error


def _has_refusals(replies: list[Any]) -> bool:
    for reply in replies:  # noqa: SIM110  # a generator takes three times as long, and mostly there is one reply
        if isinstance(reply, redis.RedisError):
            return True
    return False


def _raise_refusals(replies: list[Any], failed: Callable[[], None], succeeded: Callable[[], None]) -> None:
    for reply in replies:
        if isinstance(reply, redis.RedisError):
            if isinstance(reply, (AskError, MovedError)):
                succeeded()
                raise Moved(f"{reply}: this server is of a cluster, whose URL begins with redis+cluster://")
            # Out of memory or not permitted: other calls may still be served. No master: no call will be.
            (failed if _is_gone(reply) else succeeded)()
            raise unavailable(reply)


def pass_others(error: Exception) -> None:
    """Raise *error*, or what is behind it, if neither redis-py nor a socket or the parser has raised it.

    It comes from a signal handler then, or from another thread. redis-py itself takes an error of such a kind (a
    TimeoutError) for one of the socket's.
    """
    pass_interruption(error)
    if not _is_fault(error):
        raise error


def _is_fault(error: BaseException) -> bool:
    """Tell whether *error* is of a kind that redis-py, sockets and parsers raise."""
    if isinstance(error, (redis.RedisError, OSError, StoreUnavailable)):
        return True
    return isinstance(error, Exception) and type(error).__module__.partition(".")[0] in _RAISE_FAULTS


def unavailable(error: Exception) -> StoreUnavailable:
    """Return the error of the store that *error* means."""
    if isinstance(error, StoreUnavailable):
        return error
    kind = StoreRefused if isinstance(error, redis.ResponseError) and not _is_gone(error) else StoreUnavailable
    return kind(f"{type(error).__name__}: {error_text(error)}")


def _is_gone(error: Exception) -> bool:
    return isinstance(error, redis.ReadOnlyError) or _says(error, *_NO_SERVER)


def _says(error: Exception, *codes: str) -> bool:
    """Tell whether *error* is one of these refusals.

    Redis before 7 puts the refusal of a script's command inside a text.
    """
    text = str(error)
    return any(text.startswith(code) or f" -{code} " in text for code in codes)
