"""``tidegate init`` and ``doctor`` on a real PostgreSQL, as a person calls them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from real_servers.deadlines import patient
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from tidegate import CacheSettings, Settings, ShardSettings, connect
from tidegate.proxy.cli.app import app
from tidegate.proxy.tracking.tracked_tables import Tables, keys_of
from tidegate.proxy.tracking.triggers import missing_triggers
from tidegate.repositories import indexes
from tidegate.repositories.indexes import INDEXES, Progress, create_indexes, index_states
from tidegate.repositories.models import Base
from tidegate.repositories.tracked import TRACKED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typer.testing import Result

NAMES = [spec.name for spec in INDEXES]
TABLES = ["tidegate_catalogue", "tidegate_closing", "tidegate_outbox", "tidegate_ownership", "tidegate_state"]


@pytest.fixture
def engine(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setenv("TIDEGATE_DATABASE_URL", database_url)
    made = create_engine(database_url)
    Base.metadata.create_all(made)
    yield made
    made.dispose()


def tidegate(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def statements(printed: str) -> list[str]:
    """What psql would take for statements: a body in dollars is one piece."""
    pieces = printed.split("$tidegate$")
    marked = "$tidegate$".join(piece.replace(";\n", "\0") if at % 2 == 0 else piece for at, piece in enumerate(pieces))
    return [statement for statement in marked.split("\0") if statement.strip()]


def spoil(engine: Engine, name: str) -> None:
    """What a broken-off CREATE INDEX CONCURRENTLY leaves."""
    with engine.begin() as connection:
        sql = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = CAST(:name AS regclass)"
        connection.execute(text(sql), {"name": name})


def test_sql_prints_the_statements_and_touches_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tidegate("init", "--sql")
    assert (made.exit_code, made.stdout.count("CREATE INDEX CONCURRENTLY IF NOT EXISTS")) == (0, len(NAMES))
    assert made.stdout.count("CREATE TABLE IF NOT EXISTS public.tidegate_") == len(TABLES)
    assert made.stdout.count("CREATE TRIGGER tidegate_note_") == 5 * len(TRACKED)
    assert set(index_states(engine).values()) == {"missing"}
    monkeypatch.delenv("TIDEGATE_DATABASE_URL")
    assert tidegate("init", "--sql").stdout == tidegate("init", "--sql", "--schema", "public").stdout == made.stdout
    for wrong in (("--schema", "app"), ("--sql", "--cache-url", "redis://cache"), ("--sql", "--new-history")):
        refused = tidegate("init", *wrong)
        assert (refused.exit_code, "goes with" in refused.stderr) == (2, True)
    undone = tidegate("init", "--sql", "--undo").stdout
    dropped = [f"DROP TABLE IF EXISTS public.{name};" for name in TABLES]
    indexes_dropped = [f"DROP INDEX CONCURRENTLY IF EXISTS {name};" for name in NAMES]
    assert undone.splitlines()[-len(dropped + indexes_dropped) :] == dropped + indexes_dropped
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        raw = connection.connection.cursor()
        for statement in statements(made.stdout):
            raw.execute(statement)
        assert set(index_states(engine).values()) == {"valid"}
        assert set(TABLES) <= set(inspect(engine).get_table_names())
        assert missing_triggers(engine, Tables(TRACKED)) == []
        for statement in statements(undone):
            raw.execute(statement)
    assert [found.table.key for found in missing_triggers(engine, Tables(TRACKED))] == [
        keys_of(t.model)[0] for t in TRACKED
    ]
    assert set(index_states(engine).values()) == {"missing"}


def test_init_makes_what_doctor_misses_once_and_undoes_it(engine: Engine) -> None:
    missed = tidegate("doctor")
    assert missed.exit_code == 1
    assert all(f"index {name} is missing" in missed.stdout for name in NAMES)
    assert "run: tidegate init" in missed.stdout
    triggers = [f"triggers of public.{keys_of(tracked.model)[0][1]}" for tracked in TRACKED]
    assert tidegate("init").stdout.endswith(f"created: {', '.join(TABLES + triggers + NAMES)}\n")
    assert tidegate("init").stdout.endswith("created: nothing, all are there\n")
    assert (tidegate("doctor").exit_code, tidegate("doctor").stdout) == (
        0,
        "all indexes, tables and triggers are there\n",
    )
    assert tidegate("init", "--undo").stdout == f"dropped: {', '.join(NAMES + TABLES + sorted(triggers))}\n"
    assert tidegate("init", "--undo").stdout == "dropped: nothing was there\n"
    assert set(index_states(engine).values()) == {"missing"}


def test_an_invalid_index_is_reported_and_built_again(engine: Engine) -> None:
    assert tidegate("init").exit_code == 0
    spoil(engine, NAMES[1])
    assert f"index {NAMES[1]} is invalid" in tidegate("doctor").stdout
    assert tidegate("init").stdout.endswith(f"created: {NAMES[1]}\n")
    assert tidegate("doctor").exit_code == 0


def test_progress_is_what_postgresql_says_while_it_waits_for_a_writer(engine: Engine) -> None:
    seen: list[Progress] = []
    waiting = threading.Event()

    def note(now: Progress) -> None:
        seen.append(now)
        if now.phase == "waiting for writers before build":
            waiting.set()

    with ThreadPoolExecutor(1) as pool, engine.connect() as writer:
        writer.execute(text("LOCK workflow_runs IN ROW EXCLUSIVE MODE"))
        created = pool.submit(create_indexes, engine, note)
        assert waiting.wait(patient(30))
        assert not created.done()
        writer.rollback()
        assert created.result(patient(30)) == NAMES
    assert seen[0].index == NAMES[0]


def test_two_at_once_make_each_index_once_and_leave_all_valid(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "_POLL_S", 0.01)
    waiting, queued = threading.Event(), threading.Event()

    def first(now: Progress) -> None:
        if now.phase == "waiting for writers before build":
            waiting.set()

    def second(now: Progress) -> None:
        if now.phase == "waiting for another tidegate init":
            queued.set()

    with ThreadPoolExecutor(2) as pool, engine.connect() as writer:
        writer.execute(text("LOCK workflow_runs IN ROW EXCLUSIVE MODE"))
        one = pool.submit(create_indexes, engine, first)
        assert waiting.wait(patient(30))
        two = pool.submit(create_indexes, engine, second)
        assert queued.wait(patient(30))
        writer.rollback()
        assert (one.result(patient(60)), two.result(patient(60))) == (NAMES, [])
    assert set(index_states(engine).values()) == {"valid"}


def test_a_database_without_the_tables_is_refused_and_the_lock_is_given_back(engine: Engine) -> None:
    Base.metadata.drop_all(engine)
    for _ in range(2):
        failed = tidegate("init")
        assert failed.exit_code == 2
        assert 'relation "workflow_runs" does not exist' in failed.stderr
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")).scalar() == 0


@pytest.mark.parametrize("command", ["init", "doctor"])
def test_without_a_url_both_say_how_to_give_one(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDEGATE_DATABASE_URL", raising=False)
    refused = tidegate(command)
    assert refused.exit_code == 2
    assert "give --url or set TIDEGATE_DATABASE_URL" in refused.stderr


@pytest.mark.parametrize("command", ["init", "doctor"])
@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://dify:hunter2@127.0.0.1:1/dify",
        "postgresql+psycopg://dify:hunter2@127.0.0.1:port/dify",
        "postgresql+psycopg://dify:hunter2@127.0.0.1:1/dify?hunter2=1",
        "postgresql+nothing://dify:hunter2@127.0.0.1/dify",
        "hunter2",
    ],
)
def test_no_error_shows_the_password(command: str, url: str) -> None:
    failed = tidegate(command, "--url", url)
    assert failed.exit_code == 2
    assert failed.stderr.startswith("error: ")
    assert "hunter2" not in failed.output
    assert isinstance(failed.exception, SystemExit)


def test_a_refused_password_is_not_shown(engine: Engine, database_url: str) -> None:
    assert engine.dialect.name == "postgresql"
    wrong = make_url(database_url).set(password="hunter2", username="nobody_of_that_name")  # noqa: S106  # a fake one
    failed = tidegate("doctor", "--url", wrong.render_as_string(hide_password=False))
    assert (failed.exit_code, "hunter2" in failed.output) == (2, False)
    assert "nobody_of_that_name" in failed.stderr


def test_undo_leaves_what_init_did_not_make(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE tidegate_outbox (id int, letter text)"))
        connection.execute(text("INSERT INTO tidegate_outbox VALUES (1, 'mine')"))
        connection.execute(text(f"CREATE INDEX {NAMES[0]} ON workflow_runs (status)"))
        connection.execute(text(INDEXES[1].create_sql(concurrently=False)))
    refused = tidegate("init", "--undo")
    assert (refused.exit_code, "tidegate_outbox has the columns id, letter" in refused.output) == (2, True)
    with engine.begin() as connection:
        assert connection.scalar(text("SELECT letter FROM tidegate_outbox")) == "mine"
        connection.execute(text("ALTER TABLE tidegate_outbox RENAME TO outbox"))
    assert index_states(engine) == {NAMES[0]: "foreign", NAMES[1]: "valid"}
    assert "is another index, which only has the name" in tidegate("doctor").output
    refused = tidegate("init")
    assert (refused.exit_code, f"another index of the name {NAMES[0]}" in refused.output) == (2, True)
    assert NAMES[1] in tidegate("init", "--undo").output
    assert index_states(engine) == {NAMES[0]: "foreign", NAMES[1]: "missing"}
    assert "workflow_runs" in inspect(engine).get_table_names()


def test_an_index_of_another_table_or_schema_is_not_taken_for_ones_own(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA theirs"))
        connection.execute(text("CREATE TABLE theirs.workflow_runs (LIKE workflow_runs)"))
        columns = INDEXES[0].columns
        connection.execute(text(f"CREATE INDEX {NAMES[0]} ON theirs.workflow_runs ({columns})"))
        connection.execute(text("CREATE TABLE others (id int)"))
        connection.execute(text(f"CREATE INDEX {NAMES[1]} ON others (id)"))
    assert index_states(engine) == {NAMES[0]: "missing", NAMES[1]: "foreign"}


def test_what_changes_over_is_said(engine: Engine, valkey_url: str) -> None:
    assert "it has no history to end yet" in tidegate("init", "--new-history").stdout
    url = engine.url.render_as_string(hide_password=False)
    shards = (ShardSettings(name="s0", primary=url),)
    connect(Settings(shards=shards, cache=CacheSettings(url=valkey_url, read_timeout_ms=5_000))).close()
    assert "its history has ended: a gate makes a new one" in tidegate("init", "--new-history").stdout
    said = tidegate("init", "--cache-url", "redis://:hunter2@elsewhere/0").stdout
    assert "served by redis://" in said
    assert "elsewhere" in said
    assert "hunter2" not in said
    refused = tidegate("init", "--cache-url", "elsewhere")
    assert (refused.exit_code, "redis://host:port/db" in refused.stderr) == (2, True)
    for other in (["--new-history"], ["--cache-url", "redis://elsewhere/0"]):
        refused = tidegate("init", "--undo", *other)
        assert (refused.exit_code, "goes with neither" in refused.stderr) == (2, True)


def test_commands_read_the_variables_of_an_env_file(
    engine: Engine, valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TIDEGATE_DATABASE_URL")
    monkeypatch.chdir(tmp_path)
    url = engine.url.render_as_string(hide_password=False)
    assert "no database" in tidegate("init").output
    Path(".env").write_bytes(b"\xff\xfe")
    for command in (["init"], ["doctor"], ["switch", "off"]):
        refused = tidegate(*command)
        assert (refused.exit_code, "error: .env cannot be read: 'utf-8'" in refused.output) == (2, True), refused.output
    Path(".env").write_text(f"DB_HOST=elsewhere\nTIDEGATE_DATABASE_URL={url}\nTIDEGATE_CACHE_URL={valkey_url}\n")
    for arguments, said in (
        (["init"], "created:"),
        (["switch", "off"], "all is off"),
        (["switch", "on"], "all is on"),
        (["doctor"], ""),
        (["invalidate", "a"], "invalidated"),
        (["init", "--undo"], "dropped:"),
    ):
        done = tidegate(*arguments)
        assert (done.exit_code, said in done.output) == (0, True), (arguments, done.output)
