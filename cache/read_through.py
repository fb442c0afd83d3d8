"""Read through the cache: answer from a fresh entry, or query and fill.

What to do next is decided in :mod:`tidegate.cache.read_steps`; here it is done. The order of steps is what makes it
sound. A miss notes the tenant's counter *before* the query; the fill compares the tags of the answer, which are known
only after it, with what was noted. What is not clean is read from the primary and not stored. A store that does not
answer is no cache: the primary is read.
"""

from __future__ import annotations

import math
import random
import time
from contextlib import nullcontext, suppress
from functools import partial
from struct import Struct
from struct import error as StructError  # noqa: N812  # struct's own name for it
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from tidegate.cache.codec.values import Uncacheable, Unreadable
from tidegate.cache.events import Filled, Missed, NotFilled, StoreFailed, Undecodable, ignore, served
from tidegate.cache.marks import Refusal
from tidegate.cache.read_steps import PRIMARY_ONLY, Advance, Fill, Patience, Query, Serve, clean_requirement, next_step
from tidegate.cache.request import Answer, Limits
from tidegate.cache.root_recovery import fresh_nonce
from tidegate.cache.single_flight import Flights, Turn
from tidegate.cache.store import Filling, Hit, Miss, StoreUnavailable
from tidegate.error_text import first_line
from tidegate.interruptions import pass_interruption

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from tidegate.cache.events import Observer
    from tidegate.cache.lease_renewal import Renewals
    from tidegate.cache.read_steps import Wait
    from tidegate.cache.request import Request
    from tidegate.cache.root_recovery import RootRecovery
    from tidegate.cache.store import Lookup, Store
    from tidegate.position import AskedFor

_MOST_EARLY: Final = 37.0
"""The logarithm of what may be drawn goes no further: the least is 2 ** -53."""
_TIMES: Final = Struct(">QI")  # when the entry ends, and what it cost: ms since the epoch, ms


def end_of(body: bytes) -> int:
    """Return when an entry with this body ends, in ms since the epoch.

    Raises:
        struct.error: it is no such body.
    """
    until_ms: int = _TIMES.unpack_from(body)[0]
    return until_ms


def unpacked(body: bytes) -> tuple[int, bytes]:
    """Split the body of an entry into when it ends, in ms since the epoch, and the answer as it was frozen.

    Raises:
        Unreadable: it is no such body.
    """
    try:
        return end_of(body), body[_TIMES.size :]
    except StructError as error:
        raise Unreadable(str(error)) from error


class _Lead(NamedTuple):
    """The right to fill, and what was noted for it."""

    miss: Miss
    token: str


class _Early(NamedTuple):
    """An answer that is fresh, and ends soon."""

    answer: Answer


class _Now(NamedTuple):
    """Where a read stands between two steps."""

    patience: Patience
    found: Lookup


_End: TypeAlias = Answer | Query | _Lead
"""How the steps of a read end: it is answered, or queries a node, or does that and fills."""


class ReadThrough:
    """Answer reads from one store, and fill it.

    Args:
        store: entries and marks.
        recovery: advances roots.
        asked: tells whose marks a tenant's must be, as far as this process knows.
        flights: single flight in this process.
        renewals: renews the leases of slow fills; None: nobody does.
        limits: see :class:`~tidegate.cache.request.Limits`.
        observe: told what happened.
        sleep: waits some seconds; replaced in simulations.
        now_ms: wall clock in milliseconds.
    """

    def __init__(
        self,
        store: Store,
        recovery: RootRecovery,
        asked: Callable[[str], AskedFor],
        *,
        flights: Flights | None = None,
        renewals: Renewals | None = None,
        limits: Limits | None = None,
        observe: Observer = ignore,
        sleep: Callable[[float], None] = time.sleep,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._store = store
        self._recovery = recovery
        self.asked = asked
        self._flights = flights or Flights()
        self._renewals = renewals
        self._limits = limits or Limits()
        self._unspent = Patience.of(self._limits)
        self._observe = observe
        self._sleep = sleep
        self._now_ms = now_ms

    def __call__(self, request: Request) -> Answer:
        """Answer *request*, never older than the newest change that was visible on the primary as this began."""
        try:
            found = self._look(request)
            now = self._serve(request, found, self._unspent) if isinstance(found, Hit) else _Now(self._unspent, found)
        except StoreUnavailable as error:
            self._observe(StoreFailed("read", str(error)))
            now = PRIMARY_ONLY
        if isinstance(now, Answer):  # nearly all reads end here
            return now
        if isinstance(now, Query):
            return request.query(now.requirement)
        turn = self._turn(request)
        try:
            end = self._until_end(request, now, turn)
            if isinstance(end, Answer):
                return end
            if isinstance(end, _Lead):
                return self._lead(request, end, turn)
            turn.leave()
            return request.query(end.requirement)
        finally:
            self._give_up(request, turn)

    def _give_up(self, request: Request, turn: Turn) -> None:
        """Give back what a read may still have, whatever ended it: an interruption may come at any moment."""
        try:
            if turn.token is not None:
                with suppress(StoreUnavailable):
                    self._store.release(request.tenant, request.entry, turn.token)
        finally:
            turn.leave()

    def _until_end(self, request: Request, now: _Now | _Early | _End, turn: Turn) -> _End:
        """Take one step after the other until the read is answered, or must query, with or without filling."""
        try:
            while isinstance(now, _Now):
                now = self._step(request, now, turn)
        except StoreUnavailable as error:
            self._observe(StoreFailed("read", str(error)))
            turn.leave(unstorable=True)
            return PRIMARY_ONLY
        if isinstance(now, _Early):
            return self._refresh(request, turn) or now.answer
        return now

    def _step(self, request: Request, now: _Now, turn: Turn) -> _Now | _Early | _End:
        step = next_step(now.found, now.patience)
        if isinstance(step, Query):
            return step
        if isinstance(step, Serve):
            turn.leave()
            return self._serve(request, step.hit, now.patience)
        if isinstance(step, Fill):
            return self._fill(request, step, turn, now.patience)
        if isinstance(step, Advance):
            return self._advance(request, step, turn, now.patience)
        return self._wait(request, step, turn, now.patience)

    def _turn(self, request: Request) -> Turn:
        deadline_ms = self._now_ms() + self._limits.wait_ms
        return Turn(self._flights, request.tenant, request.entry, deadline_ms, self._limits.poll_ms)

    def _look(self, request: Request) -> Lookup:
        found = self._lookup(request)
        if isinstance(found, Miss):
            self._observe(Missed(request.tenant, found.reason))
        return found

    def _lookup(self, request: Request, *, refresh: bool = False) -> Lookup:
        # Asked anew each time: who has waited may know of a later epoch, or of a newer history, by now.
        asked = self.asked(request.tenant)
        return self._store.lookup(request.tenant, request.entry, request.guard, asked, refresh=refresh)

    def _serve(self, request: Request, hit: Hit, patience: Patience) -> _Now | _Early | Answer | Query:
        """Answer from an entry, and say where it ends soon; fill it anew where it cannot be read."""
        try:
            until_ms, cost_ms = _TIMES.unpack_from(hit.body)
            value = request.thaw(hit.body[_TIMES.size :], hit)
        except (Unreadable, StructError) as error:
            self._observe(Undecodable(request.tenant, str(error)))
            if patience.anew:  # whoever has filled it since fills what cannot be read here
                return PRIMARY_ONLY
            return _Now(patience._replace(anew=True), self._lookup(request, refresh=True))
        self._observe(served(request.tenant, "store"))
        answer = Answer(value, answered_by="store")
        return _Early(answer) if self._is_early(until_ms, cost_ms) else answer

    def _is_early(self, until_ms: int, cost_ms: int) -> bool:
        # XFetch: the nearer the end and the dearer the query, the likelier; so one reader refreshes before all miss.
        scale_ms = cost_ms * self._limits.beta
        left_ms = until_ms - self._now_ms()
        if self._limits.beta == 0 or left_ms > scale_ms * _MOST_EARLY:  # almost always: no need to draw
            return False
        return -scale_ms * math.log(1.0 - random.random()) >= left_ms  # noqa: S311  # no secret

    def _refresh(self, request: Request, turn: Turn) -> _Lead | None:
        """Take the right to fill before the entry ends; None where somebody else has it."""
        with suppress(StoreUnavailable):
            step = next_step(self._lookup(request, refresh=True), self._unspent._replace(anew=True))
            if isinstance(step, Fill):
                turn.join(step.miss)
                if turn.leads:
                    return self._take_lease(request, step, turn)
        return None

    def _take_lease(self, request: Request, fill: Fill, turn: Turn) -> _Lead | None:
        token, lease_ms, miss = fresh_nonce(), self._limits.lease_ms, fill.miss
        turn.token = token  # before it is taken: an interruption may come before the answer
        try:
            taken = self._store.lease(request.tenant, request.entry, miss, token, lease_ms, unless_filled=not fill.anew)
        except StoreUnavailable:
            turn.token = None  # to give it back would be to wait for the store once more
            raise
        if not taken:
            turn.token = None
            return None
        return _Lead(miss, token)

    def _fill(self, request: Request, fill: Fill, turn: Turn, patience: Patience) -> _Now | _Lead:
        """Take the right to fill; where somebody else has it, say who."""
        turn.join(fill.miss)
        if turn.leads and (lead := self._take_lease(request, fill, turn)) is not None:
            return lead
        left_ms = turn.deadline_ms - self._now_ms()
        if left_ms <= 0 and turn.leads and self._is_still_at_it(request, turn, left_ms):
            left_ms = 1
        return _Now(patience._replace(filler="process" if turn.leads else "thread", left_ms=left_ms), fill.miss)

    def _is_still_at_it(self, request: Request, turn: Turn, left_ms: int) -> bool:
        """Tell whether it is worth to look again, the deadline being over.

        It is while the lease is with whoever had it then; and if nobody has it any more, since that one has filled.
        """
        holder = self._store.holder(request.tenant, request.entry)
        turn.holder = turn.holder or holder
        return holder in {None, turn.holder} and -left_ms < self._limits.longest_ms

    def _advance(self, request: Request, step: Advance, turn: Turn, patience: Patience) -> _Now:
        """Take a step for the root; by the marks as they are, nothing may be stored."""
        turn.leave()
        if not self._recovery.advance(request.tenant, step.found):  # another look would find the same
            return _Now(patience._replace(steps=0, filler="nobody"), step.found)
        return _Now(patience._replace(steps=patience.steps - 1, filler="nobody"), self._look(request))

    def _wait(self, request: Request, step: Wait, turn: Turn, patience: Patience) -> _Now | Answer | Query:
        """Wait for what somebody else fills; answer with it if a thread of this process hands it over.

        A thread is waited for until it has ended: an own query now would end later than the one that is under way.
        """
        flight = turn.flight
        if step.filler == "process" or flight is None:
            self._sleep(turn.next_poll_s(patience.left_ms))
        else:
            body = flight.wait(self._limits.longest_ms / 1000)
            turn.leave()
            if body is not None:
                return self._shared(request, body)
            if flight.unstorable:
                return PRIMARY_ONLY
        return _Now(patience._replace(filler="nobody"), self._look(request))

    def _shared(self, request: Request, body: bytes) -> Answer | Query:
        """Answer with what another thread of this process has stored while this one waited."""
        with suppress(Unreadable, StoreUnavailable):
            value = request.thaw(body[_TIMES.size :], None)
            self._observe(served(request.tenant, "flight"))
            return Answer(value, answered_by="flight")
        return PRIMARY_ONLY

    def _lead(self, request: Request, lead: _Lead, turn: Turn) -> Answer:
        """Query and fill. What is left of the turn is given up by who called this, whatever comes."""
        began_ms = self._now_ms()
        with self._renewed(request, lead):
            answer = request.query(clean_requirement(lead.miss))
        filling = self._filling(request, lead, answer, self._now_ms() - began_ms)
        if filling is not None:
            turn.leave(self._offer(request, lead, filling, turn))
        return answer

    def _renewed(self, request: Request, lead: _Lead) -> AbstractContextManager[None]:
        """Renew the lease of a query that takes longer than it lasts."""
        if self._renewals is None:
            return nullcontext()
        lease = partial(self._store.lease, request.tenant, request.entry, lead.miss, lead.token, self._limits.lease_ms)
        return self._renewals.renewed(lead.token, lease)

    def _offer(self, request: Request, lead: _Lead, filling: Filling, turn: Turn) -> bytes | None:
        """Store an answer; return the body if it was stored, and somebody waits for it."""
        # Closed first: who comes from now on must not be given what the store vouched for before they came.
        turn.close()
        if not turn.is_followed and filling.origin == lead.miss.origin:
            self._store.fill_soon(request.tenant, filling, partial(self._told, request.tenant, filling.size))
            turn.token = None
            return None
        try:
            refusal = self._store.fill(request.tenant, filling)
        except StoreUnavailable as error:
            self._observe(StoreFailed("fill", str(error)))
            return None
        turn.token = None
        self._told(request.tenant, filling.size, refusal)
        if refusal is not None:
            if refusal is Refusal.ORIGIN and filling.origin.outdates(lead.miss.origin):
                # A failover: entries of before may hold what it lost, and must not be served any longer.
                self._create_root(request.tenant)
            return None
        return filling.body

    def _told(self, tenant: str, size: int, outcome: Refusal | StoreUnavailable | None) -> None:
        """Tell what came of a fill."""
        if outcome is None:
            self._observe(Filled(tenant, size))
        elif isinstance(outcome, StoreUnavailable):
            self._observe(StoreFailed("fill", str(outcome)))
        else:
            self._observe(NotFilled(tenant, outcome))

    def _filling(self, request: Request, lead: _Lead, answer: Answer, cost_ms: int) -> Filling | None:
        """Make of an answer what is stored; None where it cannot be."""
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
            pass_interruption(error)
            self._observe(NotFilled(request.tenant, f"the policy failed: {type(error).__name__}: {first_line(error)}"))
            return None
        body = _TIMES.pack(self._now_ms() + ttl_ms, min(max(cost_ms, 0), 2**32 - 1)) + frozen
        return Filling(request.entry, lead.miss.noted, lead.token, answer.origin, tags, body, ttl_ms, blobs)

    def _create_root(self, tenant: str) -> None:
        try:
            self._recovery.create_root(tenant)
        except Exception as error:  # noqa: BLE001  # the primary may fail by now, and the answer is there
            pass_interruption(error)
            self._observe(StoreFailed("make", first_line(error)))
