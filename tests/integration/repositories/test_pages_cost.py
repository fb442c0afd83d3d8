"""What a page reads: counted by PostgreSQL, for the statement that psycopg sends, beside Dify's own indexes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.sql import SQL, Identifier, Literal
from real_servers.host_models import HOST_MODELS
from real_servers.host_runs import HostRuns, create_host_tables
from sqlalchemy import create_engine, event, func, select, text
from sqlalchemy.orm import Session, sessionmaker

from tidegate.benchmarks.contenders.contender import Repositories, ScenarioCall, baseline
from tidegate.repositories.enums import WorkflowRunTriggeredFrom as Source
from tidegate.repositories.indexes import INDEXES, create_indexes, drop_indexes, index_states
from tidegate.repositories.models import Base, WorkflowRun, new_id
from tidegate.repositories.runs.page_statements import page_parameters, page_statements
from tidegate.repositories.sqlalchemy_api_workflow_run_repository import DifyAPISQLAlchemyWorkflowRunRepository

if TYPE_CHECKING:
    from collections.abc import Iterator

    from real_servers.host_models import HostRun
    from sqlalchemy import Engine

    from tidegate.proxy.embedded import Cluster

TENANT = "7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10"
BIG, SMALL, LISTED = (f"{n}b0a1e8e-90c6-4f0e-8a52-5d1f0c7a2b20" for n in (1, 2, 3))
LIMIT = 20
ONE_OF_200 = "CAST(lpad(to_hex(g % 200), 32, 'a') AS uuid)"
RUNS = """
INSERT INTO workflow_runs (id, tenant_id, app_id, workflow_id, type, triggered_from, version, graph, inputs, outputs,
                           status, created_by_role, created_by, created_at)
SELECT gen_random_uuid(), CASE WHEN g % 3 = 0 OR g % 600 = 1 THEN :tenant ELSE CAST({other} AS uuid) END,
       CASE WHEN g % 3 = 0 THEN CAST(:big AS uuid) WHEN g % 600 = 1 THEN :small ELSE {other} END,
       gen_random_uuid(), 'workflow',
       CASE WHEN g % 4800 = 0 THEN 'webhook' WHEN g % 9 = 0 THEN 'debugging' ELSE 'app-run' END,
       '1', '{{}}', '{{}}', '{{}}',
       CASE WHEN g % 6000 = 0 THEN 'stopped' WHEN g % 10 = 1 THEN 'failed' ELSE 'succeeded' END,
       'account', gen_random_uuid(), TIMESTAMP '2026-01-01' + g / 3 * INTERVAL '1 second'
FROM generate_series(1, {runs}) g
"""
DATA = {
    "apps of ordinary sizes": RUNS.format(runs=120_000, other=ONE_OF_200),
    # PostgreSQL expects one row of any app that it does not know by name.
    "80,000 apps of one run": RUNS.format(runs=120_000, other="gen_random_uuid()"),
    # At this size Dify's index is one level lower than Tidegate's, and a look into it cheaper.
    "a small table": RUNS.format(runs=14_000, other="gen_random_uuid()"),
}
LARGE = {
    f"{name}, 600,000 runs": RUNS.format(runs=600_000, other=other)
    for name, other in (("apps of ordinary sizes", ONE_OF_200), ("400,000 apps of one run", "gen_random_uuid()"))
}


@dataclass(frozen=True)
class Cost:
    heap_rows: int
    buffers: int
    indexes: frozenset[str]


@pytest.fixture(scope="module", params=[*DATA, *(pytest.param(name, marks=pytest.mark.soak) for name in LARGE)])
def engine(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Engine]:
    """Runs of which one app has a third and one a 600th, interleaved in time with those of others."""
    primary = cluster.shards[0].primary
    primary.execute("CREATE DATABASE pages", database="postgres")
    made = create_engine(primary.url.rsplit("/", 1)[0] + "/pages")
    create_host_tables(made)
    with made.begin() as connection:
        connection.execute(text((DATA | LARGE)[request.param]), {"tenant": TENANT, "big": BIG, "small": SMALL})
    create_indexes(made)
    with made.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE workflow_runs"))
    yield made
    made.dispose()
    primary.execute("DROP DATABASE pages WITH (FORCE)", database="postgres")


def cost(
    engine: Engine,
    app: str,
    sources: tuple[str, ...],
    status: str | None = None,
    last: str | None = None,
    limit: int = LIMIT,
    plans: str = "auto",
    model: type[Any] = WorkflowRun,
) -> Cost:
    """The cost of one page of *model*, explained after ten executions through psycopg's own preparation.

    Every other execution is for an app that has no runs: a plan that was made for one serves the other.
    """
    statement = page_statements(model).page(
        len(sources), with_status=bool(status), with_cursor=bool(last), indexed=True
    )
    wanted, others = (page_parameters(TENANT, one, sources, status, last, limit + 1) for one in (app, new_id()))
    seen: list[tuple[str, dict[str, Any]]] = []

    def note(*arguments: Any) -> None:
        seen.append((arguments[2], arguments[3]))

    with Session(engine) as session:
        connection = session.connection()
        event.listen(connection, "before_cursor_execute", note)
        for i in range(11):
            session.scalars(statement, others if i % 2 else wanted).all()
        cursor: Any = connection.connection.cursor()
        cursor.execute("SELECT name FROM pg_prepared_statements WHERE statement LIKE '%LIMIT%'")
        ((name,),) = cursor.fetchall()
        sql, values = seen[-1]
        arguments = SQL(", ").join(Literal(values[key]) for key in dict.fromkeys(re.findall(r"%\((\w+)\)s", sql)))
        cursor.execute(SQL("SET LOCAL plan_cache_mode = {}").format(Literal(plans)))
        explain = SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {} ({})").format(Identifier(name), arguments)
        cursor.execute(explain)
        plan = cursor.fetchone()[0][0]["Plan"]
        session.connection().connection.invalidate()  # with its prepared statements
    scans = [node for node in _nodes(plan) if node["Node Type"] in {"Index Scan", "Bitmap Heap Scan", "Seq Scan"}]
    rows = sum(int((n["Actual Rows"] + n.get("Rows Removed by Filter", 0)) * n["Actual Loops"]) for n in scans)
    indexes = frozenset(n["Index Name"] for n in _nodes(plan) if "Index Name" in n)
    return Cost(rows, plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], indexes)


@pytest.fixture(scope="module")
def without_indexes(engine: Engine, cluster: Cluster) -> Iterator[tuple[Repositories, Repositories]]:
    """The plain repositories and Dify's statements, on a copy of the database that has Dify's indexes only."""
    engine.dispose()  # a database is copied while nobody uses it
    primary = cluster.shards[0].primary
    primary.execute("CREATE DATABASE pages_plain TEMPLATE pages STRATEGY file_copy", database="postgres")
    url = engine.url.set(database="pages_plain")
    # A rollback makes psycopg forget what it has prepared, so it prepares most where each statement commits by itself.
    engine_of_ours = create_engine(url, isolation_level="AUTOCOMMIT")
    runs = DifyAPISQLAlchemyWorkflowRunRepository(sessionmaker(engine_of_ours))
    contenders = Repositories("plain", engine_of_ours, runs, None), baseline(url)
    drop_indexes(contenders[0].engine)
    yield contenders
    for contender in contenders:
        contender.engine.dispose()
    primary.execute("DROP DATABASE pages_plain WITH (FORCE)", database="postgres")


def buffers(contender: Repositories, wanted: ScenarioCall, others: ScenarioCall) -> int:
    """The blocks that a call reads, explained after eleven calls, of which every other one finds nothing."""
    seen: list[tuple[str, Any]] = []

    def note(*arguments: Any) -> None:
        seen.append((arguments[2], arguments[3]))

    if contender.engine.driver == "psycopg":  # which prepares what it has seen five times; psycopg2 never does
        for i in range(11):
            contender.run(others if i % 2 else wanted)
    event.listen(contender.engine, "before_cursor_execute", note)
    contender.run(wanted)
    event.remove(contender.engine, "before_cursor_execute", note)
    found = 0
    with contender.engine.connect() as connection:
        prepared = "SELECT count(*) FROM pg_prepared_statements WHERE statement ~ 'LIMIT' AND statement !~ 'OFFSET'"
        assert connection.exec_driver_sql(prepared).scalar_one() == 0, "a page may get a plan that serves any app"
        for sql, values in seen:
            explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}"
            plan = connection.exec_driver_sql(explain, values).scalar_one()[0]["Plan"]
            found += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return found


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)


def _run_at(engine: Engine, app: str, sources: tuple[str, ...], part: float) -> str | None:
    """The run at that part of the list: None at its beginning, the middle at 0.5."""
    here = (WorkflowRun.tenant_id == TENANT, WorkflowRun.app_id == app, WorkflowRun.triggered_from.in_(sources))
    newest = select(WorkflowRun.id).where(*here).order_by(WorkflowRun.created_at.desc(), WorkflowRun.id.desc())
    with Session(engine) as session:
        depth = int(part * (session.scalar(select(func.count()).select_from(WorkflowRun).where(*here)) or 0))
        return session.scalars(newest.offset(depth).limit(1)).one() if depth else None


@pytest.mark.matrix
@pytest.mark.parametrize("plans", ["auto", "force_generic_plan", "force_custom_plan"])
@pytest.mark.parametrize(
    ("app", "sources", "status", "part"),
    [
        (BIG, ("app-run",), None, 0),
        (BIG, ("app-run",), None, 0.7),
        (BIG, ("app-run", "debugging"), None, 0.5),
        (BIG, ("app-run", "webhook"), None, 0),
        (BIG, ("app-run", "webhook"), None, 0.9),
        (BIG, ("app-run",), "stopped", 0),
        (BIG, ("app-run",), "succeeded", 0.5),
        (BIG, ("app-run", "debugging", "webhook", "schedule"), "stopped", 0.001),
        (BIG, tuple(source.value for source in Source), None, 0.5),
        (SMALL, ("app-run",), None, 0),
        (SMALL, ("app-run",), None, 0.5),
    ],
)
def test_a_page_reads_one_page_of_rows_and_little_else(
    engine: Engine, app: str, sources: tuple[str, ...], status: str | None, part: float, plans: str
) -> None:
    found = cost(engine, app, sources, status, _run_at(engine, app, sources, part), plans=plans)
    k = len(sources)
    leaves = 2 * k + 1  # each arm's rows may lie across two; and the cursor's
    assert found.heap_rows <= LIMIT + 1 + k
    assert found.buffers <= found.heap_rows + leaves + 4 * k
    expected = "tidegate_runs_status_page_idx" if status else "tidegate_runs_page_idx"
    assert found.indexes - {"workflow_run_pkey"} == {expected}


@pytest.mark.matrix
@pytest.mark.parametrize("model", HOST_MODELS)
@pytest.mark.parametrize(
    ("app", "sources", "status", "part"),
    [
        (BIG, ("app-run",), None, 0.7),
        (BIG, ("app-run", "webhook"), None, 0.9),
        (BIG, ("app-run", "debugging"), "stopped", 0.001),
        (BIG, (), None, 0.5),
        (SMALL, ("app-run",), "failed", 0),
    ],
)
def test_a_page_of_a_host_s_model_reads_what_one_of_tidegate_s_does(
    engine: Engine, model: type[HostRun], app: str, sources: tuple[str, ...], status: str | None, part: float
) -> None:
    last = _run_at(engine, app, sources or ("app-run", "debugging"), part)
    found, own = (cost(engine, app, sources, status, last, model=one) for one in (model, WorkflowRun))
    assert (found.heap_rows, found.indexes) == (own.heap_rows, own.indexes)
    assert found.buffers <= own.buffers + 1


@pytest.mark.matrix
@pytest.mark.parametrize("limit", [1, 100, 1000])
@pytest.mark.parametrize("k", range(1, 8))
def test_larger_pages_over_any_number_of_sources_read_their_own_rows_only(engine: Engine, k: int, limit: int) -> None:
    sources = ("app-run", "debugging", "webhook", *sorted({source.value for source in Source}))
    chosen = tuple(dict.fromkeys(sources))[:k]
    with engine.connect() as connection:
        runs = connection.execute(text("SELECT count(*) FROM workflow_runs")).scalar_one()
    if runs < 30 * limit:
        pytest.skip("of a table so small PostgreSQL may rather sort a third")
    found = cost(engine, BIG, chosen, last=_run_at(engine, BIG, chosen, 0.3), limit=limit)
    assert found.heap_rows <= limit + 1 + k
    assert found.buffers <= found.heap_rows + 6 * k + 1 + limit // 50  # leaves hold more than 50 entries


def test_a_cursor_that_does_not_exist_costs_no_walk_through_the_app(engine: Engine) -> None:
    found = cost(engine, BIG, ("app-run",), last=new_id())
    assert found.heap_rows == 0
    assert found.buffers <= 8


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


@pytest.mark.matrix
@pytest.mark.parametrize("app", [BIG, SMALL])
@pytest.mark.parametrize(
    ("sources", "status", "part"),
    [
        (("app-run",), None, 0),
        (("app-run",), None, 0.5),
        (("app-run",), None, 0.99),
        (("app-run",), None, 0.9999),
        (("app-run", "debugging"), None, 0.3),
        (("app-run", "webhook"), None, 0.9),
        (("webhook",), None, 0),
        ((), None, 0.5),
        (("app-run",), "succeeded", 0),
        (("app-run",), "succeeded", 0.7),
        (("app-run",), "stopped", 0),
        (("app-run", "debugging"), "stopped", 0.2),
        (("app-run",), "none has it", 0),
    ],
)
def test_without_tidegate_s_indexes_a_page_reads_no_more_than_dify_s_own_statement(
    without_indexes: tuple[Repositories, Repositories], app: str, sources: tuple[str, ...], status: str, part: float
) -> None:
    ours, dify = without_indexes
    last = _run_at(ours.engine, app, sources or ("app-run", "debugging"), part)
    arguments = (sources[0] if len(sources) == 1 else sources, LIMIT)
    wanted = ScenarioCall("runs", "get_paginated_workflow_runs", (TENANT, app, *arguments, last, status))
    others = ScenarioCall("runs", "get_paginated_workflow_runs", (TENANT, new_id(), *arguments, None, status))
    found, most = buffers(ours, wanted, others), buffers(dify, wanted, others)
    assert found <= 1.15 * most + 3  # the cursor's row is looked up by the id, in both
    page, other = ours.run(wanted), dify.run(wanted)
    assert (len(page.data), page.has_more) == (len(other.data), other.has_more)


@pytest.mark.matrix
@pytest.mark.parametrize("model", HOST_MODELS)
@pytest.mark.parametrize(
    ("app", "sources", "status", "part"),
    [
        (BIG, ("app-run",), None, 0.5),
        (BIG, ("app-run", "debugging"), "succeeded", 0.3),
        (SMALL, (), None, 0),
        (SMALL, ("app-run",), "none has it", 0),
    ],
)
def test_without_tidegate_s_indexes_a_host_s_model_reads_no_more_than_dify_s_own_statement(
    without_indexes: tuple[Repositories, Repositories],
    model: type[HostRun],
    app: str,
    sources: tuple[str, ...],
    status: str,
    part: float,
) -> None:
    plain, dify = without_indexes
    runs: Any = HostRuns(sessionmaker(plain.engine), model)
    host = Repositories("host", plain.engine, runs, None)
    last = _run_at(plain.engine, app, sources or ("app-run", "debugging"), part)
    arguments = (sources[0] if len(sources) == 1 else sources, LIMIT)
    wanted = ScenarioCall("runs", "get_paginated_workflow_runs", (TENANT, app, *arguments, last, status))
    others = ScenarioCall("runs", "get_paginated_workflow_runs", (TENANT, new_id(), *arguments, None, status))
    assert buffers(host, wanted, others) <= 1.15 * buffers(dify, wanted, others) + 3
    assert [run.id for run in host.run(wanted).data] == [run.id for run in plain.run(wanted).data]


def test_a_page_touches_no_toast_block(cluster: Cluster, database_url: str) -> None:
    engine = create_engine(database_url)
    Base.metadata.create_all(engine)
    graph = "(SELECT string_agg(md5(CAST(g * 1000 + n AS text)), '') FROM generate_series(1, 300) n)"
    light = RUNS.format(runs=90, other=ONE_OF_200)
    heavy = text(light.replace("'{}', '{}', '{}'", f"{graph}, '{{}}', '{{}}'"))
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
