"""What a page reads: counted by PostgreSQL, for the prepared statement psycopg sends, beside Dify's own indexes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.sql import SQL, Identifier, Literal
from sqlalchemy import create_engine, select, text
from sqlalchemy.orm import Session, sessionmaker

from tidegate.repositories.indexes import INDEXES, create_indexes, drop_indexes, index_states
from tidegate.repositories.models import Base, WorkflowRun
from tidegate.repositories.pagination import page_parameters, page_statement
from tidegate.repositories.sqlalchemy_api_workflow_run_repository import DifyAPISQLAlchemyWorkflowRunRepository

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from tidegate.proxy.embedded import Cluster

TENANT = "7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10"
BIG, SMALL, LISTED = (f"{n}b0a1e8e-90c6-4f0e-8a52-5d1f0c7a2b20" for n in (1, 2, 3))
LIMIT = 20
RUNS = """
INSERT INTO workflow_runs (id, tenant_id, app_id, workflow_id, type, triggered_from, version, graph, inputs, outputs,
                           status, created_by_role, created_by, created_at)
SELECT gen_random_uuid(), :tenant, CASE WHEN g % 3 = 0 THEN CAST(:big AS uuid) WHEN g % 600 = 1 THEN :small
       ELSE CAST(lpad(to_hex(g % 200), 32, 'a') AS uuid) END, gen_random_uuid(), 'workflow',
       CASE WHEN g % 24000 = 0 THEN 'webhook' WHEN g % 9 = 0 THEN 'debugging' ELSE 'app-run' END,
       '1', '{}', '{}', '{}', CASE WHEN g % 30000 = 0 THEN 'stopped' WHEN g % 10 = 1 THEN 'failed' ELSE 'succeeded' END,
       'account', gen_random_uuid(), TIMESTAMP '2026-01-01' + g / 3 * INTERVAL '1 second'
FROM generate_series(1, 600000) g
"""


@dataclass(frozen=True)
class Cost:
    heap_rows: int
    buffers: int
    indexes: frozenset[str]


@pytest.fixture(scope="module")
def engine(cluster: Cluster) -> Iterator[Engine]:
    """600,000 runs, of which one app has 200,000 and one 1,000, interleaved in time with those of others."""
    primary = cluster.shards[0].primary
    primary.execute("CREATE DATABASE pages", database="postgres")
    made = create_engine(primary.url.rsplit("/", 1)[0] + "/pages")
    Base.metadata.create_all(made)
    with made.begin() as connection:
        connection.execute(text(RUNS), {"tenant": TENANT, "big": BIG, "small": SMALL})
    create_indexes(made)
    with made.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE workflow_runs"))
    yield made
    made.dispose()
    primary.execute("DROP DATABASE pages WITH (FORCE)", database="postgres")


def cost(engine: Engine, app: str, sources: tuple[str, ...], status: str | None = None, depth: int = 0) -> Cost:
    """The cost of one page, explained after ten executions through psycopg's own preparation."""
    last = _run_at(engine, app, sources, depth) if depth else None
    statement = page_statement(len(sources), with_status=bool(status), with_cursor=bool(last))
    compiled = statement.compile(dialect=engine.dialect)
    values = compiled.construct_params(page_parameters(TENANT, app, sources, status, last, LIMIT + 1))
    named = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", str(compiled))))
    with engine.connect() as connection:
        cursor: Any = connection.connection.cursor()
        for _ in range(11):
            cursor.execute(str(compiled), values)
        cursor.execute("SELECT name FROM pg_prepared_statements WHERE statement LIKE '%LIMIT%'")
        ((name,),) = cursor.fetchall()
        arguments = SQL(", ").join(Literal(values[key]) for key in named)
        explain = SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {} ({})").format(Identifier(name), arguments)
        cursor.execute(explain)
        plan = cursor.fetchone()[0][0]["Plan"]
    scans = [node for node in _nodes(plan) if node["Node Type"] in {"Index Scan", "Bitmap Heap Scan", "Seq Scan"}]
    rows = sum(int((n["Actual Rows"] + n.get("Rows Removed by Filter", 0)) * n["Actual Loops"]) for n in scans)
    indexes = frozenset(n["Index Name"] for n in _nodes(plan) if "Index Name" in n)
    return Cost(rows, plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], indexes)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)


def _run_at(engine: Engine, app: str, sources: tuple[str, ...], depth: int) -> str:
    here = (WorkflowRun.tenant_id == TENANT, WorkflowRun.app_id == app, WorkflowRun.triggered_from.in_(sources))
    newest = select(WorkflowRun.id).where(*here).order_by(WorkflowRun.created_at.desc(), WorkflowRun.id.desc())
    with Session(engine) as session:
        return session.scalars(newest.offset(depth).limit(1)).one()


@pytest.mark.parametrize(
    ("app", "sources", "status", "depth"),
    [
        (BIG, ("app-run",), None, 0),
        (BIG, ("app-run",), None, 100_000),
        (BIG, ("app-run", "debugging"), None, 100_000),
        (BIG, ("app-run", "webhook"), None, 0),
        (BIG, ("app-run", "webhook"), None, 120_000),
        (BIG, ("app-run",), "stopped", 0),
        (BIG, ("app-run", "debugging", "webhook", "schedule"), "stopped", 5),
        (SMALL, ("app-run",), None, 0),
        (SMALL, ("app-run",), None, 500),
    ],
)
def test_a_page_reads_one_page_of_rows_and_little_else(
    engine: Engine, app: str, sources: tuple[str, ...], status: str | None, depth: int
) -> None:
    found = cost(engine, app, sources, status, depth)
    k = len(sources)
    leaves = 2 * k + 1  # each arm's rows may lie across two; and the cursor's
    assert found.heap_rows <= LIMIT + 1 + k
    assert found.buffers <= found.heap_rows + leaves + 4 * k
    expected = "tidegate_runs_status_page_idx" if status else "tidegate_runs_page_idx"
    assert found.indexes - {"workflow_run_pkey"} <= {expected}


def test_dify_s_own_indexes_are_there_too(engine: Engine) -> None:
    with engine.connect() as connection:
        names = set(
            connection.execute(text("SELECT indexname FROM pg_indexes WHERE tablename = 'workflow_runs'")).scalars()
        )
    assert {"workflow_run_triggerd_from_idx", "workflow_run_created_at_id_idx"} <= names


def test_every_source_costs_a_probe_and_no_more_rows(engine: Engine) -> None:
    found = cost(engine, BIG, ())
    assert found.heap_rows <= LIMIT + 1 + 7
    assert found.buffers < 120


def test_a_page_touches_no_toast_block(cluster: Cluster, database_url: str) -> None:
    engine = create_engine(database_url)
    Base.metadata.create_all(engine)
    graph = "(SELECT string_agg(md5(CAST(g * 1000 + n AS text)), '') FROM generate_series(1, 300) n)"
    heavy = text(RUNS.replace("'{}', '{}', '{}'", f"{graph}, '{{}}', '{{}}'").replace("600000", "90"))
    with engine.begin() as connection:
        connection.execute(heavy, {"tenant": TENANT, "big": LISTED, "small": SMALL})
    query = text("SELECT toast_blks_read + toast_blks_hit FROM pg_statio_all_tables WHERE relname = 'workflow_runs'")

    def toast() -> int:
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_stat_force_next_flush()"))
            connection.commit()
            return int(connection.execute(query).scalar_one())

    runs = DifyAPISQLAlchemyWorkflowRunRepository(sessionmaker(engine))
    before = toast()
    page = runs.get_paginated_workflow_runs(TENANT, LISTED, [])
    assert len(page.data) == LIMIT
    assert toast() == before
    assert page.data[0].graph
    assert toast() > before
    engine.dispose()
    assert cluster.shards[0].primary.running


def test_indexes_are_made_once_rebuilt_when_invalid_and_dropped_on_request(database_url: str) -> None:
    engine = create_engine(database_url)
    Base.metadata.create_all(engine)
    names = [spec.name for spec in INDEXES]
    assert create_indexes(engine) == names
    assert create_indexes(engine) == []
    with engine.begin() as connection:  # what a broken-off CREATE INDEX CONCURRENTLY leaves
        connection.execute(
            text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = CAST(:name AS regclass)"),
            {"name": names[0]},
        )
    assert index_states(engine) == {names[0]: "invalid", names[1]: "valid"}
    assert create_indexes(engine) == [names[0]]
    assert set(index_states(engine).values()) == {"valid"}
    assert drop_indexes(engine) == names
    assert set(index_states(engine).values()) == {"missing"}
    assert drop_indexes(engine) == []
    engine.dispose()
