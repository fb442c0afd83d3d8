"""The JSON columns of runs and node executions as mappings, and whole rows as dictionaries."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

from sqlalchemy import column, inspect, select, table

from tidegate.repositories.columns import StringUUID
from tidegate.repositories.enums import ExecutionOffLoadType
from tidegate.repositories.lazy import load

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

    from tidegate.repositories.models import WorkflowNodeExecutionModel, WorkflowRun

_UPLOAD_FILES = table("upload_files", column("id", StringUUID()), column("key"))
_JSON_COLUMNS = ("graph", "inputs", "outputs")


class PayloadStorage(Protocol):
    """Read offloaded values."""

    def load(self, key: str, /) -> bytes:
        """Return the bytes under *key*."""
        ...


class RunPayloads:
    """Add to ``WorkflowRun`` its JSON columns as mappings."""

    @property
    def graph_dict(self) -> Mapping[str, Any]:
        """Return the graph; {} if there is none."""
        return _decode(cast("WorkflowRun", self).graph) or {}

    @property
    def inputs_dict(self) -> Mapping[str, Any]:
        """Return the inputs; {} if there are none."""
        return _decode(cast("WorkflowRun", self).inputs) or {}

    @property
    def outputs_dict(self) -> Mapping[str, Any]:
        """Return the outputs; {} if there are none."""
        return _decode(cast("WorkflowRun", self).outputs) or {}

    def to_dict(self) -> dict[str, Any]:
        """Return every column by name; graph, inputs and outputs are decoded."""
        load((self,))
        values = {attribute.key: getattr(self, attribute.key) for attribute in inspect(type(self)).column_attrs}
        return values | {key: _decode(values[key]) or {} for key in _JSON_COLUMNS}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Make a new, transient run from what :meth:`to_dict` gave.

        Raises:
            ValueError: *data* has a key that is no column.
        """
        known = {attribute.key for attribute in inspect(cls).column_attrs}
        if unknown := sorted(set(data) - known):
            raise ValueError(f"unknown columns {unknown}; {cls.__name__} has {sorted(known)}")
        encoded = {key: json.dumps(data[key], ensure_ascii=False) for key in _JSON_COLUMNS if data.get(key) is not None}
        return cls(**(dict(data) | encoded))


class NodePayloads:
    """Add to ``WorkflowNodeExecutionModel`` its JSON columns as mappings, and its offloaded values."""

    @property
    def inputs_dict(self) -> Mapping[str, Any] | None:
        """Return the inputs as the row holds them (truncated if offloaded); None if there are none."""
        return _decode(self._node.inputs)

    @property
    def outputs_dict(self) -> Mapping[str, Any] | None:
        """Return the outputs as the row holds them (truncated if offloaded); None if there are none."""
        return _decode(self._node.outputs)

    @property
    def process_data_dict(self) -> Mapping[str, Any] | None:
        """Return the process data as the row holds it (truncated if offloaded); None if there is none."""
        return _decode(self._node.process_data)

    @property
    def execution_metadata_dict(self) -> Mapping[str, Any]:
        """Return the metadata; {} if there is none."""
        return _decode(self._node.execution_metadata) or {}

    @property
    def inputs_truncated(self) -> bool:
        """Tell whether the whole inputs lie in a file; ``offload_data`` must be loaded."""
        return self._file_id(ExecutionOffLoadType.INPUTS) is not None

    @property
    def outputs_truncated(self) -> bool:
        """Tell whether the whole outputs lie in a file; ``offload_data`` must be loaded."""
        return self._file_id(ExecutionOffLoadType.OUTPUTS) is not None

    @property
    def process_data_truncated(self) -> bool:
        """Tell whether the whole process data lies in a file; ``offload_data`` must be loaded."""
        return self._file_id(ExecutionOffLoadType.PROCESS_DATA) is not None

    def load_full_inputs(self, session: Session, storage: PayloadStorage) -> Mapping[str, Any] | None:
        """Return the whole inputs, from *storage* if they were offloaded; ``offload_data`` must be loaded.

        Raises:
            ValueError: they were offloaded, and ``upload_files`` has no row for their file.
        """
        return self._full(session, storage, ExecutionOffLoadType.INPUTS, self.inputs_dict)

    def load_full_outputs(self, session: Session, storage: PayloadStorage) -> Mapping[str, Any] | None:
        """Return the whole outputs, from *storage* if they were offloaded; ``offload_data`` must be loaded.

        Raises:
            ValueError: they were offloaded, and ``upload_files`` has no row for their file.
        """
        return self._full(session, storage, ExecutionOffLoadType.OUTPUTS, self.outputs_dict)

    def load_full_process_data(self, session: Session, storage: PayloadStorage) -> Mapping[str, Any] | None:
        """Return the whole process data, from *storage* if it was offloaded; ``offload_data`` must be loaded.

        Raises:
            ValueError: it was offloaded, and ``upload_files`` has no row for its file.
        """
        return self._full(session, storage, ExecutionOffLoadType.PROCESS_DATA, self.process_data_dict)

    @property
    def _node(self) -> WorkflowNodeExecutionModel:
        return cast("WorkflowNodeExecutionModel", self)

    def _file_id(self, kind: ExecutionOffLoadType) -> str | None:
        return next((offload.file_id for offload in self._node.offload_data if offload.type_ == kind), None)

    def _full(
        self,
        session: Session,
        storage: PayloadStorage,
        kind: ExecutionOffLoadType,
        in_row: Mapping[str, Any] | None,
    ) -> Mapping[str, Any] | None:
        file_id = self._file_id(kind)
        if file_id is None:
            return in_row
        key = session.scalar(select(_UPLOAD_FILES.c.key).where(_UPLOAD_FILES.c.id == file_id))
        if key is None:
            raise ValueError(f"node execution {self._node.id}: upload_files has no row {file_id} for its {kind.value}")
        return _decode(storage.load(key))


def _decode(value: str | bytes | None) -> dict[str, Any] | None:
    return cast("dict[str, Any]", json.loads(value)) if value else None
