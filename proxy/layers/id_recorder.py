"""What passes by tells whose ids are whose: rows that a node answered, and rows that were committed.

It stands below the caching, so a hit costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tidegate.cache.tags import as_text
from tidegate.proxy.layers.explained import nodes_explained
from tidegate.repositories.entities.workflow_pause import WorkflowPauseEntity
from tidegate.repositories.models import WorkflowArchiveLog, WorkflowNodeExecutionModel, WorkflowRun

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tidegate.cache.store import Change
    from tidegate.proxy.call import Call, Layer
    from tidegate.proxy.layers.explained import NodeLine
    from tidegate.repositories.tenant_directory import Kind, TenantDirectory

# Of the rows themselves: "nodes:" says of a row that it names a run, which may be another tenant's.
_BY_TAG: Final[dict[str, Kind]] = {"run": "run", "node": "node"}


class IdRecorder:
    """Notes the rows of answers in the directory.

    Args:
        directory: whose ids are whose.
        below: the layer that asks a node.
    """

    def __init__(self, directory: TenantDirectory, below: Layer) -> None:
        self._directory: Final = directory
        self._below: Final = below

    def explain(self, call: Call) -> Sequence[NodeLine]:
        """See ``Explains``."""
        return nodes_explained(self._below, call)

    def __call__(self, call: Call) -> object:
        """The answer."""
        answer = self._below(call)
        if answer is None:
            return None
        if isinstance(answer, WorkflowPauseEntity):
            if call.tenant is not None:
                self._directory.record("pause", [(answer.id, call.tenant)])
            return answer
        for row in _rows(answer):
            if isinstance(row, WorkflowRun):
                self._directory.record("run", [(row.id, row.tenant_id)])
            elif isinstance(row, WorkflowNodeExecutionModel):
                self._directory.record("node", [(row.id, row.tenant_id)])
            elif isinstance(row, WorkflowArchiveLog):
                self._directory.record("run", [(row.workflow_run_id, row.tenant_id)])
            else:
                break
            if call.tenant is not None and as_text(row.tenant_id) != as_text(call.tenant):
                # Another's by now: what changes it from here on is told to that tenant's marks, not to this one's.
                call.origin = None
        return answer


def _rows(answer: Any) -> Iterable[Any]:
    if isinstance(answer, list):
        return answer
    page = getattr(answer, "data", None)
    return page if isinstance(page, list) else (answer,)


def record_committed(directory: TenantDirectory, changes: Sequence[Change]) -> None:
    """Note the rows that a commit has changed, by their tags."""
    for change in changes:
        found: dict[Kind, list[tuple[str, str]]] = {}
        for tag in change.tags:
            name, _, key = tag.partition(":")
            if f"nodesof:{key}" in change.tags:  # an invalidation by hand, which proves nothing
                continue
            if (kind := _BY_TAG.get(name)) is not None and ":" not in key:
                found.setdefault(kind, []).append((key, change.tenant))
        for kind, ids in found.items():
            directory.record(kind, ids)
