"""The policies of the node execution repository."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tidegate.repositories.policies import GUARD, PRIMARY, PolicyTable, Read, Write
from tidegate.repositories.scopes import ByRowId, ByRowIds, CallerSession, NoRows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def _with_tenant(arguments: Mapping[str, Any]) -> bool:
    return arguments["tenant_id"] is not None


def of_node(_arguments: Mapping[str, Any], node: Any) -> Sequence[str]:
    """Return the tags of one node execution.

    If there is one, they include what an invalidation of its app or run bumps.
    """
    if node is None:
        return (GUARD,)
    run = () if node.workflow_run_id is None else (f"nodesof:{node.workflow_run_id}",)
    return (GUARD, f"app:{node.app_id}", *run)


def of_run(arguments: Mapping[str, Any], _answer: Any) -> Sequence[str]:
    """Return the tags of the node executions of one run."""
    return (GUARD, f"app:{arguments['app_id']}", f"nodesof:{arguments['workflow_run_id']}")


def of_last_node(arguments: Mapping[str, Any], _answer: Any) -> Sequence[str]:
    """Return the tags of the newest execution of one node of a workflow."""
    return (GUARD, f"app:{arguments['app_id']}")


NODE_EXECUTION_POLICIES: Final = PolicyTable(
    {
        "get_node_last_execution": Read(guard="lastnode:{workflow_id}:{node_id}", answer_tags=of_last_node),
        "get_executions_by_workflow_run": Read(guard="nodes:{workflow_run_id}", answer_tags=of_run),
        "get_execution_by_id": Read(
            guard="node:{execution_id}",
            answer_tags=of_node,
            when=_with_tenant,
            scope=ByRowId("node", "execution_id", tenant="tenant_id", search=True, is_row=True),
        ),
        # For loops that delete what they read: never cached, and never read from a replica.
        "get_expired_executions_batch": Read(node=PRIMARY),
        "count_by_runs": Read(scope=CallerSession("run", lists="run_ids")),
        "get_offloads_by_execution_ids": Read(scope=CallerSession("node", lists="node_execution_ids")),
        "delete_expired_executions": Write(),
        "delete_executions_by_app": Write(),
        "delete_executions_by_ids": Write(scope=ByRowIds("node", "execution_ids")),
        "delete_by_runs": Write(scope=CallerSession("run", lists="run_ids", writes=True)),
        "save": Write(scope=NoRows()),
        "save_execution_data": Write(scope=NoRows()),
        "get_by_workflow_run": Read(node=PRIMARY, scope=NoRows()),
    },
    ids=frozenset({"tenant_id", "app_id", "workflow_id", "workflow_run_id", "execution_id"}),
    invalidation={"app_id": ("app:{app_id}",), "run_id": ("nodes:{run_id}", "nodesof:{run_id}")},
)
