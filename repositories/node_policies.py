"""The policies of the node execution repository, and of the write side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tidegate.repositories.policies import PRIMARY, PolicyTable, Read, Write

if TYPE_CHECKING:
    from collections.abc import Mapping


def _with_tenant(arguments: Mapping[str, Any]) -> bool:
    return arguments["tenant_id"] is not None


NODE_EXECUTION_POLICIES: Final = PolicyTable(
    {
        "get_node_last_execution": Read(guard="lastnode:{workflow_id}:{node_id}"),
        "get_executions_by_workflow_run": Read(guard="nodes:{workflow_run_id}"),
        "get_execution_by_id": Read(guard="node:{execution_id}", when=_with_tenant),
        # Loops that delete what they read: never cached, never from a replica.
        "get_expired_executions_batch": Read(node=PRIMARY),
        "count_by_runs": Read(),
        "get_offloads_by_execution_ids": Read(),
        "delete_expired_executions": Write(),
        "delete_executions_by_app": Write(),
        "delete_executions_by_ids": Write(),
        "delete_by_runs": Write(),
        "save": Write(),
        "save_execution_data": Write(),
        "get_by_workflow_run": Read(node=PRIMARY),
    },
    ids=frozenset({"tenant_id", "app_id", "workflow_id", "workflow_run_id", "execution_id"}),
)

# Their tenant is their user's; what they read must be what they have just saved.
WORKFLOW_EXECUTION_POLICIES: Final = PolicyTable({"save": Write()})
WORKFLOW_NODE_EXECUTION_POLICIES: Final = PolicyTable(
    {"save": Write(), "save_execution_data": Write(), "get_by_workflow_run": Read(node=PRIMARY)}
)
