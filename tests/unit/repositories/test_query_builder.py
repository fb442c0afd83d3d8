"""The query builder: what SQL each step gives, and what it refuses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, literal, update
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from tidegate.errors import QueryError, TidegateError
from tidegate.repositories.models import Base, WorkflowAppLog, WorkflowRun, new_id
from tidegate.repositories.query_builder import OPERATORS, Query

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Select

    from tidegate.repositories.query_builder import Operator

pytestmark = pytest.mark.fast

TENANT = new_id()
POSTGRESQL = make_url("postgresql+psycopg://").get_dialect()()


@pytest.fixture
def session() -> Iterator[Session]:
    """Runs of versions "1", "2", "2%", "22" and "3", which have as many steps, and None for "3"."""
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as made:
        for version, steps in (("1", 1), ("2", 2), ("2%", 2), ("22", 22), ("3", None)):
            values: dict[str, Any] = dict.fromkeys(("app_id", "workflow_id", "created_by"), new_id())
            values |= dict.fromkeys(("type", "triggered_from", "status", "created_by_role"), "x")
            made.add(WorkflowRun(tenant_id=TENANT, version=version, total_steps=steps, **values))
        made.flush()
        made.execute(update(WorkflowRun).where(WorkflowRun.version == "3").values(total_steps=None))
        yield made
    engine.dispose()


def versions(session: Session, query: Query[WorkflowRun]) -> list[str]:
    return list(session.scalars(query.order_by("version").columns(WorkflowRun.version)))


def sql(statement: Select[Any]) -> str:
    compiled = str(statement.compile(dialect=POSTGRESQL, compile_kwargs={"literal_binds": True}))
    return re.sub(r"\s+", " ", compiled)


FOUND: dict[Operator, tuple[str, Any, list[str]]] = {
    "eq": ("version", "2", ["2"]),
    "ne": ("version", "2", ["1", "2%", "22", "3"]),
    "lt": ("total_steps", 2, ["1"]),
    "le": ("total_steps", 2, ["1", "2", "2%"]),
    "gt": ("total_steps", 2, ["22"]),
    "ge": ("total_steps", 2, ["2", "2%", "22"]),
    "in": ("version", ("1", "3"), ["1", "3"]),
    "not_in": ("version", ("1", "3"), ["2", "2%", "22"]),
    "is_null": ("total_steps", True, ["3"]),
    "between": ("total_steps", (1, 22), ["1", "2", "2%"]),
    "prefix": ("version", "2%", ["2%"]),
}


def test_every_operator_has_a_case_here() -> None:
    assert set(FOUND) == set(OPERATORS)


@pytest.mark.parametrize("operator", list(FOUND))
def test_an_operator_finds_what_its_name_says(session: Session, operator: Operator) -> None:
    field, value, expected = FOUND[operator]
    assert versions(session, Query(WorkflowRun).where(field, operator, value)) == expected


def test_is_null_with_false_finds_the_others(session: Session) -> None:
    assert versions(session, Query(WorkflowRun).where("total_steps", "is_null", False)) == ["1", "2", "2%", "22"]  # noqa: FBT003  # the operator's value


def test_an_empty_list_finds_nothing_and_its_opposite_everything(session: Session) -> None:
    assert versions(session, Query(WorkflowRun).where("version", "in", [])) == []
    assert len(versions(session, Query(WorkflowRun).where("version", "not_in", []))) == 5


@pytest.mark.parametrize("value", [None, "", [], ()])
def test_where_if_passes_over_what_says_nothing(value: object) -> None:
    assert Query(WorkflowRun).where_if("status", "eq", value).conditions == ()


@pytest.mark.parametrize("value", [0, 0.0, False, "0", [0]])
def test_where_if_takes_zero_and_false_as_values(value: object) -> None:
    operator: Operator = "in" if isinstance(value, list) else "eq"
    assert len(Query(WorkflowRun).where_if("total_steps", operator, value).conditions) == 1


def test_unknown_names_are_refused_with_those_known() -> None:
    query = Query(WorkflowRun)
    with pytest.raises(QueryError, match=r"unknown operator 'like'; known are eq, ne, .*, between, prefix"):
        query.where("status", "like", "x")  # type: ignore[arg-type]  # what an untyped caller may pass
    with pytest.raises(QueryError, match=r"stat.*status"):
        query.where("stat", "eq", "x")
    with pytest.raises(QueryError, match=r"no_such.*created_at"):
        query.order_by("no_such")
    with pytest.raises(QueryError, match=r"'up'; known are asc, desc"):
        query.order_by("id", direction="up")  # type: ignore[arg-type]  # the same
    with pytest.raises(QueryError, match="at least one condition"):
        query.where_any()
    assert issubclass(QueryError, (TidegateError, ValueError))


@pytest.mark.parametrize("most", [-1, True, 1.5, "3"])
def test_a_limit_that_cannot_work_is_refused_with_its_value(most: Any) -> None:
    with pytest.raises(QueryError, match=re.escape(repr(most))):
        Query(WorkflowRun).limit(most)


@pytest.mark.parametrize(("direction", "expected"), [("asc", ["2%", "22", "3"]), ("desc", ["1"])])
def test_a_cursor_keeps_what_follows_it(session: Session, direction: Any, expected: list[str]) -> None:
    query = Query(WorkflowRun).order_by("version", "tenant_id", direction=direction).after(("2", TENANT))
    assert [run.version for run in session.scalars(query.statement())] == expected


def test_a_cursor_is_one_comparison_of_rows_that_an_index_can_answer() -> None:
    query = Query(WorkflowRun).order_by("version", "status").after(("2", "x"))
    assert "(workflow_runs.version, workflow_runs.status) > ('2', 'x')" in sql(query.statement())
    assert Query(WorkflowRun).order_by("id").after(None).conditions == ()


def test_a_cursor_that_does_not_fit_the_order_is_refused() -> None:
    with pytest.raises(QueryError, match=r"cursor of 1 values .*version.*id"):
        Query(WorkflowRun).order_by("version", "id").after(("2",))
    with pytest.raises(QueryError, match="in one direction"):
        Query(WorkflowRun).order_by("version").order_by("id", direction="desc").after(("2", "x"))
    with pytest.raises(QueryError, match="cursor of 0 values"):
        Query(WorkflowRun).after(())


def test_joins_any_limits_and_locks_are_in_the_statement() -> None:
    on = WorkflowAppLog.workflow_run_id == WorkflowRun.id
    query = Query(WorkflowRun).join(WorkflowAppLog, on, outer=True).limit(3).for_update()
    statement = sql(query.where_any(WorkflowAppLog.id.is_(None), literal(1) == 2).statement())
    assert "LEFT OUTER JOIN workflow_app_logs ON workflow_app_logs.workflow_run_id = workflow_runs.id" in statement
    assert "workflow_app_logs.id IS NULL OR 1 = 2" in statement
    assert statement.endswith("LIMIT 3 FOR UPDATE")
    assert " JOIN " in sql(Query(WorkflowRun).join(WorkflowAppLog, on).statement())
    assert "OUTER" not in sql(Query(WorkflowRun).join(WorkflowAppLog, on).statement())


def test_every_step_gives_a_new_query_and_leaves_the_old_one_alone() -> None:
    query = Query(WorkflowRun)
    before = sql(query.statement())
    query.where("status", "eq", "x").order_by("id").limit(1).for_update()
    assert sql(query.statement()) == before
