"""What the server's records of entries and marks say, as values of the store's contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tidegate.cache.marks import Noted, Refusal, RootState
from tidegate.cache.redis.keys import decoded, untoken
from tidegate.cache.store import Hit, Lookup, Miss, NoRoot
from tidegate.position import Origin, Position

if TYPE_CHECKING:
    from collections.abc import Callable

_STATES: Final = {"c": RootState.CLEAN, "p": RootState.PENDING, "q": RootState.QUARANTINE}
REFUSALS: Final = (
    None,
    Refusal.NO_ENTRY,
    Refusal.NONCE,
    Refusal.STATE,
    Refusal.FLOOR,
    Refusal.BUMPED,
    Refusal.INTENT,
    Refusal.NO_ROOT,
    Refusal.LEASE,
    Refusal.ORIGIN,
    Refusal.EPOCH,
)
"""Why there is no fresh entry, or why an answer is not stored, by the numbers that the scripts return."""


def head_of(head: bytes) -> tuple[Noted, tuple[str, ...]]:
    """Return what the first line of an entry says: what was noted, and the tags."""
    _, nonce, counter, *tags = decoded(head).split(" ")
    return Noted(untoken(nonce), int(counter)), tuple([untoken(tag) for tag in tags])


def lookup_of(replies: list[Any], learn: Callable[[bytes], None]) -> Lookup:
    """Return what the script of a look-up has found; *learn* is told the entry of a hit."""
    reply = replies[0]
    if type(reply) is bytes:
        head, _, body = reply.partition(b"\n")
        hit = Hit(body, *head_of(head))
        learn(reply)
        return hit
    return NoRoot() if reply is None else miss_of(*reply)


def miss_of(reason: int, root: bytes, guard: bytes, seconds: bytes, microseconds: bytes) -> Miss:
    """Return the miss of a tenant with this root.

    Args:
        reason: why it is one; see :data:`REFUSALS`.
        root: the record of the root.
        guard: the record of the guard's mark; empty: it has none.
        seconds: the server's time, in seconds since the epoch.
        microseconds: the rest of it.

    Raises:
        ValueError: one of them is no such record.
    """
    now_ms = int(seconds) * 1000 + int(microseconds) // 1000
    _, state, counter, _, at, _, _, nonce, awaits, origin, *intents = decoded(root).split(" ")
    generation, position, *guards = decoded(guard).split(" ") if guard else ("0", at)
    refusal = REFUSALS[reason]
    if refusal is None:
        raise ValueError("the server reported a miss without a reason")
    since = {**_intents(intents), **_intents(guards)}
    return Miss(
        noted=Noted(untoken(nonce), int(counter)),
        reason=refusal,
        state=_STATES[state],
        origin=Origin.of_text(untoken(origin)),
        position=Position.of_text(at).merged(Position.of_text(position)),
        intents={xid: now_ms - opened for xid, opened in since.items()},
        awaits=untoken(awaits),
        guard_generation=int(generation),
    )


def _intents(texts: list[str]) -> dict[str, int]:
    return {untoken(xid): int(since) for xid, since in zip(texts[::2], texts[1::2], strict=True)}
