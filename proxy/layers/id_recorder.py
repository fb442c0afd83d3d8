"""Record whose ids are whose, as they come by: of rows that a node answered, and of rows that were committed.

The layer stands below the caching, so a hit costs nothing.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tidegate.cache.tags import as_text
from tidegate.proxy.writes.invalidation import is_by_hand

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tidegate.cache.request import Answer
    from tidegate.cache.store import Change
    from tidegate.proxy.call import Call, Layer
    from tidegate.proxy.explanation import Explanation
    from tidegate.proxy.shards.id_queries import TrackedIds
    from tidegate.repositories.policies import Tracked
    from tidegate.repositories.tenant_directory import Kind, TenantDirectory


class IdRecorder:
    """Record the ids of answers in the directory.

    Args:
        directory: knows whose ids are whose.
        tracked: the models whose rows may be in answers.
        below: the layer that asks a node.
    """

    def __init__(self, directory: TenantDirectory, tracked: Sequence[Tracked], below: Layer) -> None:
        self._directory: Final = directory
        self._below: Final = below
        self._of_model: Final = {row.model: row for row in tracked if row.identifies is not None}

    def explain(self, call: Call) -> Explanation:
        """Have the layer below explain."""
        return self._below.explain(call)

    def __call__(self, call: Call) -> Answer:
        """Have the layer below answer, and record whose ids are in it."""
        answer = self._below(call)
        value = answer.value
        if value is None:
            return answer
        if (kind := call.policy.answer_kind) is not None:
            if call.tenant is not None:
                self._directory.record(kind, [(_id_of(value), call.tenant)])
            return answer
        rows = _rows(value)
        tracked = self._tracked(type(rows[0])) if rows else None
        if tracked is None or not self._record(tracked, rows, call.tenant):
            return answer
        # Another's by now: what changes the row from here on is told to that tenant's marks, not to this one's.
        return answer._replace(origin=None)

    def _record(self, tracked: Tracked, rows: Sequence[Any], tenant: str | None) -> bool:
        """Record all rows at once; tell whether one of them is not this tenant's, as far as they say it."""
        if tracked.identifies is None or tracked.tenant is None:
            return False
        (column, kind), owner, cls = tracked.identifies, tracked.tenant, type(rows[0])
        # Of what is loaded, and not through the attributes of SQLAlchemy: those cost a miss more than all the rest, and
        # would ask the database for a row that has expired with its commit.
        loaded = [row.__dict__ for row in rows if row.__class__ is cls]
        found = [(values[column], values[owner]) for values in loaded if column in values and owner in values]
        self._directory.record(kind, found)
        if tenant is None:
            return False
        canonical = as_text(tenant)
        return len(found) < len(rows) or any(as_text(other) != canonical for other in {other for _, other in found})

    def _tracked(self, cls: type[Any]) -> Tracked | None:
        return next((self._of_model[base] for base in cls.__mro__ if base in self._of_model), None)


def _id_of(value: Any) -> str:
    return str(value.id)


def _rows(value: Any) -> Sequence[Any]:
    if isinstance(value, list):
        return value
    page = getattr(value, "data", None)
    return page if isinstance(page, list) else (value,)


def commit_recorder(directory: TenantDirectory, tracked: TrackedIds) -> Callable[[Sequence[Change]], None]:
    """Return what records the rows that a commit has changed.

    Args:
        directory: knows whose ids are whose.
        tracked: tells by which tags rows name their own id: "run:{id}", but not "nodes:{workflow_run_id}", since a
            node execution may name a run that is another tenant's.
    """
    return partial(_record_commit, directory, tracked)


def _record_commit(directory: TenantDirectory, tracked: TrackedIds, changes: Sequence[Change]) -> None:
    kinds = tracked.kinds_by_tag
    for change in changes:
        found: dict[Kind, list[tuple[str, str]]] = {}
        for tag in change.tags:
            name, _, key = tag.partition(":")
            if (kind := kinds.get(name)) is None or ":" in key or is_by_hand(tag, change):  # which proves nothing
                continue
            found.setdefault(kind, []).append((key, change.tenant))
        for kind, ids in found.items():
            directory.record(kind, ids)
