"""``tidegate shards ddl --citus``: run on PostgreSQL, where functions stand for Citus' and keep its rule about keys.

What is not shown: that Citus itself takes it. Its functions here have the parameters that its documentation gives them.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, func, inspect, select, text
from sqlalchemy.exc import DBAPIError
from typer.testing import CliRunner

from tidegate.proxy.cli.app import app
from tidegate.proxy.shard_admin.citus import citus_ddl
from tidegate.repositories.columns import naive_utc_now
from tidegate.repositories.entities.workflow_execution import WorkflowExecution
from tidegate.repositories.entities.workflow_node_execution import WorkflowNodeExecution
from tidegate.repositories.enums import WorkflowType
from tidegate.repositories.models import (
    Base,
    WorkflowNodeExecutionModel,
    WorkflowNodeExecutionOffload,
    WorkflowRun,
    new_id,
)
from tidegate.repositories.workflow_execution_repository import SQLAlchemyWorkflowExecutionRepository
from tidegate.repositories.workflow_node_execution_repository import SQLAlchemyWorkflowNodeExecutionRepository

if TYPE_CHECKING:
    from collections.abc import Iterator

    from real_servers.shards import Shards
    from sqlalchemy import Engine

NAMES = {name: table.primary_key.name for name, table in Base.metadata.tables.items()}
CITUS = """
CREATE TABLE placed (number int GENERATED ALWAYS AS IDENTITY, name regclass, by text, beside text);
CREATE FUNCTION create_distributed_table(table_name regclass, distribution_column text,
    distribution_type text DEFAULT 'hash', colocate_with text DEFAULT 'default', shard_count int DEFAULT NULL)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(current_setting('citus.allow_unsafe_constraints', true), '') <> 'on' AND EXISTS (
        SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = distribution_column
        WHERE i.indrelid = table_name AND i.indisunique AND a.attnum <> ALL (i.indkey)) THEN
        RAISE 'cannot create constraint on %%', table_name;
    END IF;
    IF colocate_with <> 'none' AND NOT EXISTS (SELECT FROM placed WHERE name = colocate_with::regclass) THEN
        RAISE '%% is not distributed', colocate_with;
    END IF;
    INSERT INTO placed (name, by, beside) VALUES (table_name, distribution_column, colocate_with);
END $$;
CREATE FUNCTION create_reference_table(table_name regclass) RETURNS void LANGUAGE sql AS
    'INSERT INTO placed (name) VALUES (table_name)';
CREATE FUNCTION truncate_local_data_after_distributing_table(function_table_name regclass) RETURNS void LANGUAGE sql AS
    'SELECT NULL';
"""


@pytest.fixture(scope="module")
def coordinator(made_shards: Shards) -> Iterator[Engine]:
    with made_shards.engines["s0"].connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE DATABASE placed"))
        engine = create_engine(made_shards.engines["s0"].url.set(database="placed"), isolation_level="AUTOCOMMIT")
        Base.metadata.create_all(engine)
        with engine.connect() as there:
            there.exec_driver_sql(CITUS)
        yield engine
        engine.dispose()
        connection.execute(text("DROP DATABASE placed"))


def statements(script: str) -> list[str]:
    """All but the one that PostgreSQL does not have: the extension."""
    code = "\n".join(line for line in script.splitlines() if not line.startswith("--"))
    found = [part.strip() for part in code.split(";") if part.strip()]
    assert found[0] == "CREATE EXTENSION IF NOT EXISTS citus"
    return found[1:]


def test_the_script_runs_places_every_table_and_leaves_the_write_side_its_keys(coordinator: Engine) -> None:
    printed = CliRunner().invoke(app, ["shards", "ddl", "--citus"])
    assert (printed.exit_code, printed.stdout) == (0, "\n".join(citus_ddl()) + "\n")
    script = statements(printed.stdout)
    with coordinator.connect() as connection:
        for statement in script:
            connection.execute(text(statement))
        placed = connection.execute(text("SELECT name::text, by, beside FROM placed ORDER BY number")).all()
        identities = connection.execute(
            text("SELECT relname, relreplident FROM pg_class WHERE relkind = 'r' AND relname LIKE 'workflow%'")
        ).all()
        # What stands for Citus refuses what Citus would: the index for upserts, without the setting.
        with pytest.raises(DBAPIError, match="cannot create constraint on workflow_runs"):
            connection.execute(text(next(one for one in script if "create_distributed_table('workflow_runs'" in one)))
    of_tenants = [name for name, by, _ in placed if by == "tenant_id"]
    assert sorted(name for name, _, _ in placed) == sorted(Base.metadata.tables)
    assert {name for name, by, _ in placed if by is None} == {"workflow_pauses", "workflow_pause_reasons"}
    assert [beside for _, by, beside in placed if by] == ["none"] + ["workflow_runs"] * (len(of_tenants) - 1)
    assert dict(map(tuple, identities)) == dict.fromkeys(Base.metadata.tables, "i")
    for name in of_tenants:
        key = inspect(coordinator).get_pk_constraint(name)
        assert (key["constrained_columns"], key["name"]) == (["tenant_id", "id"], NAMES[name])
    save_twice(coordinator)


def save_twice(engine: Engine) -> None:
    """Each of the write side's upserts, as an insert and as an update."""
    tenant = SimpleNamespace(id=new_id(), current_tenant_id=new_id())
    runs = SQLAlchemyWorkflowExecutionRepository(engine, tenant, new_id(), "app-run")
    nodes = SQLAlchemyWorkflowNodeExecutionRepository(
        engine, tenant, new_id(), "workflow-run", offload=lambda *_: new_id()
    )
    run = WorkflowExecution(
        id_=new_id(),
        workflow_id=new_id(),
        workflow_version="1",
        workflow_type=WorkflowType.WORKFLOW,
        graph={},
        inputs={},
        started_at=naive_utc_now(),
    )
    node = WorkflowNodeExecution(
        id=new_id(),
        workflow_id=run.workflow_id,
        workflow_execution_id=run.id_,
        index=1,
        node_id="n",
        node_type="llm",
        title="t",
        outputs={"m": [1, 2, 3]},
        created_at=naive_utc_now(),
    )
    node.set_truncated_outputs({"m": "..."})
    for _ in range(2):
        runs.save(run)
        nodes.save(node)
        nodes.save_execution_data(node)
    with engine.connect() as connection:
        for model in (WorkflowRun, WorkflowNodeExecutionModel, WorkflowNodeExecutionOffload):
            assert connection.scalar(select(func.count()).select_from(model)) == 1
