"""A cluster: a link to each of its masters, and the map of slots that says which of them holds a key."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

import redis

from tidegate.cache.redis.client import CLUSTER_ERRORS
from tidegate.cache.redis.link import Moved, ServerLink, pass_others, unavailable
from tidegate.cache.store import StoreRefused, StoreUnavailable
from tidegate.error_text import error_text
from tidegate.fork_hooks import reset_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis.cluster import ClusterNode

    from tidegate.cache.redis.breaker import Pauses
    from tidegate.cache.redis.client import Client
    from tidegate.cache.redis.same_server import ExpectedServer
    from tidegate.cache.redis.wire import Command, Link, Plain

T = TypeVar("T")


class ClusterLink:
    """Ask the masters of a cluster, each with its own circuit breaker.

    Args:
        client: keeps the map of slots, and follows slots that move.
        pauses: when a circuit breaker opens, and for how long.
    """

    def __init__(self, client: redis.RedisCluster, pauses: Pauses) -> None:
        self._client = client
        self._pauses = pauses
        self._links: dict[str, ServerLink] = {}
        self._forked()
        reset_after_fork(self._forked)

    def _forked(self) -> None:
        self._mapping = threading.Lock()  # a new one: the parent may have been learning the map at the fork

    def ask(self, commands: Sequence[Command], decode: Callable[[list[Any]], T]) -> T:
        """Send every command to the master of its slot, and return the decoded replies; see :meth:`Link.ask`."""
        if len(commands) == 1:
            return self._ask_node(self._node(commands[0].keys[0]), commands, decode)
        by_node: dict[str, list[int]] = {}
        for i, command in enumerate(commands):
            by_node.setdefault(self._node(command.keys[0]).name, []).append(i)
        replies: list[Any] = [None] * len(commands)
        for places in by_node.values():
            some = [commands[i] for i in places]
            for i, reply in zip(places, self._ask_node(self._node(some[0].keys[0]), some, list), strict=True):
                replies[i] = reply
        return decode(replies)

    def ask_plain(self, plain: Plain, judge: Callable[..., T | None]) -> T | None:
        """Send plain commands to the master of their slot; see :meth:`Link.ask_plain`."""
        try:
            return self._link(self._node(plain.key)).ask_plain(plain, judge)
        except StoreUnavailable:
            self._refresh()
            raise

    def post(self, commands: Sequence[Command], told: Callable[[list[Any] | StoreUnavailable], None]) -> None:
        """Send all commands, and wait for the replies: slots may be moving; see :meth:`Link.post`."""
        try:
            replies = self.ask(commands, list)
        except StoreUnavailable as error:
            told(error)
        else:
            told(replies)

    def _node(self, key: bytes) -> ClusterNode:
        client = self._client
        try:
            return client.nodes_manager.get_node_from_slot(client.keyslot(key))
        except CLUSTER_ERRORS as error:
            self._refresh()
            raise StoreUnavailable(f"no server of the cluster has the slot: {error_text(error)}") from error

    def _ask_node(self, node: ClusterNode, commands: Sequence[Command], decode: Callable[[list[Any]], T]) -> T:
        try:
            return self._link(node).ask(commands, decode)
        except Moved:
            return self._follow(commands, decode)
        except StoreRefused:
            raise
        except StoreUnavailable:
            self._refresh()
            raise

    def _link(self, node: ClusterNode) -> ServerLink:
        link = self._links.get(node.name)
        if link is None:
            link = self._links.setdefault(node.name, ServerLink(self._client.get_redis_connection(node), self._pauses))
        return link

    def _follow(self, commands: Sequence[Command], decode: Callable[[list[Any]], T]) -> T:
        """Let redis-py find the slots, because they are moving.

        A command that was carried out already may be carried out again; ``ServerLink._exchange`` says why that is safe.
        """
        try:
            return decode([self._client.execute_command(*_named(c)) for c in commands])
        except Exception as error:
            pass_others(error)
            raise unavailable(error) from error

    def _refresh(self) -> None:
        """Learn the map again, in a thread of its own: that takes round trips, to servers that may not answer."""
        if self._mapping.acquire(blocking=False):
            threading.Thread(target=self._learn, name="tidegate-slots", daemon=True).start()

    def _learn(self) -> None:
        try:
            self._client.nodes_manager.initialize()
        except CLUSTER_ERRORS:
            pass  # the next failure asks again
        finally:
            self._mapping.release()

    def close(self) -> None:
        """Close the idle connections to all masters."""
        for link in list(self._links.values()):
            link.close()


def _named(command: Command) -> tuple[str | bytes, ...]:
    """Return a command as redis-py's clusters want it: its name is a text."""
    name, *parts = command.parts(whole_text=True)
    return (name.decode("ascii"), *parts)


def link_of(client: Client, pauses: Pauses, expected: ExpectedServer) -> Link:
    """Return a link that asks by way of *client*, which is ready.

    The servers of a cluster are not compared with an expected one: they come and go.
    """
    if isinstance(client, redis.RedisCluster):
        return ClusterLink(client, pauses)
    return ServerLink(client, pauses, expected)
