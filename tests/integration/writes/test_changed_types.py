"""A column whose type changes under a running gate fails no commit: what the gate itself asks is never prepared."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import create_engine, select, text, update
from sqlalchemy.dialects import postgresql

from tidegate.repositories.models import WorkflowRun, new_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.writes.conftest import Watched
    from tidegate.proxy.embedded import Cluster

pytestmark = pytest.mark.fast

TENANT, APP = "7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10", "1b0a1e8e-90c6-4f0e-8a52-5d1f0c7a2b20"
DAY: Final = datetime.fromisoformat("2024-03-05T12:00:00")
RUNS: Final[Any] = WorkflowRun.__table__
WARM: Final = 12
"""How often psycopg must have seen a statement before it is prepared, and more."""


@pytest.fixture
def program(database_url: str, watch_engine: Callable[..., Watched]) -> Iterator[Watched]:
    """An engine of the program's own, with one connection, on which psycopg prepares statements."""
    made = watch_engine(create_engine(database_url, pool_size=1, max_overflow=0))
    yield made
    made.engine.dispose()


def _upsert(key: str, other: str) -> Any:  # noqa: ARG001  # of one signature
    values = dict.fromkeys(("type", "triggered_from", "version", "status"), "x")
    row = {"id": key, "tenant_id": TENANT, "app_id": APP, "created_by_role": "account", "created_at": DAY}
    made = postgresql.insert(RUNS).values(row | values | {"workflow_id": new_id(), "created_by": new_id()})
    return made.on_conflict_do_update(index_elements=["id"], set_={"created_at": DAY})


WAYS: Final[dict[str, Callable[[str, str], Any]]] = {
    "by id": lambda key, _: update(RUNS).where(RUNS.c.id == key).values(status="failed"),
    "by a condition": lambda key, _: update(RUNS).where(RUNS.c.workflow_id == key).values(status="failed"),
    "a conflict": _upsert,
    "several": lambda *keys: update(RUNS).where(RUNS.c.workflow_id.in_(keys)).values(status="failed"),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_first_commit_after_the_change_is_like_any_other(program: Watched, cluster: Cluster, way: str) -> None:
    key, other = new_id(), new_id()
    for one in (key, other):
        program.store(id=one, workflow_id=one)
    statement = WAYS[way](key, other)

    def commit() -> dict[str, set[str] | str]:
        with program.engine.begin() as connection:
            connection.execute(statement)
        return program.take()

    before = [commit() for _ in range(WARM)]
    assert before[0]
    for kind in ("varchar(40)", "uuid"):
        sql = f"ALTER TABLE workflow_runs ALTER app_id TYPE {kind} USING CAST(app_id AS {kind})"
        cluster.shards[0].primary.execute(sql, database=str(program.engine.url.database))
        assert commit() == before[-1]


def test_what_the_program_asks_is_prepared_as_before(program: Watched) -> None:
    prepared = text("SELECT statement FROM pg_prepared_statements")
    key = program.store()["id"]
    for _ in range(WARM):
        with program.engine.begin() as connection:
            connection.execute(update(RUNS).where(RUNS.c.id == key).values(status="failed"))
            connection.execute(select(RUNS.c.status).where(RUNS.c.app_id == APP))
    with program.engine.connect() as connection:
        found = connection.scalars(prepared).all()
    assert any(sql.startswith("UPDATE workflow_runs") for sql in found)
    assert any(sql.startswith("SELECT workflow_runs.status") for sql in found)
    assert not [sql for sql in found if "pg_current_xact_id" in sql and "workflow_runs" in sql]
