"""Connections to Valkey or Redis: one round trip at a time, so that none can read the answer of another.

redis-py opens the connections (see ``client``). Packed commands are sent, and replies are read, on the connections
directly. That saves a good part of the cost of redis-py's general path (``benchmarks.cache.store_round_trip`` measures
both).
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections import deque
from contextlib import suppress
from functools import partial
from os import getpid
from ssl import SSLWantReadError
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AskError, ClusterDownError, MasterDownError, MovedError, NoScriptError
from redis.retry import Retry

from tidegate.cache.redis.breaker import Breaker, Pauses
from tidegate.cache.redis.bulkhead import Bulkhead
from tidegate.cache.redis.replies import FIRST, read_replies
from tidegate.cache.redis.wire import packed, packet
from tidegate.cache.store import StoreRefused, StoreUnavailable
from tidegate.error_text import error_text, traceback_text
from tidegate.fork_hooks import reset_after_fork
from tidegate.interruptions import pass_interruption

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tidegate.cache.redis.same_server import ExpectedServer
    from tidegate.cache.redis.wire import Command, Plain

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)
_MOST_IDLE: Final = 128
_MOST_OWED: Final = 16
"""How many answers may wait unread on one connection."""
_SILENT: Final = "the server is silent, and no more calls may wait for it"
_RAISE_FAULTS: Final = ("builtins", "redis", "hiredis")
_NO_SERVER: Final = ("NOTMASTER", "READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN")
_GONE: Final = (redis.ReadOnlyError, redis.BusyLoadingError, MasterDownError, ClusterDownError)
"""What redis-py makes of such refusals, without their codes."""


class Moved(StoreUnavailable):
    """The keys are on another server of the cluster."""


class _Silent(StoreUnavailable):
    """No call was answered for a moment, and as many calls wait for that already as may."""


class _Line:
    """A connection, and the replies that nobody has read from it yet."""

    __slots__ = ("connection", "owed", "pid")

    def __init__(self, connection: Any) -> None:
        self.connection: Final = connection
        self.pid: Final = getpid()
        self.owed: list[_Owed] = []

    @property
    def owing(self) -> int:
        """Return how many replies are to come."""
        return sum([one.replies for one in self.owed])

    def lose(self, error: BaseException) -> None:
        """Give the connection up. Who has sent something on it is told that the answer is lost."""
        self.connection.disconnect()
        owed, self.owed = self.owed, []
        for one in owed:
            one.tell(StoreUnavailable(f"the connection was lost before the answer came: {type(error).__name__}"))


class _Owed(NamedTuple):
    """Replies that are to come, and who is to be told of them."""

    replies: int
    told: Callable[[list[Any] | StoreUnavailable], None]

    def tell(self, outcome: list[Any] | StoreUnavailable) -> None:
        """Tell what came of it. An error of an observer's is logged: it is not the call's that reads the replies."""
        try:
            self.told(outcome)
        except Exception as error:  # noqa: BLE001  # whatever an observer raises
            pass_interruption(error)
            _log.error("an observer failed, told of a fill or a stamp\n%s", traceback_text(error))


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
        reset_after_fork(self._start)  # a breaker's lock may have been held at the fork

    def _start(self) -> None:
        self._idle: deque[_Line] = deque(maxlen=_MOST_IDLE)
        self._loaded: set[bytes] = set()
        self.breaker = Breaker(time.monotonic, lambda: random.uniform(0.5, 1.5), self._pauses)  # noqa: S311  # no secret
        self._waiters = Bulkhead(self._client.connection_pool.connection_kwargs.get("socket_timeout"))

    def ask(self, commands: Sequence[Command], decode: Callable[[list[Any]], T]) -> T:
        """Send all commands in one round trip, and return the decoded replies; see :meth:`Link.ask`."""
        replies = self._admitted(partial(self._replies, commands))
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

    def ask_plain(self, plain: Plain, judge: Callable[..., T | None]) -> T | None:
        """Send plain commands in one round trip; see :meth:`Link.ask_plain`."""
        if not self.breaker.closed:
            return None
        answer = judge(*self._admitted(partial(self._exchange, plain.packet, plain.replies)))
        if answer is not None and self.breaker.failures:
            self.breaker.succeeded()
        return answer

    def post(self, commands: Sequence[Command], told: Callable[[list[Any] | StoreUnavailable], None]) -> None:
        """Send all commands, and let whoever uses the connection next read the replies; see :meth:`Link.post`."""
        line = self._line_for(commands)
        try:
            if line is not None:
                line.connection.send_packed_command((_packets(commands),), check_health=False)
        except BaseException as error:
            if line is not None:
                line.lose(error)
            if not isinstance(error, Exception):
                raise
            pass_others(error)
            if not isinstance(error, redis.ConnectionError):  # the server takes nothing: who asks would wait as long
                self._failed()
                told(unavailable(error))
                return
            line = None
        if line is None:
            told(self._asked(commands))
            return
        line.owed.append(_Owed(len(commands), told))
        self._idle.append(line)

    def _line_for(self, commands: Sequence[Command]) -> _Line | None:
        """Return an idle connection to a server that has the scripts; None: the answer must be waited for."""
        if not self.breaker.closed or any(
            command.script and command.script.sha not in self._loaded for command in commands
        ):
            return None
        line = self._idle_line()
        if line is not None and len(line.owed) >= _MOST_OWED:
            self._idle.append(line)
            return None
        return line

    def _asked(self, commands: Sequence[Command]) -> list[Any] | StoreUnavailable:
        try:
            return self.ask(commands, list)
        except StoreUnavailable as error:
            return error

    def _admitted(self, exchange: Callable[..., list[Any]]) -> list[Any]:
        if not (self.breaker.closed or self.breaker.admits()):
            raise StoreUnavailable("the server failed a moment ago; it is asked again after a pause")
        try:
            return self._in_turn(exchange)
        except _Silent:  # this call did not fail: those who still wait will report
            raise
        except Exception as error:  # a parser may raise anything on garbage
            pass_others(error)
            self._failed()
            raise unavailable(error) from error

    def _failed(self) -> None:
        self.breaker.failed()
        self._drop_idle()

    def _in_turn(self, exchange: Callable[..., list[Any]]) -> list[Any]:
        """Return the replies, or raise after the time-out.

        A call without a place gives up one moment after the server has fallen silent.
        """
        waiters = self._waiters
        placed = waiters.enter()
        try:
            hurried = not placed and self.breaker.closed  # with the breaker open this is a probe, and may wait
            if hurried and waiters.silent:
                raise _Silent(_SILENT)  # noqa: TRY301  # its place is given back below, as for any other failure
            replies = exchange(hurried=hurried)
        except BaseException as error:
            if placed:
                (waiters.spend if _is_fault(error) else waiters.leave)()
            raise
        waiters.answered(placed=placed)
        return replies

    def _replies(self, commands: Sequence[Command], *, hurried: bool) -> list[Any]:
        replies = self._exchange(_packets(commands), len(commands), hurried=hurried)
        self._loaded.update([command.script.sha for command in commands if command.script])
        if not _has_refusals(replies):
            return replies
        again = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if again:
            whole = b"".join([packed(commands[i].parts(whole_text=True)) for i in again])
            texts = self._exchange(whole, len(again), hurried=hurried)
            for i, reply in zip(again, texts, strict=True):
                replies[i] = reply
        return replies

    def _exchange(self, packet: bytes, count: int, *, hurried: bool) -> list[Any]:
        """Send a packet of so many commands, and read the replies.

        Do it once more if the server had closed the idle connection that was used.

        To do it again is safe even for what changes marks, and even if the first attempt was carried out after all. An
        intent that is opened twice is one intent. Tags that are stamped or bumped twice only get higher generations.
        The steps of a root name the nonce and the state that they start from. A lease may look taken although it is
        ours, and a fill may look refused although it was not: both cost a query, never freshness.
        """
        line = self._idle_line()
        used = line is not None
        if line is None:
            line = _Line(self._connected(hurried=hurried))
        try:
            return self._exchange_on(line, packet, count, hurried=hurried)
        except redis.ConnectionError as error:
            if not used:
                raise
            pass_others(error)
            self._drop_idle()
        return self._exchange_on(_Line(self._connected(hurried=hurried)), packet, count, hurried=hurried)

    def _idle_line(self) -> _Line | None:
        """Return an idle connection of this process; None: there is none.

        On one that parent and child share, one of them would read the answers of the other. A program may fork without
        Python's hooks, and a thread of gevent's may go on in the child with a connection of the parent's.
        """
        pid = getpid()
        try:
            while (line := self._idle.pop()).pid != pid:
                pass
        except IndexError:
            return None
        return line

    def _exchange_on(self, line: _Line, packet: bytes, count: int, *, hurried: bool) -> list[Any]:
        connection = line.connection
        try:
            if hurried and line.owed:  # first, since these may have come before the server fell silent
                self._settle(line, self._read(connection, line.owing, hurried=True))
            # Use shows whether an idle connection has died; to ask first would cost a round trip.
            connection.send_packed_command((packet,), check_health=False)
            replies = self._read(connection, line.owing + count if line.owed else count, hurried=hurried)
        except BaseException as error:
            # After a time-out, or another interruption (KeyboardInterrupt, gevent.Timeout), the answer may still come.
            # The next call on this connection would take it for its own, so nobody may use the connection again.
            line.lose(error)
            raise
        own = self._settle(line, replies) if line.owed else replies
        self._idle.append(line)
        return own

    def _read(self, connection: Any, count: int, *, hurried: bool) -> list[Any]:
        """Read replies.

        A refusal of the server is returned as a value, since the replies of other commands follow it.
        """
        sock = connection._sock  # noqa: SLF001
        try:
            first = self._first_part(sock) if hurried else b""
            return read_replies(sock.recv, count, connection._parser.parse_error, first)  # noqa: SLF001
        except TimeoutError:
            raise redis.TimeoutError("the server did not answer in time") from None
        except OSError as error:
            raise redis.ConnectionError(str(error)) from error

    def _settle(self, line: _Line, replies: list[Any]) -> list[Any]:
        """Tell who has sent something on this connection what came of it, and return the replies that are left."""
        owed, line.owed = line.owed, []
        at = 0
        for one in owed:
            some, at = replies[at : at + one.replies], at + one.replies
            refusal = next((reply for reply in some if isinstance(reply, redis.RedisError)), None)
            if isinstance(refusal, NoScriptError):
                self._loaded.clear()
            one.tell(some if refusal is None else unavailable(refusal))
        return replies[at:]

    def _first_part(self, sock: Any) -> bytes:
        """Wait for the beginning of a reply, for as long as other calls are answered."""
        waiters = self._waiters
        until_s = time.monotonic() + (waiters.timeout_s or math.inf)
        answers = waiters.answers
        try:
            while True:
                # Look twice: on a busy machine this thread may wake long after the answer came.
                for timeout_s in (waiters.moment_s, 0.0):
                    sock.settimeout(timeout_s)
                    with suppress(TimeoutError, BlockingIOError, SSLWantReadError):
                        return bytes(sock.recv(FIRST))
                if waiters.answers == answers:
                    waiters.fell_silent(answers)
                    raise _Silent(_SILENT)
                if time.monotonic() >= until_s:
                    raise redis.TimeoutError("the server did not answer in time, although it answered other calls")
                answers = waiters.answers
        finally:
            sock.settimeout(waiters.timeout_s)

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
        if (gives_back := expected.check(*self._read(connection, 2, hurried=False))) is not None:
            connection.send_packed_command([packed(gives_back)])
            self._read(connection, 1, hurried=False)

    def close(self) -> None:
        """Close the idle connections, after what came of all that was sent on them is read.

        A connection that is closed with something unread is cut off, and with it what the server has not done yet.
        """
        while (line := self._idle_line()) is not None:
            try:
                if line.owed:
                    self._settle(line, self._read(line.connection, line.owing, hurried=False))
                line.connection.disconnect()
            except Exception as error:  # noqa: BLE001  # it is closed anyway, and its own callers are told
                line.lose(error)
                self._drop_idle()  # to wait for each of them would take long
                pass_interruption(error)

    def _drop_idle(self) -> None:
        """Give the idle connections up: one has failed, and the others are no better."""
        self._loaded.clear()  # another server may answer next
        while True:
            try:
                self._idle.pop().lose(ConnectionError("another connection has failed"))
            except IndexError:
                return


def _let_wait(connection: Any, timeout_s: float | None) -> None:
    """Give a connection that was opened in a hurry the time-out of all others.

    redis-py itself has no way to do that.
    """
    connection.socket_timeout = timeout_s
    connection._sock.settimeout(timeout_s)  # noqa: SLF001


def _packets(commands: Sequence[Command]) -> bytes:
    return b"".join([packet(command) for command in commands])


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
    return isinstance(error, _GONE) or _says(error, *_NO_SERVER)


def _says(error: Exception, *codes: str) -> bool:
    """Tell whether *error* is one of these refusals.

    Redis before 7 puts the refusal of a script's command inside a text.
    """
    text = str(error)
    return any(text.startswith(code) or f" -{code} " in text for code in codes)
