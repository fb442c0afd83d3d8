"""The marks of one tenant and what may be decided of them. Pure: no clock, no store.

A root counts the tenant's bumps. A tag's mark holds the count at its last bump, the position a node must have reached
to have seen it, and the intents of transactions that may be committing now. An entry notes the count at its miss; it
is fresh while no tag of its answer has been bumped since, nor has an intent open. Every function here gives a new root;
a store runs one of them at a time for a tenant, and the scripts of ``redis_store`` do the same in Lua.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from tidegate.position import NOWHERE, Origin, Position

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


class RootState(StrEnum):
    """What a root may vouch for."""

    CLEAN = "clean"
    PENDING = "pending"
    """Just made: the primary has not been asked which transactions were running."""
    QUARANTINE = "quarantine"
    """Transactions may run that this root does not know."""


class Refusal(StrEnum):
    """Why an entry is not fresh, or an answer not stored."""

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
    """What is known of a tag: the count at its last bump, a position, open intents (transaction id to when, in ms)."""

    generation: int = 0
    position: Position = NOWHERE
    intents: Mapping[str, int] = field(default_factory=dict)


UNMARKED = Mark()


@dataclass(frozen=True, slots=True)
class Root:
    """The marks of one tenant; *awaits* is the transaction id whose elders the quarantine waits for."""

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
        """The mark of *tag*; one without a field was not bumped since the floor."""
        return self.tags.get(tag, UNMARKED)


@dataclass(frozen=True, slots=True)
class Noted:
    """What a miss notes before its query."""

    nonce: str
    counter: int


def ahead(root: Root, epoch: int | None) -> bool:
    """Whether the tenant has moved to another shard since *epoch*, which is all that a caller knows of.

    What a caller with an old shard map notes or finds it would take for that of a shard which has the tenant no more.
    """
    return epoch is not None and root.origin.epoch > epoch


def unclean(root: Root) -> Refusal | None:
    """Why no entry of this tenant is fresh, whatever its tags; None if some may be."""
    if root.state is not RootState.CLEAN:
        return Refusal.STATE
    return Refusal.INTENT if root.intents else None


def stale(root: Root, noted: Noted, tags: Collection[str]) -> Refusal | None:
    """Why an entry with these tags is not fresh; None if it is."""
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
    """Why an answer with these tags, read on a node of *origin*, may not be stored; None if it may."""
    return stale(root, noted, tags) or (Refusal.ORIGIN if origin != root.origin else None)


def opened(root: Root, xid: str, tags: Collection[str], *, whole: bool, now_ms: int) -> Root:
    """The intent of transaction *xid* on *tags*, or on the whole tenant: before its COMMIT is sent."""
    counter = root.counter + 1
    marks = dict(root.tags)
    for tag in tags:
        old = root.mark(tag)
        marks[tag] = Mark(counter, old.position, {**old.intents, xid: now_ms})
    intents = {**root.intents, xid: now_ms} if whole else root.intents
    return replace(root, counter=counter, tags=marks, intents=intents)


def stamped(root: Root, xid: str, tags: Collection[str], *, whole: bool, position: Position) -> Root:
    """After a COMMIT that returned: new generations, the greater position, and the intent of *xid* closed."""
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
    """Close the intents of transactions that have ended, wherever they are, as a stamp at *position* would."""
    for xid in xids:
        tags = [tag for tag, mark in root.tags.items() if xid in mark.intents]
        if tags or xid in root.intents:
            root = stamped(root, xid, tags, whole=xid in root.intents, position=position)
    return root


def completed(root: Root, nonce: str, xid: str, position: Position) -> Root:
    """A pending root after the primary was asked: in quarantine until every transaction before *xid* has ended."""
    if root.nonce != nonce or root.state is not RootState.PENDING:
        return root
    return replace(root, state=RootState.QUARANTINE, awaits=xid, position=root.position.merged(position))


def released(root: Root, nonce: str, position: Position) -> Root:
    """A root whose quarantine is over; what was noted before is void."""
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
    """Without the field of *tag*, which leaves its generation and position with the root; not while it has intents."""
    mark = root.tags.get(tag)
    if mark is None or mark.intents:
        return root
    marks = {other: kept for other, kept in root.tags.items() if other != tag}
    floor, position = max(root.floor, mark.generation), root.position.merged(mark.position)
    return replace(root, tags=marks, floor=floor, position=position)


def trimmed(root: Root, most: int) -> Root:
    """With the oldest generations dropped when there are more than *most* fields, down to three quarters of that."""
    if len(root.tags) <= most:
        return root
    oldest = sorted((mark.generation, tag) for tag, mark in root.tags.items() if not mark.intents)
    for _, tag in oldest[: len(root.tags) - most * 3 // 4]:
        root = dropped(root, tag)
    return root


def _without(intents: Mapping[str, int], xid: str) -> Mapping[str, int]:
    return {other: since for other, since in intents.items() if other != xid}
