"""Reading through the cache: answer from a fresh entry, or query and fill.

The order of steps is what makes it sound, and stands here once. A miss notes the tenant's counter *before* the query;
the fill compares the tags of the answer, known only after it, with what was noted. What is not clean is read from the
primary and not stored. A store that does not answer is no cache: the primary is read.
"""

from __future__ import annotations

import math
import random
import time
from contextlib import suppress
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError  # noqa: N812  # struct's own name for it
from typing import TYPE_CHECKING, Final

from tidegate.cache.codec.values import Uncacheable, Unreadable
from tidegate.cache.events import Filled, Missed, NotFilled, StoreFailed, Undecodable, ignore, served
from tidegate.cache.marks import Refusal
from tidegate.cache.request import ONLY_PRIMARY, Limits, ReadRequirement
from tidegate.cache.root_recovery import fresh_nonce
from tidegate.cache.single_flight import Flights
from tidegate.cache.store import Filling, Hit, Miss, NoRoot, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.cache.events import Observer
    from tidegate.cache.request import Answer, Request
    from tidegate.cache.root_recovery import RootRecovery
    from tidegate.cache.single_flight import Flight
    from tidegate.cache.store import Lookup, Store

_MOST_EARLY: Final = 37.0
"""The logarithm of what may be drawn goes no further: the least is 2 ** -53."""
_TIMES: Final = Struct(">QI")  # when the entry ends, and what it cost: ms since the epoch, ms


def unpacked(body: bytes) -> tuple[int, bytes]:
    """When an entry ends, in ms since the epoch, and the answer as it was frozen, of the body of an entry.

    Raises:
        Unreadable: it is no such body.
    """
    try:
        until_ms, _ = _TIMES.unpack_from(body)
    except StructError as error:
        raise Unreadable(str(error)) from error
    return until_ms, body[_TIMES.size :]


@dataclass(frozen=True, slots=True)
class _Lead:
    """The right to fill, and what was noted for it."""

    miss: Miss
    token: str
    flight: Flight


@dataclass(frozen=True, slots=True)
class _Shared:
    """What another thread of this process stored while this one waited."""

    body: bytes


class _Again:
    """Something has changed: look again."""


_AGAIN: Final = _Again()


class _Patience:
    """How much longer one read may wait, and how many steps it may still take for its root; and what it found."""

    __slots__ = ("_deadline", "_now_ms", "_poll_ms", "broken", "steps")

    def __init__(self, limits: Limits, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._deadline = now_ms() + limits.wait_ms
        self._poll_ms = float(limits.poll_ms)
        self.steps = limits.steps
        self.broken = False
        """Whether the entry that is there cannot be read, and must be filled anew."""

    @property
    def left_s(self) -> float:
        return max(0, self._deadline - self._now_ms()) / 1000

    def next_poll_s(self) -> float:
        """Longer each time, so that a crowd of waiters costs the store little; jittered, so that they spread."""
        poll_ms, self._poll_ms = self._poll_ms, min(self._poll_ms * 2, 32.0)
        return min(self.left_s, poll_ms * (0.5 + random.random()) / 1000)  # noqa: S311  # no secret


class ReadThrough:
    """The read path over one store.

    Args:
        store: entries and marks.
        recovery: brings roots on.
        flights: single flight in this process.
        limits: see :class:`Limits`.
        observe: told what happened.
        epoch: since when a tenant is where the newest shard map of this process has it; None: there is one shard.
        sleep: waits some seconds; replaced in simulations.
        now_ms: wall clock in milliseconds.
    """

    def __init__(
        self,
        store: Store,
        recovery: RootRecovery,
        *,
        flights: Flights | None = None,
        limits: Limits | None = None,
        observe: Observer = ignore,
        epoch: Callable[[str], int] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._store = store
        self._recovery = recovery
        self._flights = flights or Flights()
        self._limits = limits or Limits()
        self._observe = observe
        self.epoch = epoch
        self._sleep = sleep
        self._now_ms = now_ms

    def __call__(self, request: Request) -> object:
        """The answer to *request*, never older than the newest change visible on the primary as this began."""
        patience = _Patience(self._limits, self._now_ms)
        turn: _Again | _Lead | _Shared | Hit | ReadRequirement = _AGAIN
        while True:
            try:
                found = turn if isinstance(turn, Hit) else self._look(request)
                if isinstance(found, Hit):
                    try:
                        return self._serve(request, found)
                    except Unreadable:
                        patience.broken = True
                    found = self._lookup(request, refresh=True)
                turn = self._turn(request, found, patience)
            except StoreUnavailable as error:
                self._observe(StoreFailed("read", str(error)))
                turn = ONLY_PRIMARY
            if isinstance(turn, _Shared):
                with suppress(Unreadable, StoreUnavailable):
                    value = request.thaw(turn.body[_TIMES.size :], None)
                    self._observe(served(request.tenant, "flight"))
                    return value
                turn = ONLY_PRIMARY
            if isinstance(turn, ReadRequirement):
                return request.query(turn).value
            if isinstance(turn, _Lead):
                return self._lead(request, turn)

    def _look(self, request: Request) -> Lookup:
        found = self._lookup(request)
        if isinstance(found, Miss):
            self._observe(Missed(request.tenant, found.reason))
        return found

    def _lookup(self, request: Request, *, refresh: bool = False) -> Lookup:
        # Asked anew each time: who has waited may know of a later epoch by now.
        epoch = None if self.epoch is None else self.epoch(request.tenant)
        return self._store.lookup(request.tenant, request.entry, request.guard, refresh=refresh, epoch=epoch)

    def _serve(self, request: Request, hit: Hit) -> object:
        try:
            until_ms, cost_ms = _TIMES.unpack_from(hit.body)
            value = request.thaw(hit.body[_TIMES.size :], hit)
        except (Unreadable, StructError) as error:
            self._observe(Undecodable(request.tenant, str(error)))
            raise Unreadable from error
        self._observe(served(request.tenant, "store"))
        if self._is_early(until_ms, cost_ms) and (lead := self._refresh(request)) is not None:
            return self._lead(request, lead)
        return value

    def _is_early(self, until_ms: int, cost_ms: int) -> bool:
        # XFetch: the nearer the end and the dearer the query, the likelier; so one reader refreshes before all miss.
        scale_ms = cost_ms * self._limits.beta
        left_ms = until_ms - self._now_ms()
        if self._limits.beta == 0 or left_ms > scale_ms * _MOST_EARLY:  # almost always: no need to draw
            return False
        return -scale_ms * math.log(1.0 - random.random()) >= left_ms  # noqa: S311  # no secret

    def _refresh(self, request: Request) -> _Lead | None:
        flight, leads = self._flights.join(request.tenant, request.entry)
        if not leads:
            return None
        with suppress(StoreUnavailable):
            found = self._lookup(request, refresh=True)
            if (
                isinstance(found, Miss)
                and not found.dirty
                and not found.moved
                and (token := self._take_lease(request, found, anew=True))
            ):
                return _Lead(found, token, flight)
        self._close(request, flight, None)
        return None

    def _turn(
        self, request: Request, found: Lookup, patience: _Patience
    ) -> _Again | _Lead | _Shared | Hit | ReadRequirement:
        if isinstance(found, Hit):  # with refresh asked for, a store gives none
            return ONLY_PRIMARY
        if isinstance(found, NoRoot) or found.dirty or found.moved:
            return self._unled(request, found, patience)
        flight, leads = self._flights.join(request.tenant, request.entry)
        if leads:
            return self._await_lease(request, found, flight, patience)
        body = flight.wait(patience.left_s)
        if body is not None:
            return _Shared(body)
        return _AGAIN if patience.left_s else ReadRequirement(found.position, primary=False, root=found.origin)

    def _unled(self, request: Request, found: NoRoot | Miss, patience: _Patience) -> _Again | ReadRequirement:
        """By these marks nothing may be stored."""
        if isinstance(found, Miss) and found.moved:  # the layers below read the shard map again
            return ReadRequirement(found.position, primary=found.dirty, root=found.origin)
        if patience.steps == 0 or not self._bring_on(request, found):
            return ONLY_PRIMARY
        patience.steps -= 1
        return _AGAIN

    def _bring_on(self, request: Request, found: NoRoot | Miss) -> bool:
        if isinstance(found, NoRoot):
            self._recovery.create_root(request.tenant)
            return True
        return self._recovery.advance(request.tenant, found)

    def _await_lease(
        self, request: Request, miss: Miss, flight: Flight, patience: _Patience
    ) -> _Again | _Lead | Hit | ReadRequirement:
        """Take the lease, or wait for what its holder stores; no database connection is held meanwhile."""
        lead = None
        try:
            while True:
                if token := self._take_lease(request, miss, anew=patience.broken):
                    lead = _Lead(miss, token, flight)
                    return lead
                if not patience.left_s:
                    return ReadRequirement(miss.position, primary=False, root=miss.origin)
                self._sleep(patience.next_poll_s())
                found = self._look(request)
                if isinstance(found, Hit):
                    return found
                if isinstance(found, NoRoot) or found.dirty or found.moved:
                    return _AGAIN
                miss = found
        finally:
            if lead is None:
                self._close(request, flight, None)

    def _take_lease(self, request: Request, miss: Miss, *, anew: bool) -> str | None:
        token, lease_ms = fresh_nonce(), self._limits.lease_ms
        taken = self._store.lease(request.tenant, request.entry, miss, token, lease_ms, unless_filled=not anew)
        return token if taken else None

    def _lead(self, request: Request, lead: _Lead) -> object:
        began, body = self._now_ms(), None
        try:
            answer = request.query(ReadRequirement(lead.miss.position, primary=False, root=lead.miss.origin))
            body = self._offer(request, lead, answer, self._now_ms() - began)
        finally:
            if body is None:
                with suppress(StoreUnavailable):
                    self._store.release(request.tenant, request.entry, lead.token)
            self._close(request, lead.flight, body)
        return answer.value

    def _offer(self, request: Request, lead: _Lead, answer: Answer, cost_ms: int) -> bytes | None:
        """Store an answer; the body if it was stored."""
        if answer.origin is None:
            self._observe(NotFilled(request.tenant, "read in somebody's transaction, or on a node not known"))
            return None
        try:
            frozen, blobs = request.freeze(answer.value)
        except Uncacheable as error:
            self._observe(NotFilled(request.tenant, str(error)))
            return None
        try:
            tags, ttl_ms = request.tags(answer.value), request.ttl_ms(answer.value)
        except Exception as error:  # noqa: BLE001  # a policy's own code: the answer is there, and is what was asked for
            self._observe(NotFilled(request.tenant, f"the policy failed: {error!r}"))
            return None
        body = _TIMES.pack(self._now_ms() + ttl_ms, min(max(cost_ms, 0), 2**32 - 1)) + frozen
        filling = Filling(
            entry=request.entry,
            noted=lead.miss.noted,
            token=lead.token,
            origin=answer.origin,
            tags=tags,
            body=body,
            ttl_ms=ttl_ms,
            blobs=blobs,
        )
        # Closed first: who comes from now on must not be given what the store vouched for before they came.
        self._flights.close(request.tenant, request.entry, lead.flight)
        try:
            refusal = self._store.fill(request.tenant, filling)
        except StoreUnavailable as error:
            self._observe(StoreFailed("fill", str(error)))
            return None
        if refusal is not None:
            self._observe(NotFilled(request.tenant, refusal))
            if refusal is Refusal.ORIGIN and answer.origin > lead.miss.origin:
                # A failover: entries of before may hold what it lost, and must not be served any longer.
                self._make_root(request.tenant)
            return None
        self._observe(Filled(request.tenant, len(body) + sum(map(len, blobs.values()))))
        return body

    def _make_root(self, tenant: str) -> None:
        try:
            self._recovery.create_root(tenant)
        except Exception as error:  # noqa: BLE001  # the primary may fail by now, and the answer is there
            self._observe(StoreFailed("make", str(error)))

    def _close(self, request: Request, flight: Flight, body: bytes | None) -> None:
        self._flights.close(request.tenant, request.entry, flight)
        flight.land(body)
