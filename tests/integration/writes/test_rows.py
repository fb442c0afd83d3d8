"""Which tags the rows of every tracked table change: parents, moves, bounds, and what names no tenant."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import pytest
from sqlalchemy import (
    MetaData,
    Table,
    bindparam,
    delete,
    func,
    insert,
    literal,
    select,
    table,
    text,
    update,
)
from sqlalchemy import column as sql_column
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import aliased

from tidegate.cache.store import Change
from tidegate.proxy.tracking.notes import MOST_ROWS, MOST_TENANTS, MOST_TOGETHER
from tidegate.repositories.models import (
    WorkflowAppLog,
    WorkflowArchiveLog,
    WorkflowNodeExecutionModel,
    WorkflowNodeExecutionOffload,
    WorkflowPause,
    WorkflowPauseReason,
    WorkflowRun,
    WorkflowTriggerLog,
    new_id,
)

pytestmark = pytest.mark.matrix

TENANT, OTHER = "7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10", "9e0c7a54-8d2b-4f7e-8a31-0c5d4b6e2f90"
APP, APP2 = "1b0a1e8e-90c6-4f0e-8a52-5d1f0c7a2b20", "2c1b2f9f-a1d7-4a1f-9b63-6e2a1d8b3c31"
RUNS: Final[Any] = WorkflowRun.__table__
PAUSES: Final[Any] = WorkflowPause.__table__

NODES: Final[Any] = WorkflowNodeExecutionModel.__table__
OFFLOADS: Final[Any] = WorkflowNodeExecutionOffload.__table__


def upsert(watched: Any) -> Any:
    return pg.insert if watched.is_postgresql else sqlite.insert


# Each table


@pytest.mark.parametrize(
    ("model", "tag", "by"),
    [
        (WorkflowAppLog, "logs:{}", "app_id"),
        (WorkflowArchiveLog, "archive:{}", "workflow_run_id"),
        (WorkflowTriggerLog, "triggers:{}", "app_id"),
    ],
)
def test_logs(watched: Any, values_of: Any, model: Any, tag: str, by: str) -> None:
    values = values_of(model)
    expected = {TENANT: {tag.format(values[by])}}
    with watched.sessions() as session:
        session.add(model(**values))
        session.commit()
    assert watched.take() == expected
    with watched.sessions() as session:
        session.execute(delete(model).where(getattr(model, by) == values[by]))
        session.commit()
    assert watched.take() == expected


def test_a_node_execution_without_a_run_has_no_tag_of_one(watched: Any, values_of: Any) -> None:
    node = values_of(WorkflowNodeExecutionModel, workflow_run_id=None)
    with watched.sessions() as session:
        session.add(WorkflowNodeExecutionModel(**node))
        session.commit()
    assert watched.take() == {TENANT: {f"node:{node['id']}", f"lastnode:{node['workflow_id']}:n1"}}


def test_offloads_change_their_node_execution(watched: Any, values_of: Any, tags_of: Any) -> None:
    node = watched.store(WorkflowNodeExecutionModel)
    offload = values_of(WorkflowNodeExecutionOffload, node_execution_id=node["id"], type_="inputs")
    with watched.sessions() as session:
        session.add(WorkflowNodeExecutionOffload(**offload))
        session.commit()
        assert watched.take() == {TENANT: tags_of(node)}
        session.get_one(WorkflowNodeExecutionOffload, offload["id"]).file_id = new_id()
        session.commit()
        assert watched.take() == {TENANT: tags_of(node)}
        session.delete(session.get_one(WorkflowNodeExecutionOffload, offload["id"]))
        session.commit()
        assert watched.take() == {TENANT: tags_of(node)}


def test_offloads_whose_node_execution_is_gone(watched: Any) -> None:
    offload = watched.store(WorkflowNodeExecutionOffload, type_="inputs")
    with watched.sessions() as session:
        session.execute(delete(WorkflowNodeExecutionOffload))
        session.commit()
    assert watched.take() == {offload["tenant_id"]: "whole"}  # it may be there, and not be seen yet


def test_pauses_and_reasons_change_their_run(watched: Any, values_of: Any, tags_of: Any) -> None:
    run = watched.store()
    pause = values_of(WorkflowPause, workflow_run_id=run["id"])
    reason = values_of(WorkflowPauseReason, pause_id=pause["id"])
    expected = {TENANT: tags_of(run) | {f"pause:{run['id']}"}}
    with watched.sessions() as session:
        session.add(WorkflowPause(**pause))
        session.commit()
        assert watched.take() == expected
        session.add(WorkflowPauseReason(**reason))
        session.commit()
        assert watched.take() == expected
        session.execute(update(WorkflowPauseReason).where(WorkflowPauseReason.id == reason["id"]).values(message="m"))
        session.commit()
        assert watched.take() == expected
        session.execute(delete(WorkflowPauseReason))
        session.commit()
        assert watched.take() == expected
        session.execute(delete(WorkflowPause))
        session.commit()
        assert watched.take() == expected


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_children_deleted_with_their_parents_in_any_order(watched: Any, tags_of: Any, order: Any) -> None:
    run = watched.store()
    pause = watched.store(WorkflowPause, workflow_run_id=run["id"])
    watched.store(WorkflowPauseReason, pause_id=pause["id"])
    with watched.engine.begin() as connection:
        for at in order:
            connection.execute(delete((WorkflowRun, WorkflowPause, WorkflowPauseReason)[at]))
    assert watched.take() == {TENANT: tags_of(run) | {f"pause:{run['id']}"}}


def test_rows_of_a_parent_that_went_earlier_are_nobodys(watched: Any) -> None:
    watched.store(WorkflowPause)
    watched.store(WorkflowPauseReason)
    with watched.engine.begin() as connection:
        assert connection.execute(delete(WorkflowPause)).rowcount == 1
        assert connection.execute(delete(WorkflowPauseReason)).rowcount == 1
    assert watched.take() == {}


def test_a_pause_that_moves_to_another_run(watched: Any) -> None:
    old, new = watched.store(), watched.store(tenant_id=OTHER)
    watched.store(WorkflowPause, workflow_run_id=old["id"])
    with watched.sessions() as session:
        session.scalars(select(WorkflowPause)).one().workflow_run_id = new["id"]
        session.commit()
    assert watched.take() == {TENANT: "whole", OTHER: "whole"}  # its reasons move too, and nobody has read them


def test_a_log_that_moves_to_another_tenant(watched: Any) -> None:
    log = watched.store(WorkflowAppLog)
    with watched.engine.begin() as connection:
        connection.execute(update(WorkflowAppLog).values(tenant_id=OTHER))
    assert watched.take() == {TENANT: {f"logs:{log['app_id']}"}, OTHER: {f"logs:{log['app_id']}"}}


# Moves

MOVES: Final[dict[str, dict[str, Any]]] = {
    "app": {"app_id": APP2},
    "tenant": {"tenant_id": OTHER},
    "both": {"app_id": APP2, "tenant_id": OTHER},
}


def _day(run: dict[str, Any]) -> dict[str, Any]:
    return {"created_at": run["created_at"] + timedelta(days=400)}


@pytest.mark.parametrize("what", [*MOVES, "day", "id"])
@pytest.mark.parametrize("how", ["flush", "core", "many", "query", "bulk", "computed"])
def test_rows_that_move(watched: Any, tags_of: Any, what: str, how: str) -> None:
    run = watched.store()
    moved = {"day": _day(run), "id": {"id": new_id()}}.get(what) or MOVES[what]
    after = run | moved
    if what == "id" and how in {"flush", "bulk", "computed"}:
        pytest.skip("there a primary key names the row that it changes")
    if how == "flush":
        with watched.sessions() as session:
            loaded = session.get_one(WorkflowRun, run["id"])
            for name, value in moved.items():
                setattr(loaded, name, value)
            session.commit()
    elif how == "query":
        with watched.sessions() as session:
            session.query(WorkflowRun).filter(WorkflowRun.app_id == APP).update(moved, synchronize_session=False)
            session.commit()
    elif how == "bulk":
        with watched.sessions() as session:
            session.bulk_update_mappings(WorkflowRun.__mapper__, [moved | {"id": run["id"]}])
            session.commit()
    elif how == "computed":
        computed = {key: select(literal(value, RUNS.c[key].type)).scalar_subquery() for key, value in moved.items()}
        with watched.engine.begin() as connection:
            connection.execute(update(RUNS).where(RUNS.c.id == run["id"]).values(computed))
    else:
        statement = update(RUNS).where(RUNS.c.app_id == bindparam("old"))
        parameters: Any = moved | {"old": APP}
        with watched.engine.begin() as connection:
            connection.execute(statement, [parameters, parameters | {"old": new_id()}] if how == "many" else parameters)
    found = watched.take()
    if run["tenant_id"] == after["tenant_id"]:
        assert found == {TENANT: tags_of(run) | tags_of(after)}
    else:
        assert found == {TENANT: "whole", OTHER: "whole"}  # its pauses move too, and nobody has read them
    assert [(row.id, row.app_id) for row in watched.rows()] == [(after["id"], after["app_id"])]


def test_a_value_that_a_session_loaded_long_ago_is_not_trusted(watched: Any, tags_of: Any) -> None:
    """Old values are those under the lock: another transaction may have moved the row since it was loaded."""
    run = watched.store()
    moved = run | {"app_id": APP2}
    with watched.sessions(expire_on_commit=False) as session:
        loaded = session.get_one(WorkflowRun, run["id"])
        session.commit()
        with watched.engine.begin() as connection:
            connection.execute(update(RUNS).values(app_id=APP2))
        watched.take()
        session.delete(loaded)
        session.commit()
    assert watched.take() == {TENANT: tags_of(moved)}


# Upserts


@pytest.mark.parametrize("exists", [True, False])
def test_upsert_by_another_key(watched: Any, values_of: Any, tags_of: Any, exists: bool) -> None:
    node = watched.store(WorkflowNodeExecutionModel)
    values = values_of(WorkflowNodeExecutionOffload, node_execution_id=node["id"], type_="inputs")
    if exists:
        watched.store(WorkflowNodeExecutionOffload, node_execution_id=node["id"], type_="inputs")
    statement = upsert(watched)(WorkflowNodeExecutionOffload)
    statement = statement.values({WorkflowNodeExecutionOffload.__mapper__.columns[k]: v for k, v in values.items()})
    statement = statement.on_conflict_do_update(
        index_elements=["node_execution_id", "type"], set_={"file_id": statement.excluded.file_id}
    )
    with watched.engine.begin() as connection:
        connection.execute(statement)
    assert watched.take() == {TENANT: tags_of(node)}
    assert [row.file_id for row in watched.rows(WorkflowNodeExecutionOffload)] == [values["file_id"]]


@pytest.mark.parametrize("exists", [True, False])
def test_upsert_that_moves(watched: Any, values_of: Any, tags_of: Any, exists: bool) -> None:
    old = watched.store() if exists else values_of(WorkflowRun)
    new = old | {"app_id": APP2, "tenant_id": OTHER}
    statement = upsert(watched)(WorkflowRun)
    changed = {key: statement.excluded[key] for key in new if key != "id"}
    with watched.engine.begin() as connection:
        connection.execute(statement.on_conflict_do_update(index_elements=[RUNS.c.id], set_=changed), [new])
    expected = {OTHER: tags_of(new)}
    assert watched.take() == ({TENANT: "whole", OTHER: "whole"} if exists else expected)


def test_upsert_by_constraint_name(postgresql: Any, tags_of: Any) -> None:
    run = postgresql.store()
    statement = pg.insert(WorkflowRun).values(run | {"status": "failed"})
    with postgresql.engine.begin() as connection:
        connection.execute(
            statement.on_conflict_do_update(constraint="workflow_run_pkey", set_={"status": statement.excluded.status})
        )
    assert postgresql.take() == {TENANT: tags_of(run)}


@pytest.mark.parametrize("exists", [True, False])
def test_upsert_that_moves_within_its_tenant(watched: Any, values_of: Any, tags_of: Any, exists: bool) -> None:
    old = watched.store() if exists else values_of(WorkflowRun)
    new = old | {"app_id": APP2}
    statement = upsert(watched)(WorkflowRun).values(**new)
    with watched.engine.begin() as connection:
        connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_={"app_id": APP2}))
    assert watched.take() == {TENANT: tags_of(new) | (tags_of(old) if exists else set())}


# Bulk statements


def test_past_the_bound_whole_tenants_count(postgresql: Any, values_of: Any) -> None:
    many = MOST_ROWS + 1
    with postgresql.engine.begin() as connection:
        connection.execute(insert(RUNS), [values_of(WorkflowRun) for _ in range(many)])
        connection.execute(insert(RUNS), [values_of(WorkflowRun, tenant_id=OTHER)])
    postgresql.take()
    with postgresql.engine.begin() as connection:
        assert connection.execute(update(RUNS).values(status="failed", tenant_id=TENANT)).rowcount == many + 1
    assert postgresql.take() == {TENANT: "whole", OTHER: "whole"}
    with postgresql.engine.begin() as connection:
        assert connection.execute(delete(RUNS).where(RUNS.c.status == "failed")).rowcount == many + 1
    assert postgresql.take() == {TENANT: "whole"}


def test_past_the_bound_of_a_transaction_its_tenants_are_noted_once(postgresql: Any, values_of: Any) -> None:
    many, notes = MOST_ROWS, "SELECT count(*) FROM tidegate_outbox"
    updates = MOST_TOGETHER // (2 * many)  # of each row two versions
    with postgresql.engine.begin() as connection:
        connection.execute(insert(RUNS).values([values_of(WorkflowRun) for _ in range(many)]))
    postgresql.take()
    postgresql.store(tenant_id=OTHER)
    every, of_other = update(RUNS).values(status="failed"), update(RUNS).where(RUNS.c.tenant_id == OTHER)
    with postgresql.engine.begin() as connection:
        for _ in range(updates):
            connection.execute(every.where(RUNS.c.tenant_id == TENANT))
        assert connection.execute(text(notes)).scalar_one() == updates
        undone = connection.begin_nested()
        for _ in range(3):
            connection.execute(every.where(RUNS.c.tenant_id == TENANT))
        assert connection.execute(text(notes)).scalar_one() == updates + 1
        undone.rollback()
        for _ in range(3):
            connection.execute(every.where(RUNS.c.tenant_id == TENANT))
            connection.execute(of_other.values(status="failed"))
        assert connection.execute(text(notes)).scalar_one() == updates + 2
        connection.execute(delete(RUNS))
        assert connection.execute(text(notes)).scalar_one() == updates + 3
    assert postgresql.take() == {TENANT: "whole", OTHER: "whole"}
    with postgresql.engine.begin() as connection:
        connection.execute(insert(RUNS).values([values_of(WorkflowRun)]))
        assert connection.execute(text(notes)).scalar_one() == 1
    assert postgresql.take()[TENANT] != "whole"


def test_what_a_transaction_does_after_its_notes_were_taken_is_noted_again(postgresql: Any, values_of: Any) -> None:
    # A PREPARE that was refused has taken them, and the program may go on and commit.
    noted = text("SELECT count(*) FROM tidegate_outbox")
    with postgresql.engine.begin() as connection:
        connection.execute(insert(RUNS).values([values_of(WorkflowRun) for _ in range(MOST_ROWS)]))
    every = update(RUNS).values(status="failed")
    with postgresql.engine.connect() as connection:
        for _ in range(MOST_TOGETHER // (2 * MOST_ROWS) + 1):
            connection.execute(every)
        connection.execute(text("SELECT FROM tidegate_take_notes(NULL)"))
        assert connection.execute(noted).scalar_one() == 0
        for number in range(MOST_TOGETHER // (2 * MOST_ROWS) + 2):
            connection.execute(every)
            assert connection.execute(noted).scalar_one() == min(number, MOST_TOGETHER // (2 * MOST_ROWS)) + 1


def test_nobody_keeps_a_change_from_being_noted_by_a_setting(postgresql: Any, values_of: Any) -> None:
    with postgresql.engine.begin() as connection:
        connection.execute(insert(RUNS).values([values_of(WorkflowRun) for _ in range(MOST_ROWS)]))
    postgresql.take()
    every, said = update(RUNS).values(status="failed"), text("SELECT current_setting('tidegate.noted')")
    with postgresql.engine.begin() as connection:
        for _ in range(MOST_TOGETHER // (2 * MOST_ROWS) + 1):
            connection.execute(every)
        forged = connection.execute(said).scalar_one()
    assert "whole" in forged
    postgresql.take()
    # As another transaction's; of a place that is none; of one that is no place at all.
    for setting in (forged, forged.rpartition("\x1e")[0] + "\x1e(0,0)", forged + "x"):
        with postgresql.engine.begin() as connection:
            connection.execute(text("SELECT set_config('tidegate.noted', :setting, true)"), {"setting": setting})
            connection.execute(every)
        found = postgresql.take()
        assert found == {TENANT: "whole"} or postgresql.recorder.everything
        postgresql.recorder.everything = ""


@pytest.mark.parametrize("parent", ["there", "gone"])
def test_past_the_bound_of_a_transaction_children_count_by_their_parents(
    postgresql: Any, values_of: Any, parent: str
) -> None:
    many = MOST_ROWS
    with postgresql.engine.begin() as connection:
        connection.execute(insert(RUNS).values([values_of(WorkflowRun) for _ in range(many)]))
    postgresql.take()
    run = postgresql.store(tenant_id=OTHER)
    postgresql.store(WorkflowPause, workflow_run_id=run["id"])
    with postgresql.engine.begin() as connection:
        for _ in range(MOST_TOGETHER // (2 * many)):
            connection.execute(update(RUNS).where(RUNS.c.tenant_id == TENANT).values(status="failed"))
        if parent == "gone":
            connection.execute(delete(RUNS).where(RUNS.c.id == run["id"]))
        connection.execute(delete(WorkflowPause))
    # Of a parent that is gone, notes would tell: here they are more than are looked through.
    assert postgresql.recorder.everything == ("all of workflow_pauses" if parent == "gone" else "")
    assert postgresql.take()[OTHER] == "whole"


def test_past_the_bound_of_tenants_everything_counts(postgresql: Any, values_of: Any) -> None:
    runs = [values_of(WorkflowRun, tenant_id=new_id()) for _ in range(MOST_TENANTS + 1)]
    with postgresql.engine.begin() as connection:
        connection.execute(insert(RUNS), runs)
    postgresql.recorder.take()
    with postgresql.engine.begin() as connection:
        connection.execute(update(RUNS).values(status="failed"))
    assert postgresql.recorder.take() == {}
    assert postgresql.recorder.everything == "all of workflow_runs"
    with postgresql.engine.begin() as connection:
        connection.execute(text("TRUNCATE workflow_runs"))
    assert postgresql.recorder.take() == {}
    assert postgresql.recorder.everything == "all of workflow_runs"


def test_a_tenant_that_is_computed(watched: Any, tags_of: Any) -> None:
    run = watched.store()
    with watched.engine.begin() as connection:
        connection.execute(update(RUNS).values(tenant_id=RUNS.c.app_id))
    assert watched.take() == {TENANT: "whole", APP: "whole"}
    assert tags_of(run)


def test_rows_whose_parents_tell_their_tenant(watched: Any, tags_of: Any) -> None:
    first, second = watched.store(), watched.store(tenant_id=OTHER)
    for run in (first, second):
        watched.store(WorkflowPause, workflow_run_id=run["id"])
    with watched.engine.begin() as connection:
        assert connection.execute(delete(WorkflowPause)).rowcount == 2
    assert watched.take() == {
        TENANT: tags_of(first) | {f"pause:{first['id']}"},
        OTHER: tags_of(second) | {f"pause:{second['id']}"},
    }


def test_many_looked_up_rows(postgresql: Any, values_of: Any) -> None:
    runs = [values_of(WorkflowRun, app_id=new_id()) for _ in range(1_500)]
    with postgresql.engine.begin() as connection:
        connection.execute(insert(RUNS), runs)
    postgresql.take()
    with postgresql.sessions() as session:
        session.execute(update(WorkflowRun), [{"id": run["id"], "status": "failed"} for run in runs])
        session.commit()
    assert postgresql.take()[TENANT] == {tag for run in runs for tag in _tags(run)}


def _tags(run: dict[str, Any]) -> set[str]:
    return {f"run:{run['id']}", f"runs:{run['app_id']}", f"runs:{run['app_id']}:{run['created_at']:%Y%m%d}"}


def test_joins_subqueries_and_aliases(watched: Any, tags_of: Any) -> None:
    run, other = watched.store(), watched.store(app_id=APP2)
    watched.store(WorkflowPause, workflow_run_id=run["id"])
    paused = select(WorkflowPause.workflow_run_id)
    with watched.sessions() as session:
        session.execute(update(WorkflowRun).where(WorkflowRun.id.in_(paused)).values(status="paused"))
        session.commit()
        assert watched.take() == {TENANT: tags_of(run)}
        joined = update(WorkflowRun).where(WorkflowRun.id == WorkflowPause.workflow_run_id).values(status="failed")
        session.execute(joined, execution_options={"synchronize_session": False})
        session.commit()
        assert watched.take() == {TENANT: tags_of(run)}
        alias = aliased(WorkflowRun)
        session.execute(delete(alias).where(alias.app_id == APP2), execution_options={"synchronize_session": False})
        session.commit()
    assert watched.take() == {TENANT: tags_of(other)}


def test_a_table_without_columns_is_known_by_its_name(watched: Any, tags_of: Any) -> None:
    run = watched.store()
    light = table("workflow_runs", sql_column("status"))
    with watched.engine.begin() as connection:
        connection.execute(update(light).where(light.c.status == "running").values(status="failed"))
    assert watched.take() == {TENANT: tags_of(run)}


# What no statement says


def test_insert_from_select(watched: Any) -> None:
    run = watched.store()
    names = [name for name in RUNS.c.keys() if name != "id"]  # noqa: SIM118  # a collection of columns
    literal_tenant = [literal(OTHER, RUNS.c.tenant_id.type) if n == "tenant_id" else RUNS.c[n] for n in names]
    made = func.gen_random_uuid() if watched.is_postgresql else literal(new_id())
    with watched.engine.begin() as connection:
        connection.execute(insert(RUNS).from_select(["id", *names], select(made, *literal_tenant)))
    (copy,) = [row for row in watched.rows() if row.id != run["id"]]
    assert watched.take() == {OTHER: _tags(run | {"id": copy.id})}


@pytest.mark.parametrize(
    "statement",
    [
        'UPDATE "workflow_runs" SET status = $$x$$',
        "/* a */ update -- b\n Workflow_Runs SET status = $$x$$",
        "WITH x AS (SELECT 1) UPDATE workflow_runs SET status = $$x$$",
    ],
)
def test_text(watched: Any, statement: str) -> None:
    runs = [watched.store(), watched.store(tenant_id=OTHER)]
    if not watched.is_postgresql:
        statement = statement.replace("$$", "'")
    with watched.engine.begin() as connection:
        connection.execute(text(statement))
    assert watched.take() == {run["tenant_id"]: _tags(run) for run in runs}
    with watched.engine.begin() as connection:
        connection.exec_driver_sql(statement)
    assert watched.take() == {run["tenant_id"]: _tags(run) for run in runs}


def test_writes_in_a_cte(postgresql: Any) -> None:
    gone = delete(RUNS).returning(RUNS.c.id).cte("gone")
    moved = text("UPDATE workflow_runs SET status = 'x' RETURNING id").columns(RUNS.c.id).cte("moved")
    for statement in (
        select(gone),
        select(moved),
        delete(PAUSES).where(PAUSES.c.workflow_run_id.in_(select(gone.c.id))),
    ):
        run = postgresql.store()
        with postgresql.engine.begin() as connection:
            connection.execute(delete(RUNS).where(RUNS.c.id != run["id"]))
        postgresql.take()
        for _ in range(2):  # the second comes from the cache of compiled statements
            with postgresql.engine.connect() as connection:
                connection.execute(statement)
                connection.rollback()
        with postgresql.engine.begin() as connection:
            connection.execute(statement)
        assert postgresql.take() == {TENANT: _tags(run)}


@pytest.mark.parametrize("how", ["as text", "by the driver"])
def test_what_is_committed_beside_the_hooks_is_left_in_the_outbox(watched: Any, values_of: Any, how: str) -> None:
    run, other = values_of(WorkflowRun), values_of(WorkflowRun)
    with watched.engine.connect() as connection:
        connection.execute(insert(RUNS), run)
        if how == "as text":
            connection.execute(text("COMMIT"))
        else:
            connection.connection.dbapi_connection.commit()
        assert watched.left() == {TENANT: _tags(run)}
        connection.execute(insert(RUNS), other)
        connection.commit()
    if how == "by the driver" or watched.engine.driver != "psycopg2":
        assert watched.take() == {TENANT: _tags(other)}
    else:  # this driver thinks that it is in a transaction, and each statement commits by itself
        assert watched.take() == {}
        assert watched.left() == {TENANT: _tags(other)}


def test_text_that_only_looks_like_a_write(watched: Any) -> None:
    watched.store()
    with watched.engine.begin() as connection:
        rows = connection.execute(text("SELECT 'DELETE FROM workflow_runs', status FROM workflow_runs -- UPDATE x"))
        assert len(rows.all()) == 1
    assert watched.take() == {}


def test_a_parent_that_is_not_seen_yet_makes_the_whole_tenant_count(watched: Any, values_of: Any) -> None:
    """T1 has inserted the node and not committed; T2 inserts its offload, commits, and cannot know the node's run."""
    if watched.engine.dialect.name == "sqlite":
        pytest.skip("one writer at a time")
    node = values_of(WorkflowNodeExecutionModel)
    offload = {"id": new_id(), "node_execution_id": node["id"], "type": "inputs", "file_id": new_id()}
    offload |= {key: node[key] for key in ("tenant_id", "app_id")}
    with watched.engine.connect() as first:
        first.execute(insert(NODES), node)
        with watched.engine.begin() as second:
            second.execute(insert(OFFLOADS), offload)
        assert watched.recorder.changes[-1] == (Change(node["tenant_id"], whole=True),)
        first.rollback()


def test_above_read_committed_a_parent_may_be_an_old_version(watched: Any, values_of: Any) -> None:
    if watched.engine.dialect.name == "sqlite":
        pytest.skip("one writer at a time")
    node = values_of(WorkflowNodeExecutionModel)
    with watched.engine.begin() as connection:
        connection.execute(insert(NODES), node)
    offload = {"id": new_id(), "node_execution_id": node["id"], "type": "inputs", "file_id": new_id()}
    offload |= {key: node[key] for key in ("tenant_id", "app_id")}
    with watched.engine.execution_options(isolation_level="REPEATABLE READ").begin() as connection:
        connection.execute(insert(OFFLOADS), offload)
    assert watched.recorder.changes[-1] == (Change(node["tenant_id"], whole=True),)


def test_a_table_whose_schema_is_spelt_out_is_the_same_table(watched: Any, tags_of: Any) -> None:
    if watched.engine.dialect.name == "sqlite":
        pytest.skip("no schemas")
    run = watched.store()
    spelt = Table("workflow_runs", MetaData(), autoload_with=watched.engine, schema="public")
    with watched.engine.begin() as connection:
        connection.execute(update(spelt).where(spelt.c.id == run["id"]).values(status="failed"))
    assert watched.take() == {run["tenant_id"]: tags_of(run)}
