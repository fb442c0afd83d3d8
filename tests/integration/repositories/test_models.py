"""The tables, written out a second time: what PostgreSQL made of the models must be just this.

A column: its name, its type, then "null" if it may be NULL, and the default of the database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Connection, create_engine, select, text
from sqlalchemy.orm import Session

from tidegate.repositories.models import Base, WorkflowRun, new_id

if TYPE_CHECKING:
    from collections.abc import Iterator

CREATED = "created_at timestamp = CURRENT_TIMESTAMP"
IDS = "id uuid, tenant_id uuid, app_id uuid, workflow_id uuid"
TABLES = {
    "workflow_runs": f"""{IDS}, type varchar(255), triggered_from varchar(255), version varchar(255), graph text null,
        inputs text null, status varchar(255), outputs text null, error text null, elapsed_time float8 = 0,
        total_tokens int8 = 0, total_steps int4 null = 0, created_by_role varchar(255), created_by uuid, {CREATED},
        finished_at timestamp null, exceptions_count int4 null = 0""",
    "workflow_node_executions": f"""{IDS}, triggered_from varchar(255), workflow_run_id uuid null, index int4,
        predecessor_node_id varchar(255) null, node_execution_id varchar(255) null, node_id varchar(255),
        node_type varchar(255), title varchar(255), inputs text null, process_data text null, outputs text null,
        status varchar(255), error text null, elapsed_time float8 = 0, execution_metadata text null, {CREATED},
        created_by_role varchar(255), created_by uuid, finished_at timestamp null""",
    "workflow_node_execution_offload": f"""id uuid, {CREATED}, tenant_id uuid, app_id uuid,
        node_execution_id uuid null, type varchar(20), file_id uuid""",
    "workflow_pauses": f"""id uuid, workflow_id uuid, workflow_run_id uuid, resumed_at timestamp null,
        state_object_key varchar(255), {CREATED}, updated_at timestamp = CURRENT_TIMESTAMP""",
    "workflow_pause_reasons": f"""id uuid, pause_id uuid, type_ varchar(20), form_id varchar(36), node_id varchar(255),
        message varchar(255), {CREATED}, updated_at timestamp = CURRENT_TIMESTAMP""",
    "workflow_app_logs": f"""{IDS}, workflow_run_id uuid, created_from varchar(255), created_by_role varchar(255),
        created_by uuid, {CREATED}""",
    "workflow_archive_logs": f"""{IDS}, workflow_run_id uuid, created_by_role varchar(255), created_by uuid,
        log_id uuid null, log_created_at timestamp null, log_created_from varchar(255) null, run_version varchar(255),
        run_status varchar(255), run_triggered_from varchar(255), run_error text null, run_elapsed_time float8 = 0,
        run_total_tokens int8 = 0, run_total_steps int4 null = 0, run_created_at timestamp,
        run_finished_at timestamp null, run_exceptions_count int4 null = 0, trigger_metadata text null,
        archived_at timestamp = CURRENT_TIMESTAMP""",
    "workflow_trigger_logs": f"""{IDS}, workflow_run_id uuid null, root_node_id varchar(255) null,
        trigger_metadata text, trigger_type varchar(255), trigger_data text, inputs text, outputs text null,
        status varchar(50), error text null, queue_name varchar(100), celery_task_id varchar(255) null,
        retry_count int4, elapsed_time float8 null, total_tokens int4 null, {CREATED}, created_by_role varchar(255),
        created_by varchar(255), triggered_at timestamp null, finished_at timestamp null""",
}
INDEXES = {
    "workflow_runs": {"tenant_id, app_id, triggered_from", "created_at, id"},
    "workflow_node_executions": {
        "workflow_run_id",
        "tenant_id, app_id, workflow_id, triggered_from, node_id",
        "tenant_id, app_id, workflow_id, triggered_from, node_execution_id",
        "tenant_id, workflow_id, node_id, created_at DESC",
    },
    "workflow_node_execution_offload": {"UNIQUE node_execution_id, type"},
    "workflow_pauses": {"UNIQUE workflow_run_id"},
    "workflow_pause_reasons": {"pause_id"},
    "workflow_app_logs": {"tenant_id, app_id", "workflow_run_id"},
    "workflow_archive_logs": {"tenant_id, app_id", "run_created_at", "workflow_run_id"},
    "workflow_trigger_logs": {"tenant_id, app_id", "status", "created_at", "workflow_run_id", "workflow_id"},
}
COLUMNS_OF = text(
    "SELECT column_name || ' ' || udt_name || coalesce('(' || character_maximum_length || ')', '')"
    " || CASE is_nullable WHEN 'YES' THEN ' null' ELSE '' END"
    " || coalesce(' = ' || split_part(column_default, '::', 1), '')"
    " FROM information_schema.columns WHERE table_name = :table"
)
INDEXES_OF = text("SELECT indexdef FROM pg_indexes WHERE tablename = :table")


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    engine = create_engine(database_url)
    Base.metadata.create_all(engine)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def test_the_models_make_these_tables_these_columns_and_no_other(connection: Connection) -> None:
    made = set(connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).scalars())
    assert made == set(TABLES)
    for table, columns in TABLES.items():
        found = set(connection.execute(COLUMNS_OF, {"table": table}).scalars())
        assert found == {" ".join(column.split()) for column in columns.split(",")}, table


def test_each_table_has_its_primary_key_these_indexes_and_no_other(connection: Connection) -> None:
    for table, indexes in INDEXES.items():
        found = set()
        for definition in connection.execute(INDEXES_OF, {"table": table}).scalars():
            unique = "UNIQUE " if definition.startswith("CREATE UNIQUE") else ""
            found.add(unique + definition.split("(", 1)[1].removesuffix(")"))
        assert found == indexes | {"UNIQUE id"}, table


def test_there_is_no_foreign_key(connection: Connection) -> None:
    assert connection.execute(text("SELECT count(*) FROM pg_constraint WHERE contype = 'f'")).scalar() == 0


def test_a_run_may_use_more_tokens_than_an_int_holds(connection: Connection) -> None:
    given = {"total_tokens": 3_000_000_000, "elapsed_time": 1.5} | dict.fromkeys(
        ("id", "tenant_id", "app_id"), new_id()
    )
    given |= dict.fromkeys(("workflow_id", "created_by"), new_id())
    given |= dict.fromkeys(("type", "triggered_from", "version", "status", "created_by_role"), "x")
    with Session(connection) as session:
        session.add(WorkflowRun(**given))
        session.flush()
        assert session.scalar(select(WorkflowRun.total_tokens)) == 3_000_000_000
