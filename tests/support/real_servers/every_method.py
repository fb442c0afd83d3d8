"""Every public method of both repositories, with arguments made of two numbers and the ids that a sequence has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from real_servers.gate_vs_plain_random import DAYS, SOURCES, STATUSES
from tidegate.repositories.models import WorkflowRun
from tidegate.repositories.node_policies import NODE_EXECUTION_POLICIES
from tidegate.repositories.policies import Read
from tidegate.repositories.run_policies import WORKFLOW_RUN_POLICIES

if TYPE_CHECKING:
    from real_servers.gate_vs_plain_random import Ids

SESSION_READS: Final[dict[str, Any]] = {
    "get_archived_run_ids": lambda ids, n, m: ([ids.run(n), ids.run(m)],),
    "get_archived_logs_by_time_range": lambda ids, n, m: ([ids.tenant(n)], DAYS[0], DAYS[m % 6], 5),
    "get_archived_runs_by_time_range": lambda ids, n, m: (ids.tenants, DAYS[n % 6], DAYS[m % 6], 5),
    "get_pause_records_by_run_id": lambda ids, n, _m: (ids.run(n),),
    "get_pause_reason_records_by_run_id": lambda ids, n, m: ([ids.run(n), ids.run(m)],),
    "get_app_logs_by_run_id": lambda ids, n, _m: (ids.run(n),),
    "count_by_runs": lambda ids, n, m: ([ids.run(n), ids.run(m)],),
    "get_offloads_by_execution_ids": lambda ids, n, m: ([ids.node(n), ids.node(m)],),
}


def _spelt(text: str, m: int) -> str:
    """An id as a caller may write it, and text that is none."""
    return (text, text, text.upper(), text.replace("-", ""), "no id")[m % 5]


def _statistics(ids: Ids, n: int, m: int) -> tuple[Any, ...]:
    span = (None, None) if m % 3 == 0 else (DAYS[0], DAYS[m % 6])
    return (ids.tenant(n), ids.app(n), SOURCES[m % 2], *span, "UTC" if m % 4 else "Asia/Tokyo")


READS: Final[dict[str, Any]] = {
    "get_workflow_run_by_id": lambda ids, n, m: (ids.tenant(n), ids.app(n), _spelt(ids.run(n), m)),
    "get_workflow_run_by_id_without_tenant": lambda ids, n, _m: (ids.run(n),),
    "get_paginated_workflow_runs": lambda ids, n, m: (
        ids.tenant(n),
        ids.app(n),
        (SOURCES[0], list(SOURCES), [])[m % 3],
        (1, 3, 20, -1)[m % 4],
        ids.run(n) if m % 2 else None,
        STATUSES[m % len(STATUSES)].value if m % 5 == 0 else None,
    ),
    "get_workflow_runs_count": lambda ids, n, m: (
        ids.tenant(n),
        ids.app(n),
        SOURCES[m % 2],
        "succeeded" if m % 3 == 0 else None,
        (None, "7d", "nonsense")[m % 3],
    ),
    "get_expired_runs_batch": lambda ids, n, m: (ids.tenant(n), DAYS[m % 6], 5),
    "get_runs_batch_by_time_range": lambda ids, n, m: (None, DAYS[m % 6], None, 5, None, [ids.tenant(n)]),
    "get_archived_log_by_run_id": lambda ids, n, _m: (ids.run(n),),
    "count_runs_with_related": lambda ids, n, _m: ([WorkflowRun(id=ids.run(n))],),
    "get_workflow_pause": lambda ids, n, _m: (ids.run(n),),
    "get_daily_runs_statistics": _statistics,
    "get_daily_terminals_statistics": _statistics,
    "get_daily_token_cost_statistics": _statistics,
    "get_average_app_interaction_statistics": _statistics,
    "get_node_last_execution": lambda ids, n, m: (ids.tenant(n), ids.app(n), ids.workflow, f"node {m % 2}"),
    "get_executions_by_workflow_run": lambda ids, n, m: (ids.tenant(n), ids.app(n), _spelt(ids.run(m), n)),
    "get_execution_by_id": lambda ids, n, m: (_spelt(ids.node(n), m), ids.tenant(n) if m % 3 else None),
    "get_expired_executions_batch": lambda ids, n, m: (ids.tenant(n), DAYS[m % 6], 5),
}
SESSION_WRITES: Final[dict[str, Any]] = {
    "delete_archive_log_by_run_id": lambda ids, n, _m: (ids.run(n),),
    "delete_by_runs": lambda ids, n, _m: ([ids.run(n)],),
}
WRITES: Final[dict[str, Any]] = {
    "delete_runs_by_ids": lambda ids, n, m: ([ids.run(n), ids.run(m)],),
    "delete_runs_by_app": lambda ids, n, m: (ids.tenant(n), ids.app(n), 1 + m),
    "delete_runs_with_related": lambda ids, n, _m: ([WorkflowRun(id=ids.run(n))],),
    "prune_pauses": lambda _ids, _n, m: (DAYS[m % 6], DAYS[m % 6], 2),
    "delete_expired_executions": lambda ids, n, _m: (ids.tenant(n), DAYS[1], 2),
    "delete_executions_by_app": lambda ids, n, m: (ids.tenant(n), ids.app(n), 1 + m),
    "delete_executions_by_ids": lambda ids, n, m: ([ids.node(n), ids.node(m)],),
    "save": lambda _ids, _n, _m: (None,),
}
CACHED: Final = sorted(
    name
    for name, policy in {**WORKFLOW_RUN_POLICIES, **NODE_EXECUTION_POLICIES}.items()
    if isinstance(policy, Read) and policy.guard is not None
)


def every_method() -> set[str]:
    """The public methods of both repositories and of the write side, by the names that are counted."""
    return ({*WORKFLOW_RUN_POLICIES, *NODE_EXECUTION_POLICIES} - {"save"}) | {"save run", "save node"}
