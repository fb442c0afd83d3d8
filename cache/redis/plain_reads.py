"""Look-ups and checks by plain commands, in one packet: whatever can be decided without a script.

A script takes its server about twice as long as the commands in it. So a process keeps, for an entry that it has seen,
the tags of its answer, and the next time sends

    GET entry | HMGET marks root guard tags | TIME | INFO replication

Others' commands may come in between, and the order is what makes it sound. The marks are read after the entry: if they
void nothing then, the entry is as good as one that was read at that moment. All marks are read by one command, so they
are of one moment too. The role and the replication id are read after the marks. A server that stops to be a replica
gets a new id, and one that becomes a replica gets its master's; so if it is a master now, under the id that the root
names, it was one when the marks were read. Marks of a server that was none then would be void by their id.

What is not plainly decided (no root, other tags than before, a record that does not parse, a refusal) is asked of the
script, which also removes what is void.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tidegate.cache.redis.keys import encoded, token
from tidegate.cache.redis.link import pass_others
from tidegate.cache.redis.lookups import head_of, miss_of
from tidegate.cache.redis.wire import Plain, packed
from tidegate.cache.store import Hit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.cache.marks import Noted
    from tidegate.cache.redis.keys import Keys
    from tidegate.cache.redis.wire import Link
    from tidegate.cache.store import Lookup, Miss
    from tidegate.position import AskedFor, History

_MOST_KEPT: Final = 8192
_GIVEN_UP: Final = 512
"""How many of those kept longest are given up when there are too many."""
_LONGEST_PACKET: Final = 1536
"""A call whose tags make a longer packet, in bytes, is left to the script: what is kept here must stay small."""
_LONGEST_VOID: Final = 16_384
"""Where a void entry is longer, in bytes, the script is asked from then on: it sends no entry that is void."""
_HISTORIES_KEPT: Final = 64
_NO_ENTRY, _NONCE, _STATE, _FLOOR, _BUMPED, _INTENT, _ORIGIN, _EPOCH = 1, 2, 3, 4, 5, 6, 9, 10
_POSITION: Final = rb"[0-9a-f]{8}\.[0-9a-f]{16}"
_ROOT: Final = re.compile(
    rb"1 ([cpq]) \d+ (\d+) " + _POSITION + rb" \d+ ([0-9a-f]+) (n\S*) w\S* o(\d+)\.(\d+\.[0-9a-f]*)\.\S*( .*)?"
).fullmatch
_MARK: Final = re.compile(rb"(\d+) " + _POSITION + rb"( .*)?").fullmatch
_HEAD: Final = re.compile(rb"1 (n\S*) (\d+)((?: t\S*)*)").fullmatch
_TIME: Final = packed((b"TIME",))
_SERVER: Final = packed((b"INFO", b"replication"))
_MASTER: Final = b"role:master\r\n"


@dataclass(frozen=True, slots=True)
class _Fresh:
    """The finding that marks void nothing of an entry: it holds while all of this is the same."""

    head: bytes
    noted: Noted
    values: list[Any]
    asked: AskedFor
    server: bytes

    def holds(self, values: list[Any], asked: AskedFor, info: bytes) -> bool:
        """Tell whether marks, caller and server are the same."""
        return values == self.values and self.server in info and _MASTER in info and asked == self.asked


class _Void(NamedTuple):
    """A miss whose entry is there and void; how long the entry is, in bytes."""

    miss: Miss
    size: int


class _Known:
    """What a process keeps of an entry, or of what a near answer depends on."""

    __slots__ = ("fresh", "guard", "packet", "tags", "texts")

    def __init__(self, packet: Plain, guard: str, tags: bytes, texts: tuple[str, ...]) -> None:
        self.packet: Final = packet
        self.guard: Final = guard
        self.tags: Final = tags
        """As they stand in the first line of the entry."""
        self.texts: Final = texts
        self.fresh: _Fresh | None = None


class PlainReads:
    """Look up and check by plain commands.

    Args:
        keys: names the keys of the namespace.
        link: asks the server.
    """

    def __init__(self, keys: Keys, link: Link) -> None:
        self._keys: Final = keys
        self._link: Final = link
        self._entries: dict[tuple[str, str], _Known] = {}
        self._checks: dict[tuple[str, tuple[str, ...]], _Known] = {}

    def lookup(self, tenant: str, entry: str, guard: str, asked: AskedFor) -> Lookup | None:
        """Return what the store's look-up would; None: the script must decide."""
        known = self._entries.get((tenant, entry))
        if known is None or known.guard != guard:
            return None
        found: Any = self._link.ask_plain(known.packet, partial(_judged, known, asked))
        if isinstance(found, _Void):
            if found.size > _LONGEST_VOID:
                self._entries.pop((tenant, entry), None)
            return found.miss
        return found  # type: ignore[no-any-return]

    def learn(self, tenant: str, entry: str, guard: str, line: bytes) -> None:
        """Keep which tags the answer of an entry has, for the next look-up."""
        head = _HEAD(line[: line.find(b"\n")])
        if head is None or len(head[3]) > _LONGEST_PACKET:
            return
        marks, key = self._keys.both(tenant, entry)
        hmget = packed((b"HMGET", marks, b"r", _field(guard), *head[3].split()))
        packet = Plain(marks, b"".join((packed((b"GET", key)), hmget, _TIME, _SERVER)), 4)
        _keep(self._entries, (tenant, entry), _Known(packet, guard, head[3], head_of(head[0])[1]))

    def check(self, tenant: str, noted: Noted, tags: tuple[str, ...], asked: AskedFor) -> bool | None:
        """Return what the store's check would; None: the script must decide."""
        known = self._checks.get((tenant, tags))
        if known is None:
            if sum(map(len, tags)) > _LONGEST_PACKET:
                return None
            marks = self._keys.marks(tenant)
            hmget = packed((b"HMGET", marks, b"r", *map(_field, tags)))
            known = _Known(Plain(marks, hmget + _SERVER, 2), "", b"", tags)
            _keep(self._checks, (tenant, tags), known)
        return self._link.ask_plain(known.packet, partial(_checked, known, noted, asked))


def _judged(known: _Known, asked: AskedFor, line: Any, values: Any, now: Any, info: Any) -> Lookup | _Void | None:
    """Return what a look-up finds; None: it is not plain."""
    if type(values) is not list or type(info) is not bytes:  # a refusal, most often
        return None
    fresh = known.fresh
    if fresh is not None and type(line) is bytes and fresh.holds(values, asked, info) and line.startswith(fresh.head):
        return Hit(line[len(fresh.head) :], fresh.noted, known.texts)
    try:
        return _found(known, line, values, now, info, asked)
    except (ValueError, TypeError) as error:  # a record that does not parse
        pass_others(error)
        return None


def _found(
    known: _Known, line: Any, values: list[Any], now: Any, info: bytes, asked: AskedFor
) -> Lookup | _Void | None:
    root, guard = _root_of(values[0], info), values[1]
    if root is None or (guard is not None and _MARK(guard) is None) or type(now) is not list:
        return None
    reason = _unasked(root, asked) or (_NO_ENTRY if line is None else 0)
    if reason:
        return miss_of(reason, values[0], guard or b"", *now)
    head = _HEAD(line[: line.find(b"\n")]) if type(line) is bytes else None
    if head is None or head[3] != known.tags or (stale := _stale(root, head[1], int(head[2]), values[2:])) is None:
        return None
    if stale:
        return _Void(miss_of(stale, values[0], guard or b"", *now), len(line))
    noted, start = head_of(head[0])[0], head.end() + 1
    known.fresh = _Fresh(line[:start], noted, values, asked, _server_of(root))
    return Hit(line[start:], noted, known.texts)


def _checked(known: _Known, noted: Noted, asked: AskedFor, values: Any, info: Any) -> bool | None:
    """Return whether a near answer is fresh; None: that is not plain."""
    if type(values) is not list or type(info) is not bytes:
        return None
    fresh = known.fresh
    if fresh is not None and fresh.holds(values, asked, info) and fresh.noted == noted:
        return True
    root = _root_of(values[0], info)
    if root is None:
        return None
    if _unasked(root, asked):
        return False
    stale = _stale(root, encoded(token("n", noted.nonce)), noted.counter, values[1:])
    if stale == 0:
        known.fresh = _Fresh(b"", noted, values, asked, _server_of(root))
    return None if stale is None else stale == 0


def _root_of(record: Any, info: bytes) -> re.Match[bytes] | None:
    """Return the parts of a root that this server has made, if it is a master."""
    root = _ROOT(record) if type(record) is bytes else None
    return root if root is not None and _server_of(root) in info and _MASTER in info else None


def _server_of(root: re.Match[bytes]) -> bytes:
    return b"master_replid:%b\r\n" % root[3]


def _unasked(root: re.Match[bytes], asked: AskedFor) -> int:
    if asked.epoch is not None and int(root[5]) > asked.epoch:
        return _EPOCH
    return 0 if root[6] == _history(asked.history) else _ORIGIN


def _stale(root: re.Match[bytes], nonce: bytes, counter: int, marks: Sequence[Any]) -> int | None:
    """Return why an entry is stale, as the script does, 0 if it is not; None: a mark does not parse."""
    reason = _void(root, nonce, counter)
    for mark in marks:
        if mark is None:
            continue
        parts = _MARK(mark)
        if parts is None:
            return None
        reason = reason or (_BUMPED if int(parts[1]) > counter else _INTENT if parts[2] else 0)
    return reason


def _void(root: re.Match[bytes], nonce: bytes, counter: int) -> int:
    """Return why an entry is stale whatever its tags; 0 if it may be fresh."""
    if nonce != root[4]:
        return _NONCE
    if root[1] != b"c":
        return _STATE
    if root[7]:
        return _INTENT
    return _FLOOR if counter < int(root[2]) else 0


def _keep(kept: dict[Any, _Known], key: Any, known: _Known) -> None:
    if len(known.packet.packet) > _LONGEST_PACKET:
        return
    if len(kept) >= _MOST_KEPT:
        for old in tuple(kept)[:_GIVEN_UP]:  # a copy made in one step: other threads keep theirs meanwhile
            kept.pop(old, None)
    kept[key] = known


def _field(tag: str) -> bytes:
    return encoded(token("t", tag))


@lru_cache(maxsize=_HISTORIES_KEPT)
def _history(history: History) -> bytes:
    return history.text().encode("ascii")
