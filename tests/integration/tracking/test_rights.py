"""A user who may not make triggers is told what to grant, and which methods are not cached meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from real_servers.initialised import initialise
from real_servers.shaped_gate import Shaped, connect, shaped
from real_servers.tracked_shapes import SHAPES_POLICIES, TRACKED_SHAPES, Shapes
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import sessionmaker
from typer.testing import CliRunner

import tidegate
from tidegate.proxy.cli.app import app
from tidegate.proxy.settings import Settings
from tidegate.proxy.tracking.dropping import drop_triggers
from tidegate.proxy.tracking.rights import needed_grants
from tidegate.proxy.tracking.tracked_tables import Tables
from tidegate.proxy.tracking.triggers import make_triggers, missing_triggers
from tidegate.repositories.indexes import create_indexes
from tidegate.repositories.tracked import TRACKED

if TYPE_CHECKING:
    from collections.abc import Iterator

ROLES: Final = "DROP ROLE IF EXISTS humble, the_owner; CREATE ROLE humble LOGIN; CREATE ROLE the_owner LOGIN"
READ: Final = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO humble"


@pytest.fixture
def owner(database_url: str) -> Iterator[Engine]:
    """The owner's engine; the tables are there, the triggers are not."""
    made = create_engine(database_url)
    with connect(database_url) as outside:
        outside.execute(ROLES)
        outside.execute("ALTER SCHEMA public OWNER TO the_owner")
    owned = create_engine(made.url.set(username="the_owner"))
    initialise(owned)
    create_indexes(owned)
    drop_triggers(owned)
    with owned.begin() as connection:
        connection.execute(text(READ))
    yield owned
    owned.dispose()
    with connect(database_url) as outside:
        outside.execute("DROP OWNED BY humble, the_owner CASCADE; DROP ROLE humble, the_owner")
    made.dispose()


@pytest.fixture
def humble(owner: Engine) -> Iterator[Engine]:
    made = create_engine(owner.url.set(username="humble"))
    yield made
    made.dispose()


def test_what_is_said_is_what_postgresql_wants(owner: Engine, humble: Engine) -> None:
    tables = Tables(TRACKED)
    names = [found.on for found in missing_triggers(humble, tables)]
    assert needed_grants(owner, names) == []
    needed = needed_grants(humble, names)
    assert needed == ["GRANT CREATE ON SCHEMA public TO humble", "GRANT the_owner TO humble"]
    made = 0
    for grants in ([], needed[:1]):
        for grant in grants:
            _as_superuser(owner, grant)
        with pytest.raises(Exception, match=r"permission denied|must be owner"):
            made = len(make_triggers(humble, missing_triggers(humble, tables)))
    assert made == 0
    _as_superuser(owner, "GRANT the_owner TO humble")
    assert needed_grants(humble, names) == []
    assert len(make_triggers(humble, missing_triggers(humble, tables))) == len(names)
    assert missing_triggers(humble, tables) == []


def _as_superuser(owner: Engine, sql: str) -> None:
    with connect(owner.url.set(username="postgres").render_as_string(hide_password=False)) as outside:
        outside.execute(sql.encode())


def test_the_log_explain_and_doctor_say_the_same(
    humble: Engine, valkey_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(cache=tidegate.CacheSettings(url=valkey_url))
    advice = (
        "run 'tidegate init' as the owner of the tables, or let this user make them: "
        "GRANT CREATE ON SCHEMA public TO humble; GRANT the_owner TO humble"
    )
    with tidegate.gate_on(humble, sessionmaker(humble), settings) as gate:
        (said,) = {record.getMessage() for record in caplog.records if "could not be made" in record.getMessage()}
        assert "WorkflowRuns.get_workflow_run_by_id, " in said
        assert "NodeExecutions.get_execution_by_id are not cached" in said
        assert "get_expired_runs_batch" not in said, "it is never cached"
        assert said.endswith(advice)
        explained = gate.explain(gate.workflow_runs.get_workflow_run_by_id, "t", "a", "r")
        assert "workflow_trigger_logs has no triggers that would note changes; " in explained.cache.why
        assert advice in explained.cache.why
    monkeypatch.setenv("TIDEGATE_DATABASE_URL", humble.url.render_as_string(hide_password=False))
    doctor = CliRunner().invoke(app, ["doctor"])
    assert doctor.exit_code == 1
    lacks = "table public.workflow_runs lacks the triggers that note changes: what depends on it is not cached; "
    assert lacks + advice in doctor.stdout
    assert "WorkflowRuns.get_workflow_run_by_id, " in doctor.stdout
    assert "are not cached: tables that they depend on lack triggers" in doctor.stdout


@pytest.fixture
def outside(database_url: str, valkey_url: str) -> Iterator[Shaped]:
    with shaped(database_url, valkey_url) as found:
        yield found


def test_methods_of_a_repository_of_ones_own_are_named(outside: Shaped, caplog: pytest.LogCaptureFixture) -> None:
    outside.gate.close()
    owner = create_engine(outside.url)
    drop_triggers(owner)
    outside.outside.execute(f"DROP ROLE IF EXISTS humble; CREATE ROLE humble LOGIN; {READ}".encode())
    outside.outside.execute("GRANT USAGE ON SCHEMA other TO humble")
    engine = create_engine(owner.url.set(username="humble"))
    with tidegate.gate_on(engine, sessionmaker(engine), Settings(cache=outside.settings.cache)) as gate:
        assert "Shapes" not in caplog.text
        gate.wrap(Shapes, SHAPES_POLICIES, TRACKED_SHAPES)
        assert "Shapes.plain_one, " in caplog.text
        assert "WorkflowRuns.get_workflow_run_by_id" not in caplog.text, "there is no such table"
        assert "GRANT postgres TO humble" in caplog.text
        make_triggers(owner, missing_triggers(owner, Tables(TRACKED_SHAPES)))
        gate._parts.coverage.look("", engine, now=True)
        assert gate._parts.coverage.uncached == []
        assert gate._parts.coverage.advice == ""
    engine.dispose()
    owner.dispose()
    outside.outside.execute("DROP OWNED BY humble; DROP ROLE humble")
