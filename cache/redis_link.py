"""Connections to Valkey or Redis: one round trip at a time, none of which can read another's answer.

The only module of ``cache`` that imports ``redis``. redis-py connects, authenticates, speaks TLS, asks Sentinel and
keeps the map of a cluster; packed commands are sent and replies read on its connections directly, which saves a good
part of what its general path costs (``benchmarks.redis_store`` measures both).
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.connection import parse_url
from redis.exceptions import AskError, MovedError, NoScriptError, RedisClusterException
from redis.retry import Retry
from redis.sentinel import Sentinel

from tidegate.cache.breaker import Breaker, Pauses
from tidegate.cache.command import packed, packet
from tidegate.cache.store import StoreFull, StoreUnavailable
from tidegate.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tidegate.cache.command import Command, Link
    from tidegate.cache.redis_url import Target, Timeouts

T = TypeVar("T")

_MOST_IDLE: Final = 128
_CLUSTER_ERRORS: Final = (redis.RedisError, RedisClusterException, OSError)  # the second is none of the first
_NO_SERVER: Final = ("NOTMASTER", "READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN")


Client: TypeAlias = "redis.Redis | redis.RedisCluster"


class _Moved(StoreUnavailable):
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
            raise StoreUnavailable(f"{type(error).__name__}: {error}") from error
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


def _named(command: Command) -> tuple[str | bytes, ...]:
    """As redis-py's clusters want it: the command's name is a text."""
    name, *parts = command.parts(whole_text=True)
    return (name.decode("ascii"), *parts)


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
                raise _Moved(f"{reply}: of a cluster, whose URL would be redis+cluster://")
            # Out of memory or not permitted: others may be served. No master: nobody will be.
            gone = isinstance(reply, redis.ReadOnlyError) or str(reply).startswith(_NO_SERVER)
            (failed if gone else succeeded)()
            kind = StoreFull if isinstance(reply, redis.OutOfMemoryError) else StoreUnavailable
            raise kind(f"{type(reply).__name__}: {reply}")


class ClusterLink:
    """The masters of a cluster, each with its own circuit breaker.

    Args:
        client: keeps the map of slots, and follows what moves.
        pauses: of the circuit breakers.
    """

    def __init__(self, client: redis.RedisCluster, pauses: Pauses) -> None:
        self._client = client
        self._pauses = pauses
        self._links: dict[str, ServerLink] = {}
        self._mapping = threading.Lock()

    def ask(self, commands: Sequence[Command], decode: Callable[[list[Any]], T]) -> T:
        """See :meth:`Link.ask`."""
        if len(commands) == 1:
            return self._ask_node(self._node(commands[0]), commands, decode)
        by_node: dict[str, list[int]] = {}
        for i, command in enumerate(commands):
            by_node.setdefault(self._node(command).name, []).append(i)
        replies: list[Any] = [None] * len(commands)
        for places in by_node.values():
            some = [commands[i] for i in places]
            for i, reply in zip(places, self._ask_node(self._node(some[0]), some, list), strict=True):
                replies[i] = reply
        return decode(replies)

    def _node(self, command: Command) -> ClusterNode:
        client = self._client
        try:
            return client.nodes_manager.get_node_from_slot(client.keyslot(command.keys[0]))
        except _CLUSTER_ERRORS as error:
            self._refresh()
            raise StoreUnavailable(f"no server for the slot: {error}") from error

    def _ask_node(self, node: ClusterNode, commands: Sequence[Command], decode: Callable[[list[Any]], T]) -> T:
        link = self._links.get(node.name)
        if link is None:
            link = self._links.setdefault(node.name, ServerLink(self._client.get_redis_connection(node), self._pauses))
        try:
            return link.ask(commands, decode)
        except _Moved:
            return self._follow(commands, decode)
        except StoreUnavailable:
            self._refresh()
            raise

    def _follow(self, commands: Sequence[Command], decode: Callable[[list[Any]], T]) -> T:
        """Slots are moving: let redis-py find them. What was done already may be done again; see ``_exchange``."""
        try:
            return decode([self._client.execute_command(*_named(c)) for c in commands])
        except Exception as error:
            raise StoreUnavailable(f"{type(error).__name__}: {error}") from error

    def _refresh(self) -> None:
        """Learn the map again in a thread of its own: it takes round trips, to servers that may not answer."""
        if self._mapping.acquire(blocking=False):
            threading.Thread(target=self._learn, name="tidegate-slots", daemon=True).start()

    def _learn(self) -> None:
        try:
            self._client.nodes_manager.initialize()
        except _CLUSTER_ERRORS:
            pass  # the next failure asks again
        finally:
            self._mapping.release()

    def close(self) -> None:
        """See :meth:`Link.close`."""
        for link in list(self._links.values()):
            link.close()


def client_of(target: Target, timeouts: Timeouts) -> Client:
    """A redis-py client, which never waits longer than *timeouts* and never tries again of its own accord.

    Raises:
        SettingsError: an option of the URL is unknown, or its value cannot work.
        StoreUnavailable: a cluster does not answer.
    """
    waits = {
        "socket_timeout": timeouts.read_ms / 1000,
        "socket_connect_timeout": timeouts.connect_ms / 1000,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    try:
        if target.kind == "sentinel":
            return _behind_sentinel(target, waits)
        if target.kind == "cluster":
            return redis.RedisCluster.from_url(target.server_url, **waits, startup_nodes=_nodes(target))
        client: redis.Redis = redis.Redis.from_url(target.server_url, **waits)
        client.connection_pool.connection_class(**client.connection_pool.connection_kwargs)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"cache.url is {target.shown}: {error}") from None
    except _CLUSTER_ERRORS as error:
        raise StoreUnavailable(f"{target.shown}: {error}") from error
    return client


def _nodes(target: Target) -> list[ClusterNode]:
    return [ClusterNode(host, port) for host, port in target.hosts]


def _behind_sentinel(target: Target, waits: dict[str, Any]) -> redis.Redis:
    options: dict[str, Any] = parse_url(target.server_url)
    for name in ("host", "port", "connection_class"):
        options.pop(name, None)
    sentinel = Sentinel(target.hosts, sentinel_kwargs=waits, **waits, **options, ssl=target.tls)
    client: redis.Redis = sentinel.master_for(target.service)
    return client


def link_of(client: Client, pauses: Pauses) -> Link:
    """A link by way of a ready client."""
    return ClusterLink(client, pauses) if isinstance(client, redis.RedisCluster) else ServerLink(client, pauses)
