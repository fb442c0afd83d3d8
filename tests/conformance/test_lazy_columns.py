"""Lazy columns: read once a page, never lost, never NULL because nobody had looked."""

from __future__ import annotations

import copy
import gc
import pickle  # noqa: TID251  # shown to work for hosts that pickle rows; Tidegate itself never does
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, event, inspect, select, update
from sqlalchemy.orm import make_transient

import tidegate
from tidegate.errors import LazyColumnError
from tidegate.repositories.enums import WorkflowRunTriggeredFrom as Source
from tidegate.repositories.models import WorkflowRun, new_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy.orm import Session, sessionmaker

    from tests.conformance.conftest import Behind

    Page = Callable[[], Sequence[WorkflowRun]]

pytestmark = pytest.mark.fast

TENANT, APP = "7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10", "1b0a1e8e-90c6-4f0e-8a52-5d1f0c7a2b20"

DUPLICATES: tuple[Callable[[WorkflowRun], WorkflowRun], ...] = (
    copy.copy,
    copy.deepcopy,
    lambda row: pickle.loads(pickle.dumps(row)),  # noqa: S301  # its own bytes
)


@pytest.fixture
def page(across: Behind, make_run: Callable[..., WorkflowRun]) -> Page:
    for i in range(20):
        make_run(graph=f'{{"n": {i}}}', inputs=None)
    runs = across.runs()
    return lambda: runs.get_paginated_workflow_runs(TENANT, APP, [Source.APP_RUN, Source.WEBHOOK]).data


@pytest.fixture
def statements(across: Behind) -> Iterator[list[str]]:
    """Those about runs; on shards each read sees first that the shard owns the tenant."""
    seen: list[str] = []

    def about(*args: Any) -> None:
        if "tidegate_" not in args[2]:
            seen.append(args[2])

    event.listen(across.engine, "before_cursor_execute", about)
    yield seen
    event.remove(across.engine, "before_cursor_execute", about)


def test_a_page_leaves_nothing_for_the_garbage_collector(page: Page) -> None:
    rows = page()
    states = [weakref.ref(inspect(row)) for row in rows]
    assert rows[0].graph
    gc.disable()
    try:
        del rows
        assert {state() for state in states} == {None}
    finally:
        gc.enable()


def test_a_page_is_one_statement_without_the_heavy_columns(page: Page, statements: list[str]) -> None:
    page()  # the first one looks which indexes there are
    statements.clear()
    rows = page()
    assert len(statements) == 1
    assert not any(f".{key}" in statements[0] for key in ("graph", "inputs", "outputs"))
    assert not {"graph", "inputs", "outputs"} & set(vars(rows[0]))
    assert inspect(rows[0]).detached


def test_the_first_touch_reads_the_column_for_the_whole_page_in_one_query(page: Page, statements: list[str]) -> None:
    rows = page()
    statements.clear()
    assert sorted(row.graph_dict["n"] for row in rows) == list(range(20))
    assert len(statements) == 1
    assert [row.inputs for row in rows] == [None] * 20
    assert len(statements) == 2


def test_to_dict_copies_pickles_and_columns_by_name_see_every_column(page: Page) -> None:
    assert page()[0].to_dict()["inputs"] == {}
    for duplicate in DUPLICATES:
        row = page()[0]
        twin = duplicate(row)
        assert (twin.id, twin.graph) == (row.id, row.graph)
        assert "graph" in vars(twin)
    row = page()[0]
    assert all(
        getattr(row, column.key) is not None or column.key in {"error", "inputs", "finished_at"}
        for column in inspect(row).mapper.columns
    )


def test_load_reads_all_that_is_missing_in_one_query(page: Page, statements: list[str]) -> None:
    rows = page()
    statements.clear()
    assert tidegate.load(rows) is rows
    assert len(statements) == 1
    assert all({"graph", "inputs", "outputs"} <= set(vars(row)) for row in rows)
    tidegate.load(rows)
    assert len(statements) == 1


def test_a_row_that_is_gone_raises_and_says_so(page: Page, session_maker: sessionmaker[Session]) -> None:
    rows = page()
    with session_maker.begin() as session:
        session.execute(delete(WorkflowRun).where(WorkflowRun.id == rows[3].id))
    with pytest.raises(LazyColumnError, match=f"WorkflowRun {rows[3].id} was deleted"):
        _ = rows[3].graph
    with pytest.raises(LazyColumnError, match=r"tidegate\.load"):
        tidegate.load(rows)
    assert rows[4].graph is not None


def test_a_row_that_changed_gives_the_present_value(page: Page, session_maker: sessionmaker[Session]) -> None:
    rows = page()
    with session_maker.begin() as session:
        session.execute(update(WorkflowRun).values(graph='{"n": 99}'))
    assert rows[0].graph_dict == {"n": 99}


def test_a_transient_row_loads_rather_than_reads_or_stores_null(
    page: Page, session_maker: sessionmaker[Session]
) -> None:
    read, stored = page()[:2]
    make_transient(read)
    assert read.graph is not None
    expected = page()[1].graph
    make_transient(stored)
    fresh = stored.id = new_id()
    with session_maker.begin() as session:
        session.add(stored)
    with session_maker() as session:
        assert session.scalar(select(WorkflowRun.graph).where(WorkflowRun.id == fresh)) == expected


def test_a_transient_row_whose_original_is_gone_is_not_stored(page: Page, session_maker: sessionmaker[Session]) -> None:
    row = page()[0]
    with session_maker.begin() as session:
        session.execute(delete(WorkflowRun).where(WorkflowRun.id == row.id))
    make_transient(row)
    with pytest.raises(LazyColumnError), session_maker.begin() as session:
        session.add(row)


def test_a_row_attached_to_a_session_reads_in_that_session(page: Page, across: Behind) -> None:
    row = page()[0]
    with across.session() as session:
        session.add(row)
        session.execute(update(WorkflowRun).values(graph='{"n": "mine"}').execution_options(synchronize_session=False))
        assert row.graph_dict == {"n": "mine"}
        session.rollback()


def test_assigning_a_lazy_column_needs_no_read(page: Page, statements: list[str]) -> None:
    row = page()[0]
    statements.clear()
    row.graph = "{}"
    assert (row.graph, statements) == ("{}", [])
