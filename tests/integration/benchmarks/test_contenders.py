"""The contenders on a small data set: who they are, and that what they answer is compared before it is measured."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from sqlalchemy import make_url

from tidegate.benchmarks.agreement import check_agreement
from tidegate.benchmarks.contenders.contender import Repositories, ScenarioCall, baseline, plain
from tidegate.benchmarks.data.data_set import DataSet
from tidegate.benchmarks.data.databases import databases
from tidegate.benchmarks.progress import Steps
from tidegate.benchmarks.scenarios import Scenario
from tidegate.benchmarks.timing import measure
from tidegate.errors import BenchmarkError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.proxy.embedded import Cluster

pytest.importorskip("psycopg2", reason="the baseline runs on psycopg2: pip install 'tidegate[bench]'")


@pytest.fixture(scope="module")
def contenders(cluster: Cluster) -> Iterator[tuple[Repositories, Repositories]]:
    data_set, quiet = DataSet(400, 3), Steps(Console(file=io.StringIO()))
    with databases(make_url(cluster.shards[0].primary.url), data_set, quiet) as places:
        both = (plain(places.plain), baseline(places.baseline))
        yield both
        for contender in both:
            contender.engine.dispose()


def indexes(contender: Repositories) -> set[str]:
    with contender.engine.connect() as connection:
        query = "SELECT indexname FROM pg_indexes WHERE tablename = 'workflow_runs'"
        return set(connection.exec_driver_sql(query).scalars())


def test_the_baseline_has_dify_s_indexes_only_and_dify_s_driver(
    contenders: tuple[Repositories, Repositories],
) -> None:
    ours, theirs = contenders
    dify = {"workflow_run_pkey", "workflow_run_triggerd_from_idx", "workflow_run_created_at_id_idx"}
    assert indexes(theirs) == dify
    assert indexes(ours) == dify | {"tidegate_runs_page_idx", "tidegate_runs_status_page_idx"}
    assert (ours.engine.driver, theirs.engine.driver) == ("psycopg", "psycopg2")
    with theirs.engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW timezone").scalar_one() == "UTC"


class Wrong:
    """Answers pages without their last run, and nothing else."""

    def __init__(self, right: Repositories) -> None:
        self.name, self.engine, self._right = "wrong", right.engine, right

    def run(self, call: ScenarioCall) -> Any:
        answer = self._right.run(call)
        answer.data = answer.data[:-1]
        return answer


def first_page() -> Scenario:
    main = DataSet(400, 3).population.main_app
    arguments = (main.tenant_id, main.id, "app-run", 20, None, None)
    return Scenario("first", (ScenarioCall("runs", "get_paginated_workflow_runs", arguments),))


def test_a_wrong_answer_is_not_measured(contenders: tuple[Repositories, Repositories]) -> None:
    ours, theirs = contenders
    check_agreement(first_page(), [ours, theirs])
    with pytest.raises(BenchmarkError, match=r"'first'.*plain and wrong differ: times"):
        check_agreement(first_page(), [ours, Wrong(theirs)])


def test_an_empty_answer_is_not_measured(contenders: tuple[Repositories, Repositories]) -> None:
    nowhere = ScenarioCall(
        "runs", "get_paginated_workflow_runs", (first_page().calls[0].arguments[1],) * 2 + ("app-run",)
    )
    with pytest.raises(BenchmarkError, match="there is nothing to read"):
        check_agreement(Scenario("empty", (nowhere,)), contenders)


def test_contenders_are_measured_alike(contenders: tuple[Repositories, Repositories]) -> None:
    told: list[float] = []
    found = measure([first_page()], contenders, rounds=3, seed=1, advance=told.append)
    assert [(one.contender, one.timing.samples) for one in found] == [("plain", 15), ("baseline", 15)]
    assert sum(told) == 3
