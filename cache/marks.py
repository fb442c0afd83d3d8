"""The marks of one tenant, and what may be decided by them. Pure: no clock, no store.

A root counts the bumps of its tenant. The mark of a tag holds three things: the counter at its last bump, the position
that a node must have reached to have seen that bump, and the intents of transactions that may be committing now. An
entry notes the counter at its miss. It is fresh as long as no tag of its answer has been bumped since, and none has an
open intent.

Every function that changes something returns a new root. A store runs one of them at a time for a tenant; the scripts
of ``cache.redis`` do the same in Lua.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from tidegate.position import NOWHERE, Origin, Position

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tidegate.position import AskedFor


class RootState(StrEnum):
    """What a root may vouch for."""

    CLEAN = "clean"
    PENDING = "pending"
    """The root was just made: nobody has asked the primary yet which transactions are running."""
    QUARANTINE = "quarantine"
    """Transactions may be running that this root does not know."""


class Refusal(StrEnum):
    """Why an entry is not fresh, or why an answer is not stored."""

    NO_ENTRY = "no entry"
    NO_ROOT = "no root"
    NONCE = "the marks were lost since"
    STATE = "the root is not clean"
    FLOOR = "below the floor"
    BUMPED = "a tag was bumped"
    INTENT = "a transaction may be committing"
    LEASE = "the lease was lost"
    ORIGIN = "from another origin"
    TOO_LARGE = "larger than the store takes"
    EPOCH = "the tenant has moved since the shard map that was used"


@dataclass(frozen=True, slots=True)
class Mark:
    """What the cache knows of a tag.

    Args:
        generation: the counter at the last bump of the tag.
        position: what a node must have reached to have seen that bump.
        intents: the open intents: transaction id to the time when it was opened, in milliseconds.
    """

    generation: int = 0
    position: Position = NOWHERE
    intents: Mapping[str, int] = field(default_factory=dict)


UNMARKED = Mark()


@dataclass(frozen=True, slots=True)
class Root:
    """The marks of one tenant.

    Args:
        nonce: tells one life of the root from the next.
        origin: whose data the entries of this tenant hold.
        state: what the root may vouch for.
        counter: the count of bumps of the tenant.
        floor: entries that noted a lower counter are void.
        position: what a node must have reached to have seen the last change of the whole tenant.
        intents: the open intents on the whole tenant: transaction id to the time when it was opened, in milliseconds.
        awaits: in quarantine, a transaction id: every transaction before it must have ended. Empty otherwise.
        tags: the marks of the tags.
    """

    nonce: str
    origin: Origin
    state: RootState = RootState.PENDING
    counter: int = 0
    floor: int = 0
    position: Position = NOWHERE
    intents: Mapping[str, int] = field(default_factory=dict)
    awaits: str = ""
    tags: Mapping[str, Mark] = field(default_factory=dict)

    def mark(self, tag: str) -> Mark:
        """Return the mark of *tag*. A tag without a field was not bumped since the floor."""
        return self.tags.get(tag, UNMARKED)


@dataclass(frozen=True, slots=True)
class Noted:
    """What a miss notes before its query: the nonce and the counter of the root."""

    nonce: str
    counter: int


def ahead(root: Root, asked: AskedFor) -> bool:
    """Tell whether the tenant has moved to another shard since the last move that the caller knows.

    A caller with an old shard map would take what it notes or finds for that of a shard which does not hold the tenant
    any more. With one shard the answer is False.
    """
    return asked.epoch is not None and root.origin.epoch > asked.epoch


def foreign(root: Root, asked: AskedFor) -> bool:
    """Tell whether the root is of another history than the caller's.

    Its entries may hold what the caller's database has lost, and lack what it has.
    """
    return root.origin.history != asked.history


def not_asked_for(root: Root, asked: AskedFor) -> Refusal | None:
    """Return why nothing of this root, fresh or not, is what the caller asks for; None if it is."""
    if ahead(root, asked):
        return Refusal.EPOCH
    return Refusal.ORIGIN if foreign(root, asked) else None


def unclean(root: Root) -> Refusal | None:
    """Return why no entry of this tenant is fresh, whatever its tags; None if some may be."""
    if root.state is not RootState.CLEAN:
        return Refusal.STATE
    return Refusal.INTENT if root.intents else None


def stale(root: Root, noted: Noted, tags: Collection[str]) -> Refusal | None:
    """Return why an entry with these tags is not fresh; None if it is."""
    if noted.nonce != root.nonce:
        return Refusal.NONCE
    if (refusal := unclean(root)) is not None:
        return refusal
    if noted.counter < root.floor:
        return Refusal.FLOOR
    for tag in tags:
        mark = root.mark(tag)
        if mark.generation > noted.counter:
            return Refusal.BUMPED
        if mark.intents:
            return Refusal.INTENT
    return None


def may_not_fill(root: Root, noted: Noted, tags: Collection[str], origin: Origin) -> Refusal | None:
    """Return why an answer with these tags, read on a node of *origin*, may not be stored; None if it may."""
    return stale(root, noted, tags) or (Refusal.ORIGIN if origin != root.origin else None)


def opened(root: Root, xid: str, tags: Collection[str], *, whole: bool, now_ms: int) -> Root:
    """Open the intent of transaction *xid* on *tags*, or on the whole tenant, before its COMMIT is sent.

    The tags get a new generation. *now_ms* is the time when the intent is opened, in milliseconds.
    """
    counter = root.counter + 1
    marks = dict(root.tags)
    for tag in tags:
        old = root.mark(tag)
        marks[tag] = Mark(counter, old.position, {**old.intents, xid: now_ms})
    intents = {**root.intents, xid: now_ms} if whole else root.intents
    return replace(root, counter=counter, tags=marks, intents=intents)


def stamped(root: Root, xid: str, tags: Collection[str], *, whole: bool, position: Position) -> Root:
    """Stamp *tags* after a COMMIT that returned.

    They get a new generation and the greater of their position and *position*, and the intent of *xid* is closed. With
    *whole* the same is done to the root, and its floor rises to the new counter.
    """
    counter = root.counter + 1
    marks = dict(root.tags)
    for tag in tags:
        old = root.mark(tag)
        marks[tag] = Mark(counter, old.position.merged(position), _without(old.intents, xid))
    new = replace(root, counter=counter, tags=marks)
    if not whole:
        return new
    return replace(new, floor=counter, position=root.position.merged(position), intents=_without(root.intents, xid))


def resolved(root: Root, xids: Collection[str], position: Position) -> Root:
    """Close the intents of transactions that have ended, wherever these are, as a stamp at *position* would."""
    for xid in xids:
        tags = [tag for tag, mark in root.tags.items() if xid in mark.intents]
        if tags or xid in root.intents:
            root = stamped(root, xid, tags, whole=xid in root.intents, position=position)
    return root


def completed(root: Root, nonce: str, xid: str, position: Position) -> Root:
    """Put a pending root into quarantine, after the primary was asked for *xid* and *position*.

    The quarantine lasts until every transaction before *xid* has ended. A root with another nonce, or one that is not
    pending, stays as it is.
    """
    if root.nonce != nonce or root.state is not RootState.PENDING:
        return root
    return replace(root, state=RootState.QUARANTINE, awaits=xid, position=root.position.merged(position))


def released(root: Root, nonce: str, position: Position) -> Root:
    """Make a root clean whose quarantine is over, and void what was noted before.

    A root with another nonce, or one that is not in quarantine, stays as it is.
    """
    if root.nonce != nonce or root.state is not RootState.QUARANTINE:
        return root
    counter = root.counter + 1
    return replace(
        root,
        state=RootState.CLEAN,
        counter=counter,
        floor=counter,
        position=root.position.merged(position),
        awaits="",
    )


def dropped(root: Root, tag: str) -> Root:
    """Drop the field of *tag*. Its generation and position stay with the root. A tag with an open intent is kept."""
    mark = root.tags.get(tag)
    if mark is None or mark.intents:
        return root
    marks = {other: kept for other, kept in root.tags.items() if other != tag}
    floor, position = max(root.floor, mark.generation), root.position.merged(mark.position)
    return replace(root, tags=marks, floor=floor, position=position)


def trimmed(root: Root, most: int) -> Root:
    """Drop the oldest generations if there are more than *most* fields, down to three quarters of *most*."""
    if len(root.tags) <= most:
        return root
    oldest = sorted((mark.generation, tag) for tag, mark in root.tags.items() if not mark.intents)
    for _, tag in oldest[: len(root.tags) - most * 3 // 4]:
        root = dropped(root, tag)
    return root


def _without(intents: Mapping[str, int], xid: str) -> Mapping[str, int]:
    return {other: since for other, since in intents.items() if other != xid}
