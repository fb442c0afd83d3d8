"""Lazy rows that are merged, attached, expired, shared by threads, or outlive the rest of their page."""

from __future__ import annotations

import copy
import gc
import pickle  # noqa: TID251  # shown to work for hosts that pickle rows; Tidegate itself never does
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, event, select
from sqlalchemy.orm import Session, make_transient, sessionmaker

import tidegate
from tidegate.repositories.enums import WorkflowRunTriggeredFrom as Source
from tidegate.repositories.models import Base, WorkflowRun
from tidegate.repositories.sqlalchemy_api_workflow_run_repository import DifyAPISQLAlchemyWorkflowRunRepository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

pytestmark = pytest.mark.fast

TENANT, APP = "7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10", "1b0a1e8e-90c6-4f0e-8a52-5d1f0c7a2b20"
HEAVY = {"graph", "inputs", "outputs"}


@pytest.fixture
def rows(session_maker: sessionmaker[Session], make_run: Callable[..., WorkflowRun]) -> Sequence[WorkflowRun]:
    for i in range(5):
        make_run(graph=f'{{"n": {i}}}')
    runs = DifyAPISQLAlchemyWorkflowRunRepository(session_maker)
    return runs.get_paginated_workflow_runs(TENANT, APP, Source.APP_RUN).data


@pytest.fixture
def elsewhere() -> Iterator[sessionmaker[Session]]:
    """Another database."""
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    yield sessionmaker(engine)
    engine.dispose()


def selects(session_maker: sessionmaker[Session]) -> list[str]:
    seen: list[str] = []
    event.listen(session_maker.kw["bind"], "before_cursor_execute", lambda *a: seen.append(a[2]))
    return seen


def test_vars_see_every_column_once_loaded(rows: Sequence[WorkflowRun]) -> None:
    assert not set(vars(rows[0])) & HEAVY
    tidegate.load(rows)
    assert set(vars(rows[0])) >= {column.key for column in WorkflowRun.__mapper__.column_attrs}


def test_a_loaded_row_merges_into_another_database_whole(
    rows: Sequence[WorkflowRun], elsewhere: sessionmaker[Session]
) -> None:
    with elsewhere.begin() as session:
        session.merge(tidegate.load(rows)[0])
    with elsewhere() as session:
        assert session.scalars(select(WorkflowRun.graph)).one() == rows[0].graph


def test_a_transient_row_merges_into_another_database_whole(
    rows: Sequence[WorkflowRun], elsewhere: sessionmaker[Session]
) -> None:
    make_transient(rows[0])
    with elsewhere.begin() as session:
        session.merge(tidegate.load(rows[:1])[0])
    with elsewhere() as session:
        assert session.scalars(select(WorkflowRun.graph)).one() == rows[1].graph.replace("3", "4")  # type: ignore[union-attr]  # every run has one


def test_a_merge_without_loading_into_the_same_database_changes_no_heavy_column(
    rows: Sequence[WorkflowRun], session_maker: sessionmaker[Session]
) -> None:
    rows[0].version = "2"
    with session_maker.begin() as session:
        session.merge(rows[0])
    with session_maker() as session:
        stored = session.scalars(select(WorkflowRun).where(WorkflowRun.id == rows[0].id)).one()
        assert (stored.version, stored.graph) == ("2", '{"n": 4}')


def test_a_row_outlives_the_others_of_its_page_and_asks_for_itself_alone(
    rows: Sequence[WorkflowRun], session_maker: sessionmaker[Session]
) -> None:
    last, seen = rows[-1], selects(session_maker)
    rows.clear()  # type: ignore[attr-defined]  # a page is a list
    gc.collect()
    assert last.graph == '{"n": 0}'
    assert len(seen) == 1
    assert "IN (?, ?" not in seen[0]


def test_threads_that_touch_at_once_all_see_the_value(
    rows: Sequence[WorkflowRun], session_maker: sessionmaker[Session], request: pytest.FixtureRequest
) -> None:
    if "sqlite-memory" in request.node.name:
        pytest.skip("its one connection is one thread's at a time")
    assert len(rows) == 5
    together = Barrier(4)

    def touch(row: WorkflowRun) -> str | None:
        together.wait()
        return row.graph

    for _ in range(10):
        runs = DifyAPISQLAlchemyWorkflowRunRepository(session_maker)
        page = runs.get_paginated_workflow_runs(TENANT, APP, Source.APP_RUN).data
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(touch, [page[0], page[0], page[1], page[2]])) == [
                '{"n": 4}',
                '{"n": 4}',
                '{"n": 3}',
                '{"n": 2}',
            ]


def test_a_touch_in_a_session_flushes_nothing(
    rows: Sequence[WorkflowRun], session_maker: sessionmaker[Session]
) -> None:
    with session_maker() as session:
        session.add(rows[0])
        rows[0].version = "not to be flushed by a read"
        assert rows[0].graph == '{"n": 4}'
        assert rows[0] in session.dirty


@pytest.mark.parametrize("how", ["expire", "refresh", "commit"])
def test_an_attached_row_that_is_expired_or_refreshed_reads_every_column(
    rows: Sequence[WorkflowRun], session_maker: sessionmaker[Session], how: str
) -> None:
    with session_maker() as session:
        session.add(rows[0])
        session.commit() if how == "commit" else getattr(session, how)(rows[0])
        assert (rows[0].graph, rows[0].version) == ('{"n": 4}', "1")
    assert rows[0].graph == '{"n": 4}'
    assert rows[1].graph == '{"n": 3}'


def test_a_row_that_is_attached_copies_and_pickles_whole(
    rows: Sequence[WorkflowRun], session_maker: sessionmaker[Session]
) -> None:
    with session_maker() as session:
        session.add_all(rows)
        twin = pickle.loads(pickle.dumps(rows[0]))  # noqa: S301  # its own bytes
    assert twin.graph == copy.deepcopy(rows[0]).graph == '{"n": 4}'
    assert set(vars(twin)) >= HEAVY
