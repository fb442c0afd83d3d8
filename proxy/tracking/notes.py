"""What the notes of a transaction say: which tags of which tenants it has changed. Pure.

A trigger writes a note: what was done to a table, the values that tell tenants and tags of each row that was touched,
before and after, and those of its parents. The note names its templates, so whoever finds it can tell the tags, also a
gate that does not track the table itself.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tidegate.cache.store import Change
from tidegate.cache.tags import UNKNOWN, as_text, template
from tidegate.proxy.tracking.model_tables import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tidegate.proxy.tracking.tracked_table import TrackedTable

MOST_TAGS: Final = 10_000
"""How many tags of one tenant count one by one; with more of them the whole tenant counts as changed."""
MOST_ROWS: Final = 1_000
"""How many rows of one statement are noted one by one; with more of them the tenants of all of them are."""
MOST_TOGETHER: Final = 10_000
"""How many rows of one transaction are noted one by one; with more of them the tenants of each further statement are,
once for each table and each way to change it."""
MOST_TENANTS: Final = 1_000
"""How many tenants of such a statement are noted; with more of them everything counts as changed."""
GIVEN: Final = ""
"""The source of a note that no trigger wrote: its rows are changes."""
_OF_TRIGGER: Final = re.compile(r"the trigger of (.+?) failed: (.*)", re.DOTALL).fullmatch
"""Why anything may have changed, if a trigger could not do its work: a commit passes it on in its own note."""
UNREADABLE: Final = "?"
"""What stands in a note for a date that Python cannot hold."""


class Note(NamedTuple):
    """A note as it lies in the outbox.

    Args:
        source: what was done to which table, and what its values mean, as :func:`source_of` writes it.
        rows: the values, as JSON: [[own, parent's, ...], ...], each a mapping or null; {"rows": that, "parents": [note,
            ...]}, if parents are gone, with what their own notes said; {"old": all that}, if the parents may be old
            versions; or what is left of too many rows, {"whole": [tenant, ...]} or {"all": true}; or {"failed": error}.
    """

    source: str
    rows: str


class Found(NamedTuple):
    """What notes say.

    Args:
        changes: by tenant, sorted, so that all writers touch the marks of tenants in one order.
        everything: why anything may have changed; "": only what *changes* say.
        failed: the table and the error of each trigger that could not do its work.
    """

    changes: tuple[Change, ...]
    everything: str = ""
    failed: tuple[tuple[str, str], ...] = ()


def source_of(table: TrackedTable, did: str) -> str:
    """Return the source of the notes of one trigger.

    Args:
        table: the table.
        did: "insert", "update" or "delete".
    """
    levels = [
        {
            "table": shown(level.key),
            "pk": level.pk,
            "tenant": level.tenant,
            "tags": [made.text for made in level.templates],
            "spread": [[made.template.text, dict(made.elsewhere), made.kinds] for made in level.spread],
            "up": level.parent and level.parent.fields,
            "same": level.parent is not None and level.parent.is_same_row,
            "owns": level.is_parent,
            "dated": level.dated,
            "labels": level.labels,
        }
        for level in table.levels
    ]
    return json.dumps({"did": did, "levels": levels}, sort_keys=True, separators=(",", ":"))


@lru_cache(maxsize=1024)
def read_source(source: str) -> Mapping[str, Any]:
    """Return what :func:`source_of` has written: all notes of one trigger have the same. It must not be changed."""
    read: Mapping[str, Any] = json.loads(source)
    return read


def note_of(changes: Iterable[Change]) -> Note:
    """Return the note that says *changes*."""
    given = [[change.tenant, sorted(change.tags), change.whole] for change in changes]
    return Note(GIVEN, json.dumps(given, separators=(",", ":")))


def everything_note(why: str, *, told: bool = False) -> Note:
    """Return the note that anything may have changed.

    Args:
        why: what is known of it.
        told: whether the gate that commits tells its observers of it.
    """
    return Note(GIVEN, json.dumps({"failed": why, "told": True} if told else {"failed": why}))


def found_in(notes: Sequence[Note], most_tags: int = MOST_TAGS) -> Found:
    """Return what *notes* of one transaction say together; of several ones, if each alone says enough.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: one of them cannot be read.
    """
    reader = NoteReader(most_tags)
    for note in notes:
        reader.take(note)
    return reader.found()


def read_notes(notes: Sequence[Note], most_tags: int = MOST_TAGS) -> Found:
    """Return what :func:`found_in` does; where a note cannot be read, that anything may have changed.

    It may be written by hand, or by triggers of a later release: those of two releases stand side by side.
    """
    try:
        return found_in(notes, most_tags)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return Found((), f"a note cannot be read: {error!r}")


_Place = tuple[str, tuple[str, ...]]
"""Which row: its table, and its primary key as text."""


class NoteReader:
    """Read the notes of one transaction together.

    Args:
        most_tags: how many tags of one tenant count one by one.
    """

    def __init__(self, most_tags: int = MOST_TAGS) -> None:
        self._most_tags = most_tags
        self._tags: dict[str, set[str]] = {}
        self._whole: set[str] = set()
        self._everything = ""
        self._failed: list[tuple[str, str]] = []
        self._owners: dict[_Place, str] = {}
        self._touched: dict[_Place, list[dict[str, Any]]] = {}
        self._rows: list[tuple[list[dict[str, Any]], list[dict[str, Any] | None], bool]] = []

    def take(self, note: Note) -> None:
        """Read a note."""
        rows = json.loads(note.rows)
        if note.source == GIVEN and isinstance(rows, dict):
            self._void(rows["failed"])
            return
        if note.source == GIVEN:
            for tenant, tags, whole in rows:
                self._add(tenant, tags, whole=whole)
            return
        source, is_old, rows = read_source(note.source), *self._unwrapped(rows)
        if isinstance(rows, dict):
            self._take_summary(source, rows)
            return
        levels = source["levels"]
        for values in _values(levels, rows):
            self._rows.append((levels, values, is_old))
            self._learn(levels, values)

    def _unwrapped(self, rows: Any) -> tuple[bool, Any]:
        """Return whether the parents may be old versions, and the rows alone; learn whose the parents are."""
        if is_old := isinstance(rows, dict) and "old" in rows:
            rows = rows["old"]
        if not isinstance(rows, dict) or "rows" not in rows:
            return is_old, rows
        for source, of_parents in rows["parents"] or ():
            levels, (_, bare) = read_source(source)["levels"], self._unwrapped(json.loads(of_parents))
            if not isinstance(bare, dict):  # else their tenants count whole, by that note itself
                for values in _values(levels, bare):
                    self._learn(levels, values)
        return is_old, rows["rows"]

    def _take_summary(self, source: Mapping[str, Any], rows: Mapping[str, Any]) -> None:
        for tenant in rows.get("whole", ()):
            self._whole.add(as_text(tenant))
        if "failed" in rows or "all" in rows:
            table = source["levels"][0]["table"]
            self._void(f"the trigger of {table} failed: {rows['failed']}" if "failed" in rows else f"all of {table}")

    def _void(self, why: str) -> None:
        self._everything = self._everything or why
        if found := _OF_TRIGGER(why):
            self._failed.append((found[1], found[2]))

    def _learn(self, levels: Sequence[dict[str, Any]], values: Sequence[dict[str, Any] | None]) -> None:
        """Keep the versions of each row, and whose it is."""
        own, level = values[0], levels[0]
        if own is not None and (level["same"] or level["owns"]):
            versions = self._touched.setdefault(_place(level, own), [])
            if own not in versions:
                versions.append(own)
        self._learn_owners(levels, values)

    def _learn_owners(self, levels: Sequence[dict[str, Any]], values: Sequence[dict[str, Any] | None]) -> None:
        """Keep whose each row is: by the time that a row is deleted, its parent may be gone."""
        for at in range(len(levels)):
            own, level = values[at], levels[at]
            if own is not None and level["owns"] and (tenant := self.tenant(levels[at:], values[at:])) is not None:
                known = self._owners.setdefault(_place(level, own), tenant)
                if known != tenant:  # it went to another tenant, and with it all rows that name it as their parent
                    self._whole.update((known, tenant))

    def tenant(self, levels: Sequence[dict[str, Any]], values: Sequence[dict[str, Any] | None]) -> str | None:
        """Return whose a row is; None if nobody knows, since its parent is gone."""
        own, level = values[0], levels[0]
        if own is None:
            return None
        if level["tenant"] is not None:
            tenant = own[level["tenant"]]
            return None if tenant is None else as_text(tenant)
        return self._above(levels, values)

    def _above(self, levels: Sequence[dict[str, Any]], values: Sequence[dict[str, Any] | None]) -> str | None:
        """Return whose the parent of a row is; None if it has none, or the parent is gone."""
        named = _named(levels[0], values[0])
        if named is None:
            return None
        found = self.tenant(levels[1:], values[1:])
        return found or self._owners.get((levels[1]["table"], named))

    def rows_of(self, note: Note) -> list[list[dict[str, Any] | None]] | dict[str, Any]:
        """Return the rows of a note that a trigger wrote, each with its parents; or the summary of too many."""
        _, rows = self._unwrapped(json.loads(note.rows))
        return rows if isinstance(rows, dict) else list(_values(read_source(note.source)["levels"], rows))

    def found(self) -> Found:
        """Return what the notes that were read say."""
        for levels, values, is_old in self._rows:
            self._row(levels, values, is_old=is_old)
        tenants = sorted(self._whole.union(tenant for tenant, tags in self._tags.items() if tags))
        changes = (
            Change(tenant, whole=True) if tenant in self._whole else Change(tenant, frozenset(self._tags[tenant]))
            for tenant in tenants
        )
        return Found(tuple(changes), self._everything, tuple(self._failed))

    def _row(
        self,
        levels: Sequence[dict[str, Any]],
        values: Sequence[dict[str, Any] | None],
        *,
        is_old: bool,
        with_tags: bool = True,
    ) -> None:
        own, level = values[0], levels[0]
        if own is None:
            return
        tenant = self.tenant(levels, values)
        if _named(level, own) is not None:
            # Another part of the same row has no tags of its own: they are among the row's.
            self._row(levels[1:], values[1:], is_old=is_old, with_tags=not level["same"])
            if (is_old or self._above(levels, values) is None) and level["tenant"] is not None and tenant is not None:
                # Another transaction may have inserted the parent, or given it to another tenant. This one does not
                # see that, and the other may commit first. So it is not known which tags depend on both.
                self._whole.add(tenant)
        if tenant is not None and with_tags:
            self._add(tenant, [template(text).expand(own) for text in level["tags"]])
            self._add(tenant, [tag for spread in level["spread"] for tag in self._spread(level, own, *spread)])

    def _spread(
        self,
        level: Mapping[str, Any],
        own: Mapping[str, Any],
        text: str,
        elsewhere: Mapping[str, str],
        kinds: tuple[str, Sequence[str]] | None,
    ) -> Iterator[Any]:
        """Yield the tags of a template that needs other parts of the row, which lie in other tables.

        A part that this transaction has touched too is known, as nobody else can have changed it meanwhile. Any other
        part may be changed at this moment by a transaction that does not see this one: then no tag is known.
        """
        if kinds is not None and (kind := own.get(kinds[0])) is not None and as_text(kind) not in kinds[1]:
            return
        parts = []
        for table in sorted(set(elsewhere.values())):
            names = [name for name, there in elsewhere.items() if there == table]
            touched = self._touched.get((table, _place(level, own)[1]), ())
            parts.append([{name: row[name] for name in names} for row in touched if row.keys() >= set(names)])
        if not all(parts):
            yield UNKNOWN
        for some in product(*parts):
            yield template(text).expand({**own, **{name: part[name] for part in some for name in part}})

    def _add(self, tenant: str, tags: Iterable[Any], *, whole: bool = False) -> None:
        known = self._tags.setdefault(tenant, set())
        if whole:
            self._whole.add(tenant)
        for tag in tags:
            if tag is UNKNOWN or len(known) > self._most_tags:
                self._whole.add(tenant)
            elif tag is not None and tenant not in self._whole:
                known.add(tag)


def _place(level: Mapping[str, Any], own: Mapping[str, Any]) -> _Place:
    return level["table"], tuple(as_text(own[name]) for name in level["pk"])


def _named(level: Mapping[str, Any], own: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    """Return the primary key of the row that a row names as its parent; None if it names none."""
    if own is None or level["up"] is None:
        return None
    key = [own[name] for name in level["up"]]
    return None if None in key else tuple(map(as_text, key))


def _values(levels: Sequence[dict[str, Any]], rows: Iterable[Sequence[Any]]) -> Iterator[list[dict[str, Any] | None]]:
    for row in rows:
        yield [None if own is None else _read(level, own) for level, own in zip(levels, row, strict=True)]


def _read(level: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a row as the program has them."""
    read = dict(values)
    for name in level["dated"]:
        if read[name] is not None:
            read[name] = _date(read[name])
    for name, labels in level["labels"].items():
        read[name] = labels.get(read[name], read[name])
    return read


def _date(text: str) -> Any:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return UNKNOWN
