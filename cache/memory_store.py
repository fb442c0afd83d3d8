"""A store in the memory of one process: it does what the protocol says, by the functions of ``marks`` alone."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from tidegate.cache import marks
from tidegate.cache.marks import Noted, Refusal, Root
from tidegate.cache.store import CacheServer, Change, Filling, Hit, Lookup, Miss, NoRoot, OtherHistory, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from tidegate.position import AskedFor, History, Origin, Position

MOST_TAGS: Final = 10_000
MOST_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as it is kept: the body, what was noted, the tags, and when it ends, in milliseconds."""

    body: bytes
    noted: Noted
    tags: tuple[str, ...]
    until_ms: int


@dataclass(frozen=True, slots=True)
class _Lease:
    token: str
    noted: Noted
    until_ms: int


class MemoryStore:
    """Keep entries, marks and leases in this process; threads may share it.

    Args:
        now_ms: a clock, in milliseconds.
        most_tags: how many fields a tenant may have before the oldest are dropped.
        most_bytes: the size of the largest answer that is stored, in bytes: body and large values together.
    """

    def __init__(
        self,
        now_ms: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000,
        most_tags: int = MOST_TAGS,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._now_ms = now_ms
        self._most_tags = most_tags
        self._most_bytes = most_bytes
        self._lock = threading.RLock()
        self._off: set[str] = set()
        self.roots: dict[str, Root] = {}
        self.entries: dict[tuple[str, str], Entry] = {}
        self._leases: dict[tuple[str, str], _Lease] = {}
        self._blobs: dict[tuple[str, str], bytes] = {}
        self._histories: dict[str, History] = {}
        self.name: Final = "memory"

    def pushes(self) -> None:
        """Return None: there are no pushes, so near caches ask each time."""

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def lookup(self, tenant: str, entry: str, guard: str, asked: AskedFor, *, refresh: bool = False) -> Lookup:
        """Return the entry if it is fresh, else what a miss must note; see :meth:`Store.lookup`."""
        with self._lock:
            return self.judged(tenant, None if refresh else self.kept(tenant, entry), guard, asked)

    def kept(self, tenant: str, entry: str) -> Entry | None:
        """Return an entry, fresh or not; None: there is none."""
        entry_kept = self.entries.get((tenant, entry))
        return None if entry_kept is None or entry_kept.until_ms <= self._now_ms() else entry_kept

    def judged(self, tenant: str, kept: Entry | None, guard: str, asked: AskedFor) -> Lookup:
        """Return what a look-up finds that has read *kept*, by the marks as they are now."""
        root = self.roots.get(tenant)
        if root is None:
            return NoRoot()
        refusal = marks.not_asked_for(root, asked) or (Refusal.NO_ENTRY if kept is None else None)
        if refusal is None and kept is not None:
            refusal = marks.stale(root, kept.noted, kept.tags)
            if refusal is None:
                return Hit(kept.body, kept.noted, kept.tags)
        return self._miss(root, guard, refusal or Refusal.NO_ENTRY)

    def _miss(self, root: Root, guard: str, reason: Refusal) -> Miss:
        mark, now = root.mark(guard), self._now_ms()
        since = {**root.intents, **mark.intents}
        return Miss(
            noted=Noted(root.nonce, root.counter),
            reason=reason,
            state=root.state,
            origin=root.origin,
            position=root.position.merged(mark.position),
            intents={xid: now - opened for xid, opened in since.items()},
            awaits=root.awaits,
            guard_generation=mark.generation,
        )

    def lease(
        self, tenant: str, entry: str, miss: Miss, token: str, lease_ms: int, *, unless_filled: bool = False
    ) -> bool:
        """Take the right to fill, and tell whether the caller has it now; see :meth:`Store.lease`."""
        with self._lock:
            now, held = self._now_ms(), self._leases.get((tenant, entry))
            if held is not None and held.until_ms > now and (held.token, held.noted) != (token, miss.noted):
                hopeless = held.noted.nonce != miss.noted.nonce or miss.guard_generation > held.noted.counter
                if not hopeless:
                    return False
            kept = self.entries.get((tenant, entry)) if unless_filled else None
            if kept is not None and kept.until_ms > now and _noted_since(miss.noted, kept.noted):
                return False
            self._leases[tenant, entry] = _Lease(token, miss.noted, now + lease_ms)
            return True

    def holder(self, tenant: str, entry: str) -> str | None:
        """Return the token of whoever has the right to fill; None: nobody has it."""
        return self._held_by(tenant, entry)

    def _held_by(self, tenant: str, entry: str) -> str | None:
        held = self._leases.get((tenant, entry))
        return held.token if held is not None and held.until_ms > self._now_ms() else None

    def release(self, tenant: str, entry: str, token: str) -> None:
        """Give the lease back, if *token* holds it."""
        with self._lock:
            if self._held_by(tenant, entry) == token:
                del self._leases[tenant, entry]

    def fill(self, tenant: str, filling: Filling) -> Refusal | None:
        """Store an answer, or return the reason why it was refused; see :meth:`Store.fill`."""
        if filling.size > self._most_bytes:
            self.release(tenant, filling.entry, filling.token)
            return Refusal.TOO_LARGE
        with self._lock:
            if self._held_by(tenant, filling.entry) not in {None, filling.token}:
                return Refusal.LEASE
            self._leases.pop((tenant, filling.entry), None)
            root = self.roots.get(tenant)
            if root is None:
                return Refusal.NO_ROOT
            refusal = marks.may_not_fill(root, filling.noted, filling.tags, filling.origin)
            if refusal is None:
                until = self._now_ms() + filling.ttl_ms
                self.entries[tenant, filling.entry] = Entry(filling.body, filling.noted, filling.tags, until)
                self._blobs.update({(tenant, name): blob for name, blob in filling.blobs.items()})
            return refusal

    def fill_soon(
        self, tenant: str, filling: Filling, told: Callable[[Refusal | StoreUnavailable | None], None]
    ) -> None:
        """Store an answer now; see :meth:`Store.fill_soon`."""
        try:
            refusal = self.fill(tenant, filling)
        except StoreUnavailable as error:
            told(error)
        else:
            told(refusal)

    def check(self, tenant: str, noted: Noted, tags: Sequence[str], asked: AskedFor) -> bool:
        """Tell whether an entry with these marks is fresh now; see :meth:`Store.check`."""
        with self._lock:
            root = self.roots.get(tenant)
            if root is None or marks.not_asked_for(root, asked) is not None:
                return False
            return marks.stale(root, noted, tags) is None

    def blobs(self, tenant: str, hashes: Sequence[str]) -> list[bytes | None]:
        """Return large values by the hash of their content; None for each that is gone."""
        with self._lock:
            return [self._blobs.get((tenant, name)) for name in hashes]

    def make_root(self, tenant: str, nonce: str, origin: Origin) -> None:
        """Store a pending root, unless there is one of *origin* or a newer one."""
        with self._lock:
            self._rooted(tenant, nonce, origin)

    def _rooted(self, tenant: str, nonce: str, origin: Origin) -> Root:
        root = self.roots.get(tenant)
        if root is None or origin.outdates(root.origin):
            root = self.roots[tenant] = Root(nonce, origin)
        return root

    def complete_root(self, tenant: str, nonce: str, xid: str, position: Position) -> None:
        """Put the pending root of *nonce* into quarantine; see :meth:`Store.complete_root`."""
        self._change(tenant, lambda root: marks.completed(root, nonce, xid, position))

    def end_quarantine(self, tenant: str, nonce: str, position: Position) -> None:
        """Make the root of *nonce* clean, and void everything that was noted before."""
        self._change(tenant, lambda root: marks.released(root, nonce, position))

    def open(self, changes: Sequence[Change], xid: str, origin: Origin, nonces: Sequence[str]) -> None:
        """Open the intents of a transaction; see :meth:`Store.open`."""
        refused = []
        for change, nonce in zip(changes, nonces, strict=True):
            with self._lock:
                root = self._rooted(change.tenant, nonce, origin)
                if root.origin == origin:
                    step = partial(marks.opened, xid=xid, tags=change.tags, whole=change.whole, now_ms=self._now_ms())
                    self._change(change.tenant, step)
                else:
                    refused.append(root.origin)
        _refuse(refused, origin)

    def stamp(self, changes: Sequence[Change], xid: str, origin: Origin, position: Position) -> None:
        """Stamp the tags of a transaction whose COMMIT has returned, and close its intents; see :meth:`Store.stamp`."""
        refused = []
        for change in changes:
            with self._lock:
                root = self.roots.get(change.tenant)
                if root is not None and root.origin == origin:
                    self._change(change.tenant, _stamp(change, xid, position))
                elif root is not None:
                    refused.append(root.origin)
        _refuse(refused, origin)

    def stamp_soon(
        self,
        changes: Sequence[Change],
        xid: str,
        origin: Origin,
        position: Position,
        failed: Callable[[StoreUnavailable], None],
    ) -> None:
        """Stamp now; see :meth:`Store.stamp_soon`."""
        try:
            self.stamp(changes, xid, origin, position)
        except StoreUnavailable as error:
            failed(error)

    def resolve(self, tenant: str, xids: Collection[str], origin: Origin, position: Position) -> None:
        """Close the intents of transactions that have ended in *origin*."""
        self._change(tenant, lambda root: marks.resolved(root, xids, position) if root.origin == origin else root)

    def bump(self, changes: Sequence[Change], origin: Origin | None, position: Position) -> None:
        """Void now what depends on *changes*; see :meth:`Store.bump`."""
        refused = []
        for change in changes:
            with self._lock:
                root = self.roots.get(change.tenant)
                if root is None:
                    continue
                if origin is None or root.origin == origin:
                    self._change(change.tenant, _stamp(change, "", position))
                elif origin.outdates(root.origin):
                    self.lose_marks(change.tenant)
                else:
                    refused.append(root.origin)
        if origin is not None:
            _refuse(refused, origin)

    def forget(self, tenants: Sequence[str]) -> None:
        """Forget the marks of *tenants*, which voids all they have."""
        for tenant in tenants:
            self.lose_marks(tenant)

    def newest_history(self, shard: str, history: History | None = None) -> History | None:
        """Return the newest history that was named here; see :meth:`Store.newest_history`."""
        with self._lock:
            known = self._histories.get(shard)
            if history is not None and (known is None or history.ordinal > known.ordinal):
                known = self._histories[shard] = history
            return known

    def server(self) -> CacheServer:
        """Return which server this is: this process."""
        return self.expected

    def name_server(self, name: str) -> str:  # noqa: ARG002  # it has a name already
        """Return the id that it has."""
        return "memory"

    def expect(self, server: CacheServer | None, why: str = "") -> None:
        """Do nothing: there is no other server."""

    @property
    def expected(self) -> CacheServer:
        """Return the server that is used."""
        return CacheServer("memory", "")

    def switched_off(self) -> frozenset[str]:
        """Return the names of what is switched off."""
        return frozenset(self._off)

    def switch(self, name: str, *, off: bool) -> None:
        """Switch the cache off or on; see :meth:`Store.switch`."""
        (self._off.add if off else self._off.discard)(name)

    def _change(self, tenant: str, step: Callable[[Root], Root]) -> None:
        with self._lock:
            root = self.roots.get(tenant)
            if root is not None:
                self.roots[tenant] = marks.trimmed(step(root), self._most_tags)

    def lose_marks(self, tenant: str) -> None:
        """Forget the marks of a tenant and keep its entries, as an eviction or a failover may do."""
        with self._lock:
            self.roots.pop(tenant, None)

    def drop(self, tenant: str, tag: str) -> None:
        """Drop the field of one tag."""
        self._change(tenant, lambda root: marks.dropped(root, tag))


def _refuse(others: Sequence[Origin], origin: Origin) -> None:
    if others:
        raise OtherHistory(f"the marks are of {others[0].text()}, and the caller's data of {origin.text()}")


def _stamp(change: Change, xid: str, position: Position) -> Callable[[Root], Root]:
    return partial(marks.stamped, xid=xid, tags=change.tags, whole=change.whole, position=position)


def _noted_since(miss: Noted, entry: Noted) -> bool:
    return entry.nonce == miss.nonce and entry.counter >= miss.counter
