"""The enumerations, and rows as dictionaries."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tidegate.repositories import enums
from tidegate.repositories.enums import WorkflowExecutionStatus
from tidegate.repositories.models import WorkflowNodeExecutionModel, WorkflowRun, new_id

pytestmark = pytest.mark.fast

VALUES = {
    "WorkflowRunTriggeredFrom": "debugging app-run rag-pipeline-run rag-pipeline-debugging webhook schedule plugin",
    "WorkflowNodeExecutionTriggeredFrom": "single-step workflow-run rag-pipeline-run",
    "WorkflowType": "workflow chat rag-pipeline",
    "WorkflowExecutionStatus": "scheduled running succeeded failed stopped partial-succeeded paused",
    "WorkflowNodeExecutionStatus": "pending running succeeded failed exception stopped paused retry",
    "CreatorUserRole": "account end_user",
    "ExecutionOffLoadType": "inputs process_data outputs",
    "PauseReasonType": "human_input_required scheduled_pause",
    "WorkflowAppLogCreatedFrom": "service-api web-app installed-app",
}


@pytest.mark.parametrize("name", list(VALUES))
def test_an_enumeration_has_these_values(name: str) -> None:
    assert [member.value for member in getattr(enums, name)] == VALUES[name].split()


def test_four_states_end_a_run() -> None:
    ended = {"succeeded", "failed", "stopped", "partial-succeeded"}
    assert set(WorkflowExecutionStatus.ended_values()) == ended
    assert {status.value for status in WorkflowExecutionStatus if status.is_ended()} == ended


def run(**values: Any) -> WorkflowRun:
    given = {
        "id": new_id(),
        "tenant_id": new_id(),
        "graph": '{"é": [1]}',
        "inputs": None,
        "outputs": "",
        "version": "1",
    }
    return WorkflowRun(**(given | values))


def test_a_run_comes_back_from_its_dictionary() -> None:
    first = run()
    values = first.to_dict()
    assert set(values) == {column.key for column in WorkflowRun.__mapper__.column_attrs}
    assert (values["graph"], values["inputs"], values["outputs"]) == ({"é": [1]}, {}, {})
    again = WorkflowRun.from_dict(values)
    assert again.to_dict() == values
    assert json.loads(again.graph or "") == {"é": [1]}


def test_a_dictionary_with_an_unknown_column_is_refused_with_those_known() -> None:
    with pytest.raises(ValueError, match=r"\['colour'\].*'version'"):
        WorkflowRun.from_dict({"id": new_id(), "colour": "blue"})


def test_json_columns_of_a_run_are_mappings_and_empty_ones_too() -> None:
    assert (run().graph_dict, run().inputs_dict, run().outputs_dict) == ({"é": [1]}, {}, {})


def test_json_columns_of_a_node_execution_tell_none_from_empty() -> None:
    node = WorkflowNodeExecutionModel(inputs='{"a": 1}', outputs=None, process_data="{}", execution_metadata=None)
    found = (node.inputs_dict, node.outputs_dict, node.process_data_dict, node.execution_metadata_dict)
    assert found == ({"a": 1}, None, {}, {})
