"""The policies of the run repository."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from tidegate.repositories.columns import naive_utc
from tidegate.repositories.policies import GUARD, PRIMARY, PolicyTable, Read, Write
from tidegate.repositories.runs.pauses import MOST_PRUNED
from tidegate.repositories.runs.queries import is_time_range
from tidegate.repositories.scopes import AllShards, AllShardsInOrder, ByRowId, ByRowIds, CallerSession, NoRows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST_DAYS: Final = 31
"""The most days in the tags of one answer. An answer of more days depends on its whole app instead."""


def page_days(arguments: Mapping[str, Any], page: Any) -> Sequence[str]:
    """Return the tags of a page below a cursor: the days from its cursor down to the row that decided ``has_more``.

    The first page, a last page and a page of too many days depend on the app.
    """
    if page.span is None:
        return of_app(arguments, page)
    newest, oldest = page.span
    return days(arguments["app_id"], newest, oldest)


def range_days(arguments: Mapping[str, Any], _answer: Any) -> Sequence[str]:
    """Return the tags of statistics: the days of a closed range; the app, if the range is open."""
    start, end = arguments["start_date"], arguments["end_date"]
    if start is None or end is None:
        return of_app(arguments, _answer)
    return days(arguments["app_id"], end, start)


def of_app(arguments: Mapping[str, Any], _answer: Any) -> Sequence[str]:
    """Return the guard and the tag ``app:``, which only an explicit invalidation of the app bumps."""
    return (GUARD, f"app:{arguments['app_id']}")


def of_found_run(_arguments: Mapping[str, Any], run: Any) -> Sequence[str]:
    """Return the tags of a run that was asked for by its id alone. If there is one, they include the tag of its app."""
    return (GUARD,) if run is None else (GUARD, f"app:{run.app_id}")


def days(app_id: str, newest: datetime, oldest: datetime) -> Sequence[str]:
    """Return the tags of an app's days from *oldest* to *newest*, both included.

    If the days are too many, these are the guard and the tag of the app.
    """
    first, last = _day(oldest), _day(newest)
    count = (last - first).days + 1
    if not 0 < count <= MOST_DAYS:
        return (GUARD, f"app:{app_id}")
    each = [first + timedelta(days=i) for i in range(count)]
    # Spelled as in the tags of rows: strftime would leave out the zeros of early years.
    of_days = [f"runs:{app_id}:{day.year:04d}{day.month:02d}{day.day:02d}" for day in each]
    return [*of_days, f"app:{app_id}"]


def _day(moment: datetime) -> date:
    utc = naive_utc(moment)
    return utc.date() if utc is not None else moment.date()


def _without_clock(arguments: Mapping[str, Any]) -> bool:
    return not is_time_range(arguments["time_range"])


_OF_RUN: Final = ByRowId("run", "workflow_run_id")
_STATISTICS: Final = Read(guard="runs:{app_id}", answer_tags=range_days)

WORKFLOW_RUN_POLICIES: Final = PolicyTable(
    {
        "get_paginated_workflow_runs": Read(guard="runs:{app_id}", answer_tags=page_days),
        "get_workflow_run_by_id": Read(guard="run:{run_id}", answer_tags=of_app),
        "get_workflow_run_by_id_without_tenant": Read(
            guard="run:{run_id}",
            answer_tags=of_found_run,
            scope=ByRowId("run", "run_id", search=True, is_row=True),
        ),
        "get_workflow_runs_count": Read(guard="runs:{app_id}", answer_tags=of_app, when=_without_clock),
        # For loops that delete what they read: never cached, and never read from a replica.
        "get_expired_runs_batch": Read(node=PRIMARY),
        "get_runs_batch_by_time_range": Read(
            node=PRIMARY, scope=AllShards(("created_at", "id"), "batch_size", "tenant_ids")
        ),
        "get_archived_run_ids": Read(scope=CallerSession("run", lists="run_ids")),
        "get_archived_logs_by_time_range": Read(
            scope=CallerSession(tenants="tenant_ids", order=("run_created_at", "workflow_run_id", "id"), limit="limit")
        ),
        "get_archived_runs_by_time_range": Read(
            scope=CallerSession(tenants="tenant_ids", order=("created_at", "id"), limit="limit")
        ),
        "get_archived_log_by_run_id": Read(scope=ByRowId("run", "run_id", search=True, first=("archived_at", "id"))),
        "get_pause_records_by_run_id": Read(scope=CallerSession("run", ids="run_id")),
        "get_pause_reason_records_by_run_id": Read(
            scope=CallerSession("pause", lists="pause_ids", order=("created_at", "id"))
        ),
        "get_app_logs_by_run_id": Read(scope=CallerSession("run", ids="run_id")),
        "count_runs_with_related": Read(node=PRIMARY, scope=ByRowIds("run", "runs")),
        "get_workflow_pause": Read(node=PRIMARY, scope=_OF_RUN, answer_kind="pause"),
        "get_daily_runs_statistics": _STATISTICS,
        "get_daily_terminals_statistics": _STATISTICS,
        "get_daily_token_cost_statistics": _STATISTICS,
        "get_average_app_interaction_statistics": _STATISTICS,
        "delete_runs_by_ids": Write(scope=ByRowIds("run", "run_ids")),
        "delete_runs_by_app": Write(),
        "delete_archive_log_by_run_id": Write(scope=CallerSession("run", ids="run_id", writes=True)),
        "create_archive_logs": Write(scope=CallerSession("run", ids="run", writes=True)),
        "delete_runs_with_related": Write(scope=ByRowIds("run", "runs")),
        "create_workflow_pause": Write(scope=_OF_RUN, answer_kind="pause"),
        "resume_workflow_pause": Write(scope=_OF_RUN, answer_kind="pause"),
        "delete_workflow_pause": Write(
            scope=ByRowId("run", "pause_entity.workflow_execution_id", otherwise=ByRowId("pause", "pause_entity.id"))
        ),
        "prune_pauses": Write(scope=AllShardsInOrder("_pauses_to_prune", "_prune", "limit", MOST_PRUNED)),
        "save": Write(scope=NoRows()),
    },
    ids=frozenset({"tenant_id", "app_id", "run_id", "last_id", "workflow_run_id"}),
    invalidation={"app_id": ("app:{app_id}",), "run_id": ("run:{run_id}",)},
)
