"""What notes say of single rows: created, updated, deleted. Pure."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from tidegate.cache.tags import as_text
from tidegate.proxy.tracking.notes import GIVEN, NoteReader, read_source, source_of
from tidegate.public import public

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tidegate.proxy.tracking.notes import Note
    from tidegate.proxy.tracking.tracked_table import TrackedTable

Values = list[dict[str, Any] | None]
_DONE: Final[Mapping[str, Literal["created", "deleted"]]] = {"insert": "created", "delete": "deleted"}


@public
@dataclass(frozen=True, slots=True)
class RowEvent:
    """What a committed transaction has done to a row; or to rows of which nothing more is known.

    Args:
        did: "created", "updated" or "deleted"; or "changed", which is a summary: rows may have been created, updated
            and deleted, and what is None below may be any.
        entity: the name of the table, with its schema if the model names one.
        tenant: whose row it is; None too if its parent is gone.
        id: the row's primary key, as JSON has it; a tuple, if it has several columns.
        before: the columns that tell tenant and tags, by attribute, as they were; None: it was created, or is unknown.
        after: as they are now; None: it was deleted, or is unknown.
    """

    did: Literal["created", "updated", "deleted", "changed"]
    entity: str | None = None
    tenant: str | None = None
    id: Any = None
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


def sources_of(tables: Iterable[TrackedTable]) -> frozenset[str]:
    """Return the sources of the notes of *tables*, as the triggers of this release write them.

    Triggers of another release note the same change once more, under another source.
    """
    kinds = ("insert", "update", "delete", "truncate", "replica")
    return frozenset(source_of(table, did) for table in tables for did in kinds)


def events_of(notes: Sequence[Note], sources: frozenset[str]) -> list[RowEvent]:
    """Return what *notes* of one transaction say, in their order.

    Args:
        notes: the notes.
        sources: those that are listened to.
    """
    reader = NoteReader()
    for note in notes:
        if note.source != GIVEN:
            reader.take(note)
    return [event for note in notes for event in _events(note, reader, sources)]


def summaries_of(notes: Sequence[Note], sources: frozenset[str]) -> list[RowEvent]:
    """Return what *notes* say if nobody knows whether their transaction was committed: what may have changed."""
    events = events_of(notes, sources)
    return list(dict.fromkeys(RowEvent("changed", event.entity, event.tenant) for event in events))


def _events(note: Note, reader: NoteReader, sources: frozenset[str]) -> Iterator[RowEvent]:
    if note.source == GIVEN:
        given = json.loads(note.rows)
        if isinstance(given, dict) and not given.get("told"):
            yield RowEvent("changed")
        return
    if note.source not in sources:
        return
    source = read_source(note.source)
    levels, rows = source["levels"], reader.rows_of(note)
    entity = levels[0]["table"]
    if isinstance(rows, dict):
        whole = [as_text(tenant) for tenant in rows.get("whole", ())]
        yield from (RowEvent("changed", entity, tenant) for tenant in whole or (None,))
        return
    if source["did"] in _DONE:
        for values in rows:
            yield _event(_DONE[source["did"]], levels, values, reader)
        return
    yield from _updates(levels, rows, reader)


def _updates(levels: Sequence[dict[str, Any]], rows: Sequence[Values], reader: NoteReader) -> Iterator[RowEvent]:
    """Yield an event for each row, of which there are two versions; one whose key has changed is another row."""
    half = len(rows) // 2
    before: defaultdict[str, list[Values]] = defaultdict(list)
    for values in rows[:half]:
        before[str(_id(levels[0], values))].append(values)
    created = []
    for values in rows[half:]:
        if old := before[str(_id(levels[0], values))]:
            own = old.pop(0)[0]
            event = _event("updated", levels, values, reader)
            yield RowEvent("updated", event.entity, event.tenant, event.id, own, event.after)
        else:
            created.append(values)
    for values in (values for some in before.values() for values in some):
        yield _event("deleted", levels, values, reader)
    for values in created:
        yield _event("created", levels, values, reader)


def _event(
    did: Literal["created", "updated", "deleted"],
    levels: Sequence[dict[str, Any]],
    values: Values,
    reader: NoteReader,
) -> RowEvent:
    own, tenant = values[0], reader.tenant(levels, values)
    before, after = (own, None) if did == "deleted" else (None, own)
    return RowEvent(did, levels[0]["table"], tenant, _id(levels[0], values), before, after)


def _id(level: Mapping[str, Any], values: Values) -> Any:
    own = values[0] or {}
    key = tuple(own.get(name) for name in level["pk"])
    return key[0] if len(key) == 1 else key
