"""The policies of Dify's own repositories, by the names of methods and parameters.

Any release is served. A method that no policy knows runs as it is. So does a call with an argument that no policy
knows, unless the argument has its default. A policy whose method, or whose parameter, a release lacks is left out.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tidegate.cache.tags import template
from tidegate.proxy.dify.pages import METHOD, page_tags
from tidegate.proxy.dify.releases import NODE_EXECUTIONS, WORKFLOW_RUNS
from tidegate.repositories.node_policies import NODE_EXECUTION_POLICIES, of_run
from tidegate.repositories.policies import PolicyTable, Read, Write, is_of_class
from tidegate.repositories.run_policies import WORKFLOW_RUN_POLICIES, of_found_run
from tidegate.repositories.sqlalchemy_api_workflow_node_execution_repository import (
    DifyAPISQLAlchemyWorkflowNodeExecutionRepository,
)
from tidegate.repositories.sqlalchemy_api_workflow_run_repository import DifyAPISQLAlchemyWorkflowRunRepository

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tidegate.proxy.dify.releases import HostRepository

UNKNOWN: Final = "no policy knows it: it runs as it is, on the primary"
WRITES: Final = "it writes, and triggers note that: it runs as it is, on the primary"
_BOUND: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_MISSING: Final = inspect.Parameter.empty

_LATER_RUNS: Final[dict[str, tuple[Read, tuple[str, ...]]]] = {
    "get_workflow_run_by_id_and_tenant_id": (
        Read(guard="run:{run_id}", answer_tags=of_found_run),
        ("tenant_id", "run_id"),
    ),
}
_LATER_NODES: Final[dict[str, tuple[Read, tuple[str, ...]]]] = {
    "get_execution_snapshots_by_workflow_run": (
        Read(guard="nodes:{workflow_run_id}", answer_tags=of_run),
        ("tenant_id", "app_id", "workflow_id", "triggered_from", "workflow_run_id"),
    ),
}
"""Policies of methods that later releases added, with the parameters that they know."""


@dataclass(frozen=True, slots=True)
class MethodPlan:
    """What becomes of the calls of one method of a host's repository.

    Args:
        name: of the method.
        policy: the policy; None: it is passed on.
        why: why it is passed on, or which of its calls are.
    """

    name: str
    policy: Read | None
    why: str = ""


def plans_of(cls: type[Any], known: HostRepository) -> tuple[MethodPlan, ...]:
    """Return what becomes of each public method of *cls*, sorted by name.

    Args:
        cls: the host's class.
        known: the repository that it is.
    """
    rows = _rows(known)
    names = sorted(name for name in dir(cls) if not name.startswith("_") and callable(getattr(cls, name)))
    table = _TABLES[known.name][0]
    writes = frozenset(name for name, policy in table.items() if isinstance(policy, Write))
    return tuple(_plan(cls, name, rows, writes) for name in names)


def policies_of(cls: type[Any], known: HostRepository) -> PolicyTable:
    """Return the policies of those methods of *cls* that are not passed on."""
    table = _TABLES[known.name][0]
    methods = {plan.name: plan.policy for plan in plans_of(cls, known) if plan.policy is not None}
    return PolicyTable(methods, tenant=table.tenant, ids=table.ids, invalidation=table.invalidation)


def _plan(
    cls: type[Any], name: str, rows: Mapping[str, tuple[Read, tuple[str, ...]]], writes: frozenset[str]
) -> MethodPlan:
    if is_of_class(cls, name):
        return MethodPlan(name, None, "it needs no repository")
    if name not in rows:
        return MethodPlan(name, None, WRITES if name in writes else UNKNOWN)
    policy, known = rows[name]
    parameters = list(inspect.signature(getattr(cls, name)).parameters.values())[1:]
    if parameters and parameters[0].name == "session":
        return MethodPlan(name, None, "it runs in the caller's session")
    if policy.guard is None:
        return MethodPlan(name, None, "it is read on the primary, and not cached")
    return _cached(name, policy, known, parameters)


def _cached(name: str, policy: Read, known: tuple[str, ...], parameters: list[inspect.Parameter]) -> MethodPlan:
    there = {one.name for one in parameters}
    needed = {*template(policy.guard or "").fields, *known}
    if lacking := sorted(needed - there):
        return MethodPlan(name, None, f"this release has no parameter {', '.join(lacking)}, which its policy names")
    unknown = {one.name: one.default for one in parameters if one.name not in known}
    if any(one.kind not in _BOUND for one in parameters) or _MISSING in unknown.values():
        return MethodPlan(name, None, f"its policy does not know its parameter {', '.join(sorted(unknown)) or 'list'}")
    if not unknown:
        return MethodPlan(name, policy)
    when = partial(_are_known, unknown, policy.when)
    return MethodPlan(name, replace(policy, when=when), f"not with {', '.join(sorted(unknown))}")


def _are_known(
    unknown: Mapping[str, Any], also: Callable[[Mapping[str, Any]], bool] | None, arguments: Mapping[str, Any]
) -> bool:
    """Tell whether what no policy knows is as it was before it could be given."""
    left = all(arguments[name] is default or arguments[name] == default for name, default in unknown.items())
    return left and (also is None or also(arguments))


def _without_time(arguments: Mapping[str, Any]) -> bool:
    return not arguments["time_range"]


_TABLES: Final = {
    WORKFLOW_RUNS.name: (WORKFLOW_RUN_POLICIES, DifyAPISQLAlchemyWorkflowRunRepository, _LATER_RUNS),
    NODE_EXECUTIONS.name: (
        NODE_EXECUTION_POLICIES,
        DifyAPISQLAlchemyWorkflowNodeExecutionRepository,
        _LATER_NODES,
    ),
}


def _rows(known: HostRepository) -> Mapping[str, tuple[Read, tuple[str, ...]]]:
    """Return every policy, with the parameters that it knows: those of Tidegate's own method of that name."""
    table, own, later = _TABLES[known.name]
    rows = dict(later)
    for name, policy in table.items():
        if is_of_class(own, name) or isinstance(policy, Write):
            continue
        row = replace(policy, answer_tags=page_tags) if name == METHOD else policy
        if name == "get_workflow_runs_count":  # each release has its own way to read a range of time
            row = replace(policy, when=_without_time)
        rows[name] = (row, tuple(inspect.signature(getattr(own, name)).parameters)[1:])
    return rows
