"""Triggers that this release would not make: doctor names them, ``init --prune`` drops them, and nothing else."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import pytest
from real_servers.deadlines import patient
from real_servers.shaped_gate import Shaped, connect, shaped
from real_servers.tracked_shapes import SCHEMA, TRACKED_SHAPES
from sqlalchemy import Engine, create_engine, text
from typer.testing import CliRunner

from tidegate import Tracked
from tidegate.proxy.cli.app import app
from tidegate.proxy.database.schema import make_tables
from tidegate.proxy.tracking import triggers
from tidegate.proxy.tracking.dropping import drop_triggers, old_triggers, prune_triggers
from tidegate.proxy.tracking.tracked_tables import Tables
from tidegate.proxy.tracking.triggers import make_triggers, missing_triggers
from tidegate.repositories.indexes import create_indexes
from tidegate.repositories.models import Base, WorkflowRun
from tidegate.repositories.tracked import TRACKED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OLDER: Final = [Tracked(WorkflowRun, tags=("run:{id}", "finished:{finished_at:day}"))]
"""How an older release tracked a table."""
NAMES: Final = "SELECT tgname::text FROM pg_trigger WHERE tgname LIKE 'tidegate%' ORDER BY 1"
FUNCTIONS: Final = (
    "SELECT proname::text FROM pg_proc WHERE proname LIKE 'tidegate_note%' AND pronamespace = 'public'::regnamespace"
)


@pytest.fixture
def engine(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setenv("TIDEGATE_DATABASE_URL", database_url)
    made = create_engine(database_url)
    ready(made)
    yield made
    made.dispose()


def ready(engine: Engine) -> None:
    Base.metadata.create_all(engine)
    make_tables(engine)
    create_indexes(engine)
    make_all(engine, TRACKED)


def make_all(engine: Engine, tracked: Any) -> None:
    make_triggers(engine, missing_triggers(engine, Tables(tracked)))


def column(engine: Engine, sql: str) -> list[str]:
    with engine.connect() as connection:
        return list(connection.scalars(text(sql)))


def tidegate(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def test_those_of_an_older_release_are_named_and_dropped_and_no_others(engine: Engine) -> None:
    names, functions = column(engine, NAMES), sorted(column(engine, FUNCTIONS))
    assert "old" not in tidegate("doctor").output
    make_all(engine, OLDER)
    assert len(column(engine, NAMES)) == len(names) + 5
    said = tidegate("doctor")
    assert said.exit_code == 0, said.output
    assert "note: table public.workflow_runs has triggers of another release: " in said.output
    assert "tidegate init --prune" in said.output
    assert len(column(engine, NAMES)) == len(names) + 5, "doctor changes nothing"
    tidegate("init")
    assert len(column(engine, NAMES)) == len(names) + 5, "an older gate may still need them"
    assert "pruned: old triggers of public.workflow_runs\n" in tidegate("init", "--prune").output
    assert (column(engine, NAMES), sorted(column(engine, FUNCTIONS))) == (names, functions)
    assert "pruned: nothing, no trigger is old\n" in tidegate("init", "--prune").output
    assert "another release" not in tidegate("doctor").output


def test_every_shard_is_pruned(engine: Engine, tmp_path: Path, database_url: str) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("DROP DATABASE IF EXISTS second_to_prune")
        connection.exec_driver_sql("CREATE DATABASE second_to_prune STRATEGY file_copy")
    second = create_engine(engine.url.set(database="second_to_prune"))
    ready(second)
    for each in (engine, second):
        make_all(each, OLDER)
    config = tmp_path / "shards.toml"
    urls = (database_url, second.url.render_as_string(hide_password=False))
    config.write_text("\n".join(f'[[shards]]\nname = "s{at}"\nprimary = "{url}"' for at, url in enumerate(urls)))
    done = tidegate("init", "--prune", "--config", str(config))
    assert done.exit_code == 0, done.output
    for name, each in (("s0", engine), ("s1", second)):
        assert f"{name}: pruned: old triggers of public.workflow_runs\n" in done.output
        assert old_triggers(each, Tables(TRACKED)) == []
        assert missing_triggers(each, Tables(TRACKED)) == []
    second.dispose()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("DROP DATABASE second_to_prune WITH (FORCE)")


@pytest.fixture
def shapes(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """Tables of a repository of somebody's own: in other schemas, with partitions and heirs."""
    monkeypatch.setenv("TIDEGATE_DATABASE_URL", database_url)
    with connect(database_url) as outside:
        for statement in SCHEMA:
            outside.execute(statement.encode())
    made = create_engine(database_url)
    ready(made)
    make_all(made, TRACKED_SHAPES)
    yield made
    made.dispose()


def test_a_table_that_init_does_not_know_is_left_alone_until_it_is_named(shapes: Engine) -> None:
    names = column(shapes, NAMES)
    said = tidegate("doctor")
    assert said.exit_code == 0, said.output
    for table in ("public.plain", "other.side", "public.parted_high_0", "public.heir_grandchild"):
        assert f"note: table {table} has triggers, and this release does not track it: " in said.output
        assert f"tidegate init --prune --untracked {table}\n" in said.output
    assert "pruned: nothing" in tidegate("init", "--prune").output
    assert column(shapes, NAMES) == names
    named = tidegate("init", "--prune", "--untracked", "other.side", "--untracked", "public.plain")
    assert named.output.endswith("pruned: old triggers of other.side, old triggers of public.plain\n")
    assert {found.on for found in missing_triggers(shapes, Tables(TRACKED_SHAPES))} == {"other.side", "public.plain"}
    mistaken = tidegate("init", "--prune", "--untracked", "public.plan").output
    assert "public.plan has no old triggers; these tables had some: " in mistaken
    assert ", public.loose, " in mistaken
    refused = tidegate("init", "--untracked", "other.side")
    assert (refused.exit_code, "goes with --prune" in refused.stderr) == (2, True)
    for other in ("--sql", "--undo"):
        assert tidegate("init", "--prune", other).exit_code == 2


def test_a_table_that_was_a_partition_loses_the_triggers_of_its_former_parent(shapes: Engine) -> None:
    tables = Tables(TRACKED_SHAPES)
    with shapes.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE parted DETACH PARTITION parted_high")
        connection.exec_driver_sql("ALTER TABLE heir_child NO INHERIT heir")
    tables_with = {old.on: old.is_known for old in old_triggers(shapes, tables) if "workflow" not in old.on}
    gone = ("parted_high", "parted_high_0", "parted_high_1", "heir_child", "heir_grandchild")
    assert tables_with == {f"public.{name}": True for name in gone}
    before = column(shapes, FUNCTIONS)
    tidegate_tables = Tables([*TRACKED, *TRACKED_SHAPES])
    prune_triggers(shapes, tidegate_tables)
    assert old_triggers(shapes, tidegate_tables) == []
    assert missing_triggers(shapes, tidegate_tables) == []
    assert column(shapes, FUNCTIONS) == before, "the former parent needs them"
    with shapes.begin() as connection:
        connection.exec_driver_sql("INSERT INTO parted_low VALUES ('a', 'ann', 'g', 1)")


def test_undo_removes_everything_of_every_table(shapes: Engine) -> None:
    make_all(shapes, OLDER)
    with shapes.begin() as connection:
        connection.exec_driver_sql("DROP TABLE kid")  # its functions stay
        connection.exec_driver_sql("ALTER TABLE parted DETACH PARTITION parted_high")
    assert tidegate("init", "--undo").exit_code == 0
    assert (column(shapes, NAMES), column(shapes, FUNCTIONS)) == ([], [])
    assert tidegate("init", "--undo").output == "dropped: nothing was there\n"


def test_functions_that_no_trigger_uses_are_pruned(shapes: Engine) -> None:
    with shapes.begin() as connection:
        connection.exec_driver_sql("DROP TABLE kid")
    said = tidegate("init", "--prune").output
    assert said.count("function public.tidegate_note_") == 5
    assert "pruned: nothing" in tidegate("init", "--prune").output


def test_what_another_installation_has_in_another_schema_is_not_touched(engine: Engine, database_url: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA staging")
    staging = create_engine(database_url, connect_args={"options": "-c search_path=staging"})
    ready(staging)
    names = column(staging, NAMES)
    assert old_triggers(engine, Tables(TRACKED)) == []
    assert "pruned: nothing" in tidegate("init", "--prune").output
    assert tidegate("init", "--undo").exit_code == 0
    assert missing_triggers(staging, Tables(TRACKED)) == []
    assert len(column(staging, NAMES)) == len(names) // 2
    staging.dispose()


def test_functions_that_lie_where_our_tables_have_been_are_removed(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA elsewhere")
        for table in Base.metadata.sorted_tables:
            connection.exec_driver_sql(f"ALTER TABLE {table} SET SCHEMA elsewhere")
    moved = create_engine(engine.url, connect_args={"options": "-c search_path=elsewhere"})
    make_tables(moved)
    make_all(moved, TRACKED)
    tables = Tables(TRACKED)
    assert {old.is_known for old in old_triggers(moved, tables)} == {True}
    prune_triggers(moved, tables)
    assert (old_triggers(moved, tables), missing_triggers(moved, tables)) == ([], [])
    assert column(moved, FUNCTIONS) == []
    moved.dispose()


def test_the_lock_is_bounded_and_tried_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(triggers, "_LOCK_S", 0.1)
    make_all(engine, OLDER)
    tried = threading.Event()
    caplog.set_level("INFO", logger="tidegate.proxy.tracking.triggers")
    monkeypatch.setattr(triggers._log, "info", lambda *_: tried.set())
    with ThreadPoolExecutor(1) as pool, engine.connect() as writer:
        writer.execute(text("LOCK workflow_runs IN ROW EXCLUSIVE MODE"))
        pruned = pool.submit(prune_triggers, engine, Tables(TRACKED), attempts=1000)
        assert tried.wait(patient(10))
        writer.rollback()
        assert pruned.result(patient(10)) == ["old triggers of public.workflow_runs"]
    with engine.connect() as writer:
        writer.execute(text("LOCK workflow_runs IN ROW EXCLUSIVE MODE"))
        monkeypatch.setattr("tidegate.proxy.cli.app.drop_triggers", lambda engine: drop_triggers(engine, attempts=2))
        refused = tidegate("init", "--undo")
        assert (refused.exit_code, "lock timeout" in refused.stderr) == (2, True)
    assert tidegate("init", "--undo").exit_code == 0
    assert column(engine, NAMES) == []


def test_an_older_release_of_sqlite_is_pruned_too(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/tidegate.db")
    ready(engine)
    make_all(engine, OLDER)
    tables = Tables(TRACKED)
    assert [(old.on, len(old.names), old.is_known) for old in old_triggers(engine, tables)] == [
        ("workflow_runs", 3, True)
    ]
    assert prune_triggers(engine, tables) == ["old triggers of workflow_runs"]
    assert (old_triggers(engine, tables), missing_triggers(engine, tables)) == ([], [])
    assert len(drop_triggers(engine)) == len(TRACKED)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'")) == 0
    engine.dispose()


@pytest.fixture
def outside(database_url: str, valkey_url: str) -> Iterator[Shaped]:
    with shaped(database_url, valkey_url) as found:
        yield found


def test_a_gate_whose_triggers_were_dropped_too_early_makes_them_again_and_everything_is_void(outside: Shaped) -> None:
    outside.outside.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)")
    outside.comparison.settle()
    outside.cached("plain_one", "ann", "a")
    operator = create_engine(outside.url)
    prune_triggers(operator, Tables(TRACKED), ["public.plain"])
    operator.dispose()
    outside.outside.execute("UPDATE plain SET value = 1")
    outside.gate._parts.coverage.look("", outside.gate.engine, now=True)
    outside.comparison.settle()
    assert outside.shapes.plain_one("ann", "a") == '[["a", "ann", "g1", 1]]'
