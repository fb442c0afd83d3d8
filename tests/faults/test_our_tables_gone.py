"""Tidegate's own tables and triggers are dropped beside a gate and writers: no write fails, and none is missed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from real_servers.deadlines import patient
from real_servers.shaped_gate import Shaped, shaped, stocked, wrapped
from sqlalchemy import create_engine, text
from sqlalchemy.exc import ProgrammingError

import tidegate
from tidegate.proxy.database.history_record import restore_tables
from tidegate.proxy.database.schema import drop_tables, make_tables
from tidegate.proxy.embedded.process import wait_for
from tidegate.proxy.settings import CacheSettings
from tidegate.proxy.tracking.dropping import drop_triggers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate import Gate

ROW = '[["a", "ann", "g1", {}]]'
DROPPED = {
    "outbox": "DROP TABLE tidegate_outbox",
    "facts": "DROP TABLE tidegate_state",
    "both": "DROP TABLE tidegate_outbox, tidegate_state",
}


@pytest.fixture
def outside(database_url: str, valkey_url: str) -> Iterator[Shaped]:
    with shaped(database_url, valkey_url) as found:
        yield stocked(found)


def write(outside: Shaped, value: int, gate: Gate | None) -> None:
    sql = f"UPDATE plain SET value = {value} WHERE id = 'a'"
    if gate is None:
        outside.outside.execute(sql.encode())
    else:
        with gate.engine.begin() as connection:
            connection.execute(text(sql))


@pytest.mark.parametrize("is_watched", [False, True])
@pytest.mark.parametrize("what", DROPPED)
def test_what_is_changed_while_tables_are_gone_is_seen_once_they_are_back(
    outside: Shaped, what: str, is_watched: bool
) -> None:
    assert outside.cached("plain_one", "ann", "a") == ROW.format(0)
    outside.outside.execute(DROPPED[what].encode())
    write(outside, 1, outside.gate if is_watched else None)
    make_tables(outside.gate.engine)
    wait_for(lambda: outside.shapes.plain_one("ann", "a") == ROW.format(1), "the change is seen", patient(5))
    assert outside.cached("plain_one", "ann", "a") == ROW.format(1)


@pytest.mark.parametrize("has_cache", [True, False])
def test_a_gate_loses_one_transaction_at_most_when_all_is_dropped(outside: Shaped, has_cache: bool) -> None:
    settings = outside.settings if has_cache else outside.settings.model_copy(update={"cache": CacheSettings()})
    outside.gate.close()
    unwatched = create_engine(outside.url)
    with tidegate.connect(settings) as gate:
        shapes = wrapped(gate)
        write(outside, 1, gate)
        drop_triggers(unwatched)
        drop_tables(unwatched)
        failed = 0
        for value in range(2, 6):
            try:
                write(outside, value, gate)
            except ProgrammingError:
                failed += 1
            write(outside, value, None)
        assert failed <= 1
        wait_for(lambda: shapes.plain_one("ann", "a") == ROW.format(5), "the last one is seen", patient(5))
    unwatched.dispose()


def test_a_watched_note_that_cannot_be_read_fails_no_commit(outside: Shaped) -> None:
    """Triggers of two releases stand side by side while one replaces the other."""
    assert outside.cached("plain_one", "ann", "a") == ROW.format(0)
    outside.outside.execute("ALTER TABLE plain DISABLE TRIGGER ALL; UPDATE plain SET value = 1")  # nobody notes it
    with outside.gate.engine.begin() as connection:
        connection.execute(text("SELECT tidegate_put_note('of a later release', '[]')"))
    wait_for(lambda: outside.shapes.plain_one("ann", "a") == ROW.format(1), "all is void", patient(5))


def test_a_gate_whose_tables_somebody_else_makes_again_goes_on_caching(
    outside: Shaped, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who makes them does not know the database's id: the gate must say it, although its own try failed."""
    other = create_engine(outside.url)
    raced: list[object] = []

    def beaten(*given: Any) -> None:
        if not raced:
            raced.append(make_tables(other))
            raise RuntimeError("somebody else is making them")
        restore_tables(*given)

    monkeypatch.setattr("tidegate.proxy.database.histories.restore_tables", beaten)
    outside.outside.execute(DROPPED["both"].encode())
    wait_for(lambda: bool(raced), "the gate has tried", patient(10))
    write(outside, 1, None)
    wait_for(lambda: outside.shapes.plain_one("ann", "a") == ROW.format(1), "the change is seen", patient(5))
    assert outside.cached("plain_one", "ann", "a") == ROW.format(1)
    assert not outside.gate._shards.every[0].histories.is_lost
    other.dispose()
