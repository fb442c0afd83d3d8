"""A trigger that cannot do its work is counted, logged and said by doctor; and a column that is renamed is followed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest
from real_servers.deadlines import patient
from real_servers.shaped_gate import Shaped, shaped
from real_servers.tracked_shapes import TRACKED_SHAPES
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from typer.testing import CliRunner

from tidegate import Tracked
from tidegate.proxy.cli.app import app
from tidegate.proxy.doctor import rules
from tidegate.proxy.embedded.process import wait_for
from tidegate.proxy.tracking.coverage import Coverage
from tidegate.proxy.tracking.dropping import prune_triggers
from tidegate.proxy.tracking.failures import failing_triggers, last_failure
from tidegate.proxy.tracking.tracked_tables import Tables, keys_of
from tidegate.proxy.tracking.triggers import make_triggers, missing_triggers
from tidegate.repositories.indexes import create_indexes
from tidegate.repositories.models import Base
from tidegate.repositories.tracked import TRACKED

if TYPE_CHECKING:
    from collections.abc import Iterator


class NewBase(DeclarativeBase):
    """The models of the release that knows of the new name."""


class Renamed(NewBase):
    __tablename__ = "plain"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]
    grp: Mapped[str] = mapped_column("grp2")
    value: Mapped[int]


RENAME: Final = "ALTER TABLE plain RENAME grp TO grp2"
NEWER: Final = [Tracked(Renamed, tags=("plain:{id}", "group:{grp}"))]
ROW: Final = "INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)"


@pytest.fixture
def outside(database_url: str, valkey_url: str) -> Iterator[Shaped]:
    with shaped(database_url, valkey_url) as found:
        yield found


@pytest.fixture
def engine(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setenv("TIDEGATE_DATABASE_URL", database_url)
    made = create_engine(database_url)
    Base.metadata.create_all(made)
    yield made
    made.dispose()


def count(outside: Shaped, event: str) -> int:
    return outside.gate.stats().events.get(event, 0)


def counted(outside: Shaped, event: str, times: int) -> bool:
    return count(outside, event) == times


def doctor() -> Any:
    return CliRunner().invoke(app, ["doctor"])


@pytest.mark.parametrize("is_watched", [False, True])
def test_each_failure_is_counted_logged_and_remembered(
    outside: Shaped, is_watched: bool, caplog: pytest.LogCaptureFixture
) -> None:
    outside.outside.execute(ROW)
    outside.comparison.settle()
    assert (count(outside, "TriggerFailed: plain"), last_failure(outside.gate.engine)) == (0, None)
    outside.outside.execute(RENAME)
    for times in (1, 2):
        if is_watched:
            with outside.gate.engine.begin() as connection:
                connection.execute(text("UPDATE plain SET value = 1"))
        else:
            outside.outside.execute("UPDATE plain SET value = 1")
        wait_for(partial(counted, outside, "TriggerFailed: plain", times), "the failure is counted", patient(5))
    wait_for(lambda: count(outside, "Voided") >= 2, "the void is counted", patient(5))
    assert 'a trigger could not tell what was changed in plain: column "grp" does not exist' in caplog.text
    kept = last_failure(outside.gate.engine)
    assert kept is not None
    assert (kept.table, kept.error) == ("plain", 'column "grp" does not exist')
    assert kept.at is not None
    assert datetime.now(UTC) - kept.at < timedelta(seconds=patient(60))


SPOILT: Final = {
    "column renamed": ("ALTER TABLE workflow_runs RENAME app_id TO app", ["workflow_runs", "workflow_pauses"]),
    "type changed": ("ALTER TABLE workflow_runs ALTER created_at TYPE text", ["workflow_runs", "workflow_pauses"]),
    "key of the parent changed": (
        "ALTER TABLE workflow_pauses ALTER id DROP DEFAULT, ALTER id TYPE bytea USING '\\x00'",
        ["workflow_pause_reasons"],
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_doctor_names_the_tables_whose_triggers_would_fail(engine: Engine, what: str) -> None:
    assert CliRunner().invoke(app, ["init"]).exit_code == 0
    assert failing_triggers(engine, Tables(TRACKED)) == []
    assert doctor().exit_code == 0
    sql, tables = SPOILT[what]
    with engine.begin() as connection:
        connection.execute(text(sql))
    said = doctor()
    assert said.exit_code == 1
    for table in tables:
        assert f"table public.{table} is not as this release knows it (" in said.stdout
    assert "each write to the table voids all that is cached of the database" in said.stdout


def test_doctor_says_for_an_hour_which_trigger_failed_last(outside: Shaped, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = outside.gate.engine
    Base.metadata.create_all(engine)
    create_indexes(engine)
    monkeypatch.setenv("TIDEGATE_DATABASE_URL", outside.url)
    assert CliRunner().invoke(app, ["init"]).exit_code == 0
    outside.outside.execute(f"{ROW}; {RENAME}; UPDATE plain SET value = 1".encode())
    outside.comparison.settle()
    said = doctor()
    assert said.exit_code == 1, said.output
    assert "a trigger of plain failed at 20" in said.stdout
    assert 'UTC (column "grp" does not exist): each write to the table voids' in said.stdout
    monkeypatch.setattr(rules, "FAILED_S", -60.0)
    assert "failed at" not in doctor().stdout


def test_a_user_who_may_not_read_the_tables_finds_no_fault_in_that(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DO $$ BEGIN CREATE ROLE poor LOGIN; EXCEPTION WHEN duplicate_object THEN END $$"))
    poor = create_engine(engine.url.set(username="poor"))
    assert failing_triggers(poor, Tables(TRACKED)) == []
    poor.dispose()


def test_a_renamed_column_is_followed_by_the_next_release(outside: Shaped) -> None:
    """Its init makes triggers that know the name; its gates, which may make none, find these within a minute."""
    outside.gate.close()
    outside.outside.execute(f"{ROW}; {RENAME}".encode())
    owner = create_engine(outside.url)
    new = Tables(NEWER)
    assert "public.plain" in {failure.table for failure in failing_triggers(owner, Tables(TRACKED_SHAPES))}
    assert failing_triggers(owner, new) == []
    outside.outside.execute("DROP ROLE IF EXISTS humble; CREATE ROLE humble LOGIN")
    outside.outside.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO humble")
    humble = create_engine(owner.url.set(username="humble"))
    now_s = 100.0
    coverage = Coverage(new, lambda: now_s)
    coverage.look("s0", humble)
    assert coverage.uncovered == set(keys_of(Renamed))
    make_triggers(owner, missing_triggers(owner, new))  # as the next release's init does
    now_s += 60.0
    coverage.look("s0", humble)
    assert coverage.uncovered == frozenset()
    outside.outside.execute("DELETE FROM tidegate_outbox; UPDATE plain SET value = 1")
    both = outside.outside.execute("SELECT rows LIKE '%failed%' FROM tidegate_outbox ORDER BY 1").fetchall()
    assert both == [(False,), (True,)], "the older release's triggers go on failing"
    prune_triggers(owner, new)
    outside.outside.execute("DELETE FROM tidegate_outbox; UPDATE plain SET value = 2")
    assert outside.outside.execute("SELECT rows LIKE '%failed%' FROM tidegate_outbox").fetchall() == [(False,)]
    humble.dispose()
    owner.dispose()
    outside.outside.execute("DROP OWNED BY humble; DROP ROLE humble")


def test_a_running_gate_makes_triggers_that_somebody_dropped_within_a_minute(outside: Shaped) -> None:
    outside.gate.close()
    owner = create_engine(outside.url)
    now_s = 100.0
    coverage = Coverage(Tables(TRACKED_SHAPES), lambda: now_s)
    coverage.look("s0", owner)
    there = "SELECT tgname::text FROM pg_trigger WHERE tgrelid = 'plain'::regclass AND tgname LIKE 'tidegate%'"
    for (name,) in outside.outside.execute(there).fetchall():
        outside.outside.execute(f"DROP TRIGGER {name} ON plain".encode())
    now_s += 60.0
    coverage.look("s0", owner)
    assert missing_triggers(owner, Tables(TRACKED_SHAPES)) == []
    owner.dispose()
