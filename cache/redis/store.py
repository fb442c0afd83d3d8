"""The store on Valkey or Redis >= 6.2: single, behind Sentinel, or a cluster. The rules are in ``scripts``.

Every method is one round trip, a look-up two at most (on a cluster, for several tenants, one to each server concerned).
Two precautions are needed only here, and not in ``MemoryStore``: marks count as lost if another server has made them,
or this one in another life (its replication id differs); and a server that is no master answers nothing.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from tidegate.cache.marks import Noted, Refusal
from tidegate.cache.memory_store import MOST_BYTES, MOST_TAGS
from tidegate.cache.redis import scripts
from tidegate.cache.redis.breaker import Pauses
from tidegate.cache.redis.client import client_of
from tidegate.cache.redis.cluster import link_of
from tidegate.cache.redis.keys import Keys, decoded, encoded, token, untoken
from tidegate.cache.redis.lookups import REFUSALS, lookup_of
from tidegate.cache.redis.plain_reads import PlainReads
from tidegate.cache.redis.push_stream import pushes_of
from tidegate.cache.redis.same_server import ExpectedServer, ask_server, name_server
from tidegate.cache.redis.server_facts import servers_of
from tidegate.cache.redis.url import Target, Timeouts
from tidegate.cache.redis.wire import Command
from tidegate.cache.store import Miss, OtherHistory, StoreRefused, StoreUnavailable
from tidegate.position import History, Origin, Position

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from tidegate.cache.redis.client import Client
    from tidegate.cache.redis.push_stream import RedisPushes
    from tidegate.cache.redis.scripts import Script
    from tidegate.cache.redis.server_facts import ServerFacts
    from tidegate.cache.redis.wire import Link
    from tidegate.cache.store import CacheServer, Change, Filling, Lookup
    from tidegate.position import AskedFor

T = TypeVar("T")

_TAGS_KEPT: Final = 4096
_CHANGES_KEPT: Final = 64
"""A stamp has the tags of an intent that was opened a moment ago."""
_FEW_TAGS: Final = 64
"""More tags than that are not kept: a transaction may have 10,000 of them."""
_HISTORIES_KEPT: Final = 64
_HISTORY: Final = re.compile(rb"\d+\.[0-9a-f]*").fullmatch
_REFUSED: Final = 0
"""What a script returns whose caller's data are not those of the marks."""
_OTHER_HISTORY: Final = (
    "the marks in the cache are of another history of the database: another server was promoted, or it is left behind, "
    "or was restored; 'tidegate doctor' says which"
)
MARKS_TTL_MS: Final = 7 * 24 * 3600 * 1000


class RedisStore:
    """Keep entries, marks and leases on a server. Threads may share a store, and a forked process may go on using it.

    Args:
        client: a redis-py client, for one server or a cluster; its time-outs are those of the store.
        ns: the namespace of the database, 1 to 40 hexadecimal digits in lower case.
        most_tags: how many fields a tenant may have before the oldest are dropped.
        marks_ttl_ms: how long marks stay after the last write, in milliseconds, and at least half as long after the
            last fill: if each fill renewed them, each would be a push to all near caches. An entry whose marks are gone
            is void.
        most_bytes: the size of the largest answer that is stored, in bytes: body and large values together.
        pauses: when the circuit breaker opens, and for how long.
        name: what the server is called in messages.

    Raises:
        ValueError: *ns* is something else.
    """

    def __init__(
        self,
        client: Client,
        ns: str,
        *,
        most_tags: int = MOST_TAGS,
        marks_ttl_ms: int = MARKS_TTL_MS,
        most_bytes: int = MOST_BYTES,
        pauses: Pauses = Pauses(),  # noqa: B008  # frozen
        name: str = "redis",
    ) -> None:
        self.name: Final = name
        self._client = client
        self._keys = Keys(ns)
        self._expected = ExpectedServer(self._keys.server())
        self._link: Link = link_of(client, pauses, self._expected)
        self._plain = PlainReads(self._keys, self._link)
        self._bounds = (b"%d" % marks_ttl_ms, b"%d" % most_tags)
        self._most_bytes = most_bytes

    @classmethod
    def from_url(
        cls, url: str, ns: str, *, connect_timeout_ms: int = 50, read_timeout_ms: int = 50, **bounds: Any
    ) -> Self:
        """Connect as *url* says (see :mod:`tidegate.cache.redis.url`).

        One server is connected to when it is first asked. A cluster is asked for its map at once.

        Args:
            url: of the server, the sentinels or the cluster.
            ns: the namespace of the database, 1 to 40 hexadecimal digits in lower case.
            connect_timeout_ms: how long to wait for a connection, in milliseconds.
            read_timeout_ms: how long to wait for an answer, in milliseconds.
            bounds: the other arguments of the constructor.

        Raises:
            SettingsError: the URL cannot work.
            StoreUnavailable: the cluster does not answer.
        """
        target = Target.of_url(url)
        client = client_of(target, Timeouts(connect_timeout_ms, read_timeout_ms))
        return cls(client, ns, name=target.shown, **bounds)

    def close(self) -> None:
        """Close the idle connections. The store connects again if it is used again."""
        self._link.close()
        client: Any = self._client
        if not hasattr(client, "get_primaries"):
            client.connection_pool.disconnect()

    def pushes(self) -> RedisPushes | None:
        """Return a stream of what happens to marks, for a near cache.

        None for a cluster: its near caches always ask.
        """
        return pushes_of(self._client, self._keys, self._expected.has_life)

    def server(self) -> CacheServer:
        """Return which server this is, whether or not it is the one that this store expects.

        Raises:
            StoreUnavailable: the server does not answer.
        """
        client: Any = self._client
        return ask_server(client.execute_command, self._keys.server(), cluster=hasattr(client, "get_primaries"))

    def name_server(self, name: str) -> str:
        """Give the server the id *name*, if it has none, and return the one that it has.

        Raises:
            StoreUnavailable: the server does not answer.
        """
        client: Any = self._client
        return name_server(client.execute_command, self._keys.server(), name)

    def expect(self, server: CacheServer | None, why: str = "") -> None:
        """Use no other server than *server* from now on; None: use none, because of *why*."""
        self._expected.server, self._expected.why = server, why if server is None else None
        self._link.close()

    @property
    def expected(self) -> CacheServer | None:
        """Return the server that is used; None: none is, or it has turned out to be another one."""
        return self._expected.server if self._expected.why is None else None

    def servers(self) -> tuple[ServerFacts, ...]:
        """Return what the server says of itself; on a cluster, what each of its masters says.

        Raises:
            StoreUnavailable: one of the servers does not answer, or not as a Redis would.
        """
        return servers_of(self._client)

    def lookup(self, tenant: str, entry: str, guard: str, asked: AskedFor, *, refresh: bool = False) -> Lookup:
        """Return the entry if it is fresh, else what a miss must note; see :meth:`Store.lookup`."""
        if not refresh:
            self._expected.refuse()
            found = self._plain.lookup(tenant, entry, guard, asked)
            if found is not None:
                return found
        args: tuple[bytes, ...] = (_field(guard), b"1" if refresh else b"0", _history(asked.history))
        if asked.epoch is not None:
            args = (*args, b"%d" % asked.epoch)
        learn = partial(self._plain.learn, tenant, entry, guard)
        return self._ask(
            (Command(scripts.LOOKUP, self._keys.both(tenant, entry), args),), lambda found: lookup_of(found, learn)
        )

    def lease(
        self, tenant: str, entry: str, miss: Miss, token: str, lease_ms: int, *, unless_filled: bool = False
    ) -> bool:
        """Take the right to fill, and tell whether the caller has it now; see :meth:`Store.lease`."""
        noted = _noted(miss.noted)
        value = b" ".join((b"1", *noted, _tokens("k", token)))
        args = (noted[0], b"%d" % miss.guard_generation, value, b"%d" % lease_ms)
        keys = (self._keys.lease(tenant, entry), self._keys.entry(tenant, entry))
        return bool(self._one(scripts.LEASE, keys, (*args, noted[1] if unless_filled else b"")))

    def holder(self, tenant: str, entry: str) -> str | None:
        """Return the token of whoever has the right to fill; None: nobody has it."""
        return self._link.ask((Command(None, (self._keys.lease(tenant, entry),)),), _holder)

    def release(self, tenant: str, entry: str, token: str) -> None:
        """Give the lease back, if *token* holds it."""
        self._all((self._releasing(tenant, entry, token),))

    def _releasing(self, tenant: str, entry: str, token: str) -> Command:
        return Command(scripts.RELEASE, (self._keys.lease(tenant, entry),), (_tokens("k", token),))

    def fill(self, tenant: str, filling: Filling) -> Refusal | None:
        """Store an answer, or return the reason why it was refused; see :meth:`Store.fill`."""
        if filling.size > self._most_bytes:
            self.release(tenant, filling.entry, filling.token)
            return Refusal.TOO_LARGE
        return REFUSALS[self._ask((self._filling(tenant, filling),), lambda replies: _number(replies[0]))]

    def fill_soon(
        self, tenant: str, filling: Filling, told: Callable[[Refusal | StoreUnavailable | None], None]
    ) -> None:
        """Store an answer, without waiting to hear of it; see :meth:`Store.fill_soon`."""
        if filling.size > self._most_bytes:
            self._post((self._releasing(tenant, filling.entry, filling.token),), lambda _answer: None)
            told(Refusal.TOO_LARGE)
            return

        def heard(answer: list[int] | StoreUnavailable) -> None:
            told(answer if isinstance(answer, StoreUnavailable) else REFUSALS[answer[0]])

        self._post((self._filling(tenant, filling),), heard)

    def _filling(self, tenant: str, filling: Filling) -> Command:
        of, name = self._keys, filling.entry
        keys = [of.marks(tenant), of.entry(tenant, name), of.lease(tenant, name)]
        keys += [of.blob(tenant, blob) for blob in filling.blobs]
        header = b" ".join((b"1", *_noted(filling.noted), *_fields(filling.tags)))
        args = (_origin(filling.origin), _tokens("k", filling.token), b"%d" % filling.ttl_ms, self._bounds[0])
        entry = b"%b\n%b" % (header, filling.body)
        return Command(scripts.FILL, keys, (*args, entry, *filling.blobs.values()))

    def check(self, tenant: str, noted: Noted, tags: Sequence[str], asked: AskedFor) -> bool:
        """Tell whether an entry with these marks is fresh now; see :meth:`Store.check`."""
        self._expected.refuse()
        if (fresh := self._plain.check(tenant, noted, tuple(tags), asked)) is not None:
            return fresh
        known = b"" if asked.epoch is None else b"%d" % asked.epoch
        args = (*_noted(noted), _history(asked.history), known, *_fields(tags))
        return bool(self._one(scripts.CHECK, (self._keys.marks(tenant),), args))

    def blobs(self, tenant: str, hashes: Sequence[str]) -> list[bytes | None]:
        """Return large values by the hash of their content; None for each that is gone."""
        if not hashes:
            return []
        keys = [self._keys.blob(tenant, name) for name in hashes]
        return self._ask((Command(None, keys),), lambda replies: _blobs(replies, len(keys)))

    def make_root(self, tenant: str, nonce: str, origin: Origin) -> None:
        """Store a pending root, unless there is one of this life of the server and of *origin* or a newer one."""
        self._alter(scripts.MAKE_ROOT, tenant, _tokens("n", nonce), _origin(origin))

    def complete_root(self, tenant: str, nonce: str, xid: str, position: Position) -> None:
        """Put the pending root of *nonce* into quarantine; see :meth:`Store.complete_root`."""
        self._alter(scripts.COMPLETE_ROOT, tenant, _tokens("n", nonce), _tokens("w", xid), _position(position))

    def end_quarantine(self, tenant: str, nonce: str, position: Position) -> None:
        """Make the root of *nonce* clean, and void everything that was noted before."""
        self._alter(scripts.END_QUARANTINE, tenant, _tokens("n", nonce), _position(position))

    def open(self, changes: Sequence[Change], xid: str, origin: Origin, nonces: Sequence[str]) -> None:
        """Open the intents of a transaction; see :meth:`Store.open`.

        Raises:
            OtherHistory: see :meth:`Store.open`.
            StoreRefused: the server does not take the intents. All that it had of these tenants is void, if it could
                forget that.
        """
        try:
            self._tell(
                self._altering(scripts.OPEN, change.tenant, *_change(change, xid, _tokens("n", nonce), _origin(origin)))
                for change, nonce in zip(changes, nonces, strict=True)
            )
        except StoreRefused:
            with suppress(StoreUnavailable):
                self.forget([change.tenant for change in changes])
            raise

    def stamp(self, changes: Sequence[Change], xid: str, origin: Origin, position: Position) -> None:
        """Stamp the tags of a transaction whose COMMIT has returned, and close its intents; see :meth:`Store.stamp`."""
        self._tell(self._stamping(changes, xid, origin, position))

    def stamp_soon(
        self,
        changes: Sequence[Change],
        xid: str,
        origin: Origin,
        position: Position,
        failed: Callable[[StoreUnavailable], None],
    ) -> None:
        """Stamp the tags of a transaction, without waiting to hear of it; see :meth:`Store.stamp_soon`."""

        def heard(answer: list[int] | StoreUnavailable) -> None:
            if isinstance(answer, StoreUnavailable):
                failed(answer)
            elif _REFUSED in answer:
                failed(OtherHistory(_OTHER_HISTORY))

        self._post(self._stamping(changes, xid, origin, position), heard)

    def _stamping(self, changes: Sequence[Change], xid: str, origin: Origin, position: Position) -> list[Command]:
        at, source = _position(position), _origin(origin)
        return [self._altering(scripts.STAMP, c.tenant, *_change(c, xid, at, source)) for c in changes]

    def resolve(self, tenant: str, xids: Collection[str], origin: Origin, position: Position) -> None:
        """Close the intents of transactions that have ended in *origin*; see :meth:`Store.resolve`."""
        ended = (_tokens("x", xid) for xid in xids)
        self._alter(scripts.RESOLVE, tenant, _origin(origin), _position(position), *ended)

    def bump(self, changes: Sequence[Change], origin: Origin | None, position: Position) -> None:
        """Void now what depends on *changes*; see :meth:`Store.bump`.

        A server that refuses forgets the tenants' marks instead, if it can, which voids all they have.
        """
        at, source = _position(position), b"" if origin is None else _origin(origin)
        try:
            self._tell(self._altering(scripts.BUMP, c.tenant, *_change(c, "", at, source)) for c in changes)
        except StoreRefused:
            self.forget([change.tenant for change in changes])

    def forget(self, tenants: Sequence[str]) -> None:
        """Forget the marks of these tenants: that takes no memory, and voids all they have.

        A server that is full, or refuses for another reason, goes on answering. So what is changed now would be served
        as it was before the change, for as long as it refuses.
        """
        self._all(Command(scripts.LOSE, (self._keys.marks(tenant),)) for tenant in tenants)

    def newest_history(self, shard: str, history: History | None = None) -> History | None:
        """Return the newest history that a gate has named here; see :meth:`Store.newest_history`."""
        key = (self._keys.history(shard),)
        known = self._ask((Command(None, key),), lambda replies: _newest(_blobs(replies, 1)))
        if history is None or known == history:  # mostly, and then no script is run
            return known
        return self._ask((Command(scripts.NEWEST, key, (_history(history),)),), _newest)

    def switched_off(self) -> frozenset[str]:
        """Return the names of what is switched off for every gate on this database."""
        return self._ask((Command(None, (self._keys.switches(),)),), _switches)

    def switch(self, name: str, *, off: bool) -> None:
        """Switch the cache off or on; see :meth:`Store.switch`."""
        self._one(scripts.SWITCH, (self._keys.switches(),), (_tokens("o", name), b"1" if off else b"0"))

    def _altering(self, script: Script, tenant: str, *args: bytes) -> Command:
        return Command(script, (self._keys.marks(tenant),), (*self._bounds, *args))

    def _alter(self, script: Script, tenant: str, *args: bytes) -> None:
        self._all((self._altering(script, tenant, *args),))

    def _tell(self, commands: Iterable[Command]) -> None:
        if _REFUSED in self._all(commands):
            raise OtherHistory(_OTHER_HISTORY)

    def _all(self, commands: Iterable[Command]) -> list[int]:
        listed = list(commands)
        return self._ask(listed, lambda replies: [_number(reply) for reply in replies]) if listed else []

    def _ask(self, commands: Sequence[Command], decode: Callable[[list[Any]], T]) -> T:
        self._expected.refuse()
        return self._link.ask(commands, decode)

    def _post(self, commands: Sequence[Command], heard: Callable[[list[int] | StoreUnavailable], None]) -> None:
        """Send commands that answer with a number, and do not wait."""

        def told(replies: list[Any] | StoreUnavailable) -> None:
            try:
                heard(replies if isinstance(replies, StoreUnavailable) else [_number(reply) for reply in replies])
            except TypeError as error:
                heard(StoreUnavailable(f"the server's reply makes no sense: {error}"))

        try:
            self._expected.refuse()
        except StoreUnavailable as error:
            told(error)
        else:
            self._link.post(commands, told)

    def _one(self, script: Script, keys: Sequence[bytes], args: Sequence[bytes]) -> int:
        return self._ask((Command(script, keys, args),), lambda replies: _number(replies[0]))


def _tokens(letter: str, text: str) -> bytes:
    return encoded(token(letter, text))


def _noted(noted: Noted) -> tuple[bytes, bytes]:
    return _tokens("n", noted.nonce), b"%d" % noted.counter


@lru_cache(maxsize=_TAGS_KEPT)
def _field(tag: str) -> bytes:
    return _tokens("t", tag)


def _fields(tags: Iterable[str]) -> list[bytes]:
    return [_tokens("t", tag) for tag in tags]


def _origin(origin: Origin) -> bytes:
    return _tokens("", origin.text())


@lru_cache(maxsize=_HISTORIES_KEPT)
def _history(history: History) -> bytes:
    return history.text().encode("ascii")


def _newest(replies: list[Any]) -> History | None:
    named: bytes | None = replies[0]
    return None if named is None or _HISTORY(named) is None else History.of_text(decoded(named))


def _position(position: Position) -> bytes:
    return position.text().encode("ascii")


def _change(change: Change, xid: str, nonce_or_position: bytes, origin: bytes) -> tuple[bytes, ...]:
    whole = b"1" if change.whole else b"0"
    fields = _sorted_fields if len(change.tags) <= _FEW_TAGS else _sorted_fields.__wrapped__
    return (_tokens("x", xid), whole, nonce_or_position, origin, *fields(change.tags))


@lru_cache(maxsize=_CHANGES_KEPT)
def _sorted_fields(tags: frozenset[str]) -> tuple[bytes, ...]:
    return tuple(sorted(_fields(tags)))


def _number(reply: object) -> int:
    if type(reply) is not int:
        raise TypeError(f"expected an integer, not {type(reply).__name__}")
    return reply


def _blobs(replies: list[Any], count: int) -> list[bytes | None]:
    blobs: list[bytes | None] = replies[0]
    if len(blobs) != count or not all(blob is None or type(blob) is bytes for blob in blobs):
        raise TypeError(f"expected {count} large values, each bytes or None")
    return blobs


def _holder(replies: list[Any]) -> str | None:
    (lease,) = _blobs(replies, 1)
    return None if lease is None else untoken(decoded(lease).rpartition(" ")[2])


def _switches(replies: list[Any]) -> frozenset[str]:
    (names,) = _blobs(replies, 1)
    return frozenset(map(untoken, filter(None, decoded(names or b"").split(" "))))
