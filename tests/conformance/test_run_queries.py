"""Reading and counting runs, on every database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from real_servers.sharded import tenant_on
from sqlalchemy import text

from tidegate.repositories.enums import WorkflowRunTriggeredFrom as Source
from tidegate.repositories.enums import WorkflowType
from tidegate.repositories.indexes import INDEXES
from tidegate.repositories.models import new_id
from tidegate.repositories.sqlalchemy_api_workflow_run_repository import DifyAPISQLAlchemyWorkflowRunRepository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy.orm import Session, sessionmaker

    from tests.conformance.conftest import Behind
    from tidegate.repositories.models import WorkflowRun

    Make = Callable[..., WorkflowRun]

pytestmark = [pytest.mark.fast, pytest.mark.matrix]

TENANT, APP = "7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10", "1b0a1e8e-90c6-4f0e-8a52-5d1f0c7a2b20"
NOON = datetime(2026, 3, 1, 12, 0)  # noqa: DTZ001  # columns are naive UTC


@pytest.fixture(params=["with indexes", "without"])
def indexed(session_maker: sessionmaker[Session], request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether Tidegate's indexes are there, on which the statement of a page depends; shards always have them."""
    engine = session_maker.kw.get("bind")
    if engine is None or request.param == "without":
        yield engine is None
        return
    with engine.begin() as connection:
        for spec in INDEXES:
            connection.execute(text(spec.create_sql(concurrently=False)))
    yield True


@pytest.fixture
def runs(behind: Behind, indexed: bool) -> DifyAPISQLAlchemyWorkflowRunRepository:
    made = behind.runs()
    name = DifyAPISQLAlchemyWorkflowRunRepository.get_paginated_workflow_runs.__name__
    said = made._describe(name, {"status": None}) if behind.gate is None else ""
    assert not said or ("missing" not in said) == indexed
    return made


def walk(runs: DifyAPISQLAlchemyWorkflowRunRepository, sources: Source | Sequence[Source], limit: int) -> list[str]:
    seen: list[str] = []
    last = None
    while True:
        page = runs.get_paginated_workflow_runs(TENANT, APP, sources, limit, last)
        seen += [run.id for run in page.data]
        if not page.has_more:
            return seen
        last = page.data[-1].id


def test_pages_skip_and_repeat_nothing_where_times_are_equal(
    runs: DifyAPISQLAlchemyWorkflowRunRepository, make_run: Make
) -> None:
    made = [make_run(created_at=NOON if i < 25 else NOON - timedelta(hours=i)) for i in range(30)]
    expected = [run.id for run in sorted(made, key=lambda r: (r.created_at, r.id), reverse=True)]
    assert walk(runs, Source.APP_RUN, 10) == expected


def test_several_sources_come_merged_in_order_and_none_means_all_even_unknown_ones(
    runs: DifyAPISQLAlchemyWorkflowRunRepository, make_run: Make
) -> None:
    made = [
        make_run(triggered_from=source, created_at=NOON + timedelta(seconds=i))
        for i, source in enumerate(["app-run", "webhook", "aaa", "novel", "zzz", "schedule", "app-run"])
    ]
    make_run(app_id=new_id())
    make_run(tenant_id=tenant_on("s1"))
    newest_first = [run.id for run in reversed(made)]
    assert walk(runs, [], 2) == newest_first
    chosen = {"app-run", "webhook"}
    assert walk(runs, [Source.APP_RUN, Source.WEBHOOK, Source.APP_RUN], 2) == [
        run.id for run in reversed(made) if run.triggered_from in chosen
    ]


def test_a_cursor_that_does_not_exist_is_a_value_error_and_the_end_is_an_empty_page(
    runs: DifyAPISQLAlchemyWorkflowRunRepository, make_run: Make
) -> None:
    only = make_run()
    page = runs.get_paginated_workflow_runs(TENANT, APP, Source.APP_RUN, last_id=only.id)
    assert (page.data, page.has_more, page.limit) == ([], False, 20)
    for stranger in (new_id(), make_run(app_id=new_id()).id, make_run(tenant_id=tenant_on("s1")).id):
        with pytest.raises(ValueError, match="Last workflow run not exists"):
            runs.get_paginated_workflow_runs(TENANT, APP, Source.APP_RUN, last_id=stranger)


def test_a_page_of_one_status(runs: DifyAPISQLAlchemyWorkflowRunRepository, make_run: Make) -> None:
    failed = make_run(status="failed")
    make_run()
    page = runs.get_paginated_workflow_runs(TENANT, APP, Source.APP_RUN, status="failed")
    assert [run.id for run in page.data] == [failed.id]


@pytest.mark.parametrize("limit", [-1, 10_001, 2**70, 1.5, "20", True, None])
def test_a_limit_that_cannot_work_is_refused_with_its_value(
    runs: DifyAPISQLAlchemyWorkflowRunRepository, limit: int
) -> None:
    with pytest.raises(ValueError, match=r"limit must be a whole number from 0 to 10,000, not"):
        runs.get_paginated_workflow_runs(TENANT, APP, Source.APP_RUN, limit)


def test_by_id_with_and_without_tenant(runs: DifyAPISQLAlchemyWorkflowRunRepository, make_run: Make) -> None:
    run = make_run()
    for spelling in (run.id, run.id.upper(), run.id.replace("-", ""), "{" + run.id + "}"):
        found = runs.get_workflow_run_by_id(TENANT, APP, spelling)
        assert found is not None
        assert (found.id, found.graph_dict) == (run.id, {"nodes": []})
    assert runs.get_workflow_run_by_id(tenant_on("s1"), APP, run.id) is None
    assert runs.get_workflow_run_by_id(TENANT, new_id(), run.id) is None
    assert runs.get_workflow_run_by_id_without_tenant(run.id) is not None
    assert runs.get_workflow_run_by_id_without_tenant(new_id()) is None


def test_counts_by_state_and_by_age(runs: DifyAPISQLAlchemyWorkflowRunRepository, make_run: Make) -> None:
    now = datetime.now(UTC).replace(tzinfo=None)
    for status in ("running", "failed", "failed", "paused"):
        make_run(status=status, created_at=now)
    make_run(status="succeeded", created_at=now - timedelta(days=2))
    none = {"running": 0, "succeeded": 0, "failed": 0, "stopped": 0, "partial-succeeded": 0}
    everything = none | {"total": 5, "running": 1, "succeeded": 1, "failed": 2}
    assert runs.get_workflow_runs_count(TENANT, APP, "app-run") == everything
    assert runs.get_workflow_runs_count(TENANT, APP, "app-run", status="failed") == none | {"total": 2, "failed": 2}
    assert runs.get_workflow_runs_count(TENANT, APP, "app-run", time_range="1d")["total"] == 4
    assert runs.get_workflow_runs_count(TENANT, APP, "app-run", time_range="999999999d")["total"] == 5
    for ignored in ("", "yesterday", "7", "d7", "7 d", "-1d"):
        assert runs.get_workflow_runs_count(TENANT, APP, "app-run", time_range=ignored) == everything


def test_expired_runs_come_oldest_first_and_whole(runs: DifyAPISQLAlchemyWorkflowRunRepository, make_run: Make) -> None:
    made = [make_run(created_at=NOON - timedelta(days=i)) for i in range(4)]
    batch = runs.get_expired_runs_batch(TENANT, NOON, batch_size=2)
    assert [run.id for run in batch] == [made[3].id, made[2].id]
    assert "graph" in vars(batch[0])
    with pytest.raises(ValueError, match="batch_size must be"):
        runs.get_expired_runs_batch(TENANT, NOON, batch_size=0)


def test_an_aware_datetime_means_the_same_moment(runs: DifyAPISQLAlchemyWorkflowRunRepository, make_run: Make) -> None:
    make_run(created_at=NOON)
    east = timezone(timedelta(hours=8))
    assert len(runs.get_expired_runs_batch(TENANT, datetime(2026, 3, 1, 20, 0, 1, tzinfo=east))) == 1
    assert len(runs.get_expired_runs_batch(TENANT, datetime(2026, 3, 1, 20, 0, 0, tzinfo=east))) == 0


def test_batches_by_time_range_continue_after_the_last_seen(
    runs: DifyAPISQLAlchemyWorkflowRunRepository, make_run: Make
) -> None:
    made = [make_run(status="succeeded", created_at=NOON) for _ in range(5)]
    make_run(status="running", created_at=NOON)
    ordered = sorted(run.id for run in made)
    first = runs.get_runs_batch_by_time_range(None, NOON + timedelta(1), None, 3)
    last_seen = (first[-1].created_at, first[-1].id)
    second = runs.get_runs_batch_by_time_range(
        NOON, NOON + timedelta(1), last_seen, 3, [WorkflowType.WORKFLOW], [TENANT]
    )
    assert [run.id for run in [*first, *second]] == ordered
    assert runs.get_runs_batch_by_time_range(None, NOON + timedelta(1), None, 3, run_types=[]) == []
    assert runs.get_runs_batch_by_time_range(None, NOON + timedelta(1), None, 3, tenant_ids=[tenant_on("s1")]) == []


def test_statistics_by_day_in_a_time_zone_ordered_by_date(
    runs: DifyAPISQLAlchemyWorkflowRunRepository, make_run: Make
) -> None:
    first, second = new_id(), new_id()
    late = NOON.replace(hour=20)
    for created_at, creator, tokens in ((late, first, 5), (late, first, 7), (late, second, 1), (NOON, first, 2)):
        make_run(created_at=created_at, created_by=creator, total_tokens=tokens)
    one, two = "2026-03-01", "2026-03-02"
    daily = runs.get_daily_runs_statistics(TENANT, APP, "app-run", timezone="Asia/Shanghai")
    assert daily == [{"date": one, "runs": 1}, {"date": two, "runs": 3}]
    assert runs.get_daily_terminals_statistics(TENANT, APP, "app-run", timezone="Asia/Shanghai") == [
        {"date": one, "terminal_count": 1},
        {"date": two, "terminal_count": 2},
    ]
    assert runs.get_daily_token_cost_statistics(TENANT, APP, "app-run", timezone="Asia/Shanghai") == [
        {"date": one, "token_count": 2},
        {"date": two, "token_count": 13},
    ]
    assert runs.get_average_app_interaction_statistics(TENANT, APP, "app-run", timezone="Asia/Shanghai") == [
        {"date": one, "interactions": 1.0},
        {"date": two, "interactions": 1.5},
    ]
    assert runs.get_daily_runs_statistics(TENANT, APP, "app-run", NOON, late) == [{"date": one, "runs": 1}]


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "'; DROP TABLE workflow_runs; --"])
def test_an_unknown_timezone_is_named(runs: DifyAPISQLAlchemyWorkflowRunRepository, make_run: Make, name: str) -> None:
    make_run()
    with pytest.raises(ValueError, match="unknown timezone"):
        runs.get_daily_runs_statistics(TENANT, APP, "app-run", timezone=name)
