"""What is measured: named calls on a loaded data set, for whatever contender answers them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tidegate.benchmarks.contenders.contender import ScenarioCall
from tidegate.benchmarks.data.data_set import PAUSED_RUNS, SPAN, START, WEBHOOK_RUNS
from tidegate.repositories.enums import WorkflowExecutionStatus as Status
from tidegate.repositories.enums import WorkflowRunTriggeredFrom as Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.benchmarks.data.targets import Targets, Where

PAGE: Final = 20
DEEP_PAGE: Final = 5_000
_DEPTHS: Final = "pages at any depth"
FIRST_PAGE: Final = "first page of 20"
RARE_SOURCE: Final = f"app-run + webhook ({WEBHOOK_RUNS})"
RARE_SOURCE_QUIET: Final = f"quiet: {RARE_SOURCE}"


@dataclass(frozen=True, slots=True)
class Scenario:
    """Calls that are made in turn, and measured under one name.

    Scenarios with the same ``group`` are compared with each other, so they are measured side by side; one whose group
    is None is measured alone.
    """

    name: str
    calls: tuple[ScenarioCall, ...]
    group: str | None = None


def deepest_page(runs_of_app: int) -> int:
    """Return the number of the deepest whole page of an app, at most 5,000."""
    return max(2, min(DEEP_PAGE, runs_of_app // PAGE))


def page_name(number: int) -> str:
    """Return the name of the scenario of one page."""
    return f"page {number:,} of 20"


def scenarios(targets: Targets) -> list[Scenario]:
    """Return all scenarios, for the data set that *targets* looks into."""
    return [
        *page_scenarios(targets),
        *_runs_by_id(targets),
        *_counts(targets),
        *_statistics(targets),
        *_nodes(targets),
    ]


def page_scenarios(targets: Targets) -> list[Scenario]:
    """Return the scenarios that read pages of runs."""
    return [*_pages(targets), *_deep_pages(targets), *_pages_by_status(targets), *_pages_by_sources(targets)]


def _pages(targets: Targets) -> list[Scenario]:
    first = (targets.main, Source.APP_RUN)
    return [
        Scenario(FIRST_PAGE, (page_call(*first),), _DEPTHS),
        Scenario("first page, graphs touched", (page_call(*first, touch=("graph",)),)),
        Scenario("first page, all columns touched", (page_call(*first, touch=("graph", "inputs", "outputs")),)),
        Scenario("first page of an ordinary app", (page_call(targets.ordinary_app(), Source.APP_RUN),)),
    ]


def _deep_pages(targets: Targets) -> list[Scenario]:
    deepest = deepest_page(targets.runs_of_main())
    numbers = sorted({2, max(2, deepest // 10), deepest})
    cursors = {number: targets.cursor((number - 1) * PAGE) for number in numbers}
    return [
        Scenario(page_name(number), (page_call(targets.main, Source.APP_RUN, last_id=cursor),), _DEPTHS)
        for number, cursor in cursors.items()
    ]


def _pages_by_status(targets: Targets) -> list[Scenario]:
    common, rare = Status.SUCCEEDED.value, Status.PAUSED.value
    half_way = max(1, targets.runs_of_main(status=common) // 2)
    cursor = targets.cursor(half_way, status=common)
    return [
        Scenario("succeeded, first page", (page_call(targets.main, Source.APP_RUN, status=common),)),
        Scenario("succeeded, half way down", (page_call(targets.main, Source.APP_RUN, last_id=cursor, status=common),)),
        Scenario(f"paused ({PAUSED_RUNS} runs)", (page_call(targets.main, Source.APP_RUN, status=rare),)),
    ]


def _pages_by_sources(targets: Targets) -> list[Scenario]:
    return [
        Scenario("app-run + debugging", (page_call(targets.main, (Source.APP_RUN, Source.DEBUGGING)),)),
        Scenario(RARE_SOURCE, (page_call(targets.main, (Source.APP_RUN, Source.WEBHOOK)),)),
        Scenario("every source", (page_call(targets.main, ()),)),
        Scenario("quiet: first page of 20", (page_call(targets.quiet, Source.APP_RUN),)),
        Scenario(RARE_SOURCE_QUIET, (page_call(targets.quiet, (Source.APP_RUN, Source.WEBHOOK)),)),
    ]


def page_call(
    where: Where,
    sources: Source | Sequence[Source],
    *,
    limit: int = PAGE,
    last_id: str | None = None,
    status: str | None = None,
    touch: tuple[str, ...] = (),
) -> ScenarioCall:
    """Return a call for one page of an app's runs."""
    arguments = (where.tenant_id, where.app_id, sources, limit, last_id, status)
    return ScenarioCall("runs", "get_paginated_workflow_runs", arguments, touch)


def _runs_by_id(targets: Targets) -> list[Scenario]:
    here, ids = (targets.main.tenant_id, targets.main.app_id), targets.run_ids()
    return [
        Scenario("run by id", tuple(ScenarioCall("runs", "get_workflow_run_by_id", (*here, run)) for run in ids)),
        Scenario(
            "run by id, without tenant",
            tuple(ScenarioCall("runs", "get_workflow_run_by_id_without_tenant", (run,)) for run in ids),
        ),
    ]


def _counts(targets: Targets) -> list[Scenario]:
    here = (targets.main.tenant_id, targets.main.app_id, Source.APP_RUN.value)
    return [
        Scenario("count by state", (ScenarioCall("runs", "get_workflow_runs_count", here),)),
        Scenario("count of failed", (ScenarioCall("runs", "get_workflow_runs_count", (*here, Status.FAILED.value)),)),
    ]


def _statistics(targets: Targets) -> list[Scenario]:
    month = (START + SPAN / 3, START + SPAN * 2 / 3)
    asked = (targets.main.tenant_id, targets.main.app_id, Source.APP_RUN.value, *month, "Asia/Shanghai")
    methods = {
        "runs a day": "get_daily_runs_statistics",
        "creators a day": "get_daily_terminals_statistics",
        "tokens a day": "get_daily_token_cost_statistics",
        "interactions a day": "get_average_app_interaction_statistics",
    }
    return [Scenario(f"{name}, one month", (ScenarioCall("runs", method, asked),)) for name, method in methods.items()]


def _nodes(targets: Targets) -> list[Scenario]:
    here, place = (targets.main.tenant_id, targets.main.app_id), targets.busy_node()
    of_runs = [
        ScenarioCall("nodes", "get_executions_by_workflow_run", (*here, run)) for run in targets.runs_with_nodes()
    ]
    last = ScenarioCall("nodes", "get_node_last_execution", (*here, place.workflow_id, place.node_id))
    by_id = [ScenarioCall("nodes", "get_execution_by_id", (node,)) for node in targets.node_ids()]
    return [
        Scenario("nodes of a run", tuple(of_runs)),
        Scenario("last execution of a node", (last,)),
        Scenario("node execution by id", tuple(by_id)),
    ]
