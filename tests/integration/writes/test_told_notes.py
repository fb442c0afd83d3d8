"""The notes that come back with a statement's answer: none is asked for, and what was not heard is late, never lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from real_servers.deadlines import patient
from real_servers.shaped_gate import Shaped, shaped, wrapped
from real_servers.tracked_shapes import Plain
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import sessionmaker

import tidegate
from tidegate.proxy.embedded.process import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

A, B = "INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)", "INSERT INTO plain VALUES ('b', 'bob', 'g1', 0)"
UPDATE = "UPDATE plain SET value = value + 1"


class Sent:
    """The statements that this process sends by psycopg."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.statements: list[str] = []
        execute = psycopg.Cursor.execute

        def kept(cursor: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
            self.statements.append(query.decode() if isinstance(query, bytes) else str(query))
            return execute(cursor, query, *args, **kwargs)

        monkeypatch.setattr(psycopg.Cursor, "execute", kept)

    def has_asked(self) -> bool:
        return any("tidegate_take_notes" in sent for sent in self.statements)


@pytest.fixture
def outside(database_url: str, valkey_url: str) -> Iterator[Shaped]:
    with shaped(database_url, valkey_url) as found:
        found.outside.execute((A + ";" + B).encode())
        found.comparison.settle()
        with found.gate.engine.begin() as connection:
            connection.execute(text("SELECT 1"))  # it is open, and marked
        yield found


def waiting(outside: Shaped) -> int:
    return int(outside.outside.execute("SELECT count(*) FROM tidegate_outbox").fetchall()[0][0])


def value(outside: Shaped, tenant: str, which: str) -> str:
    return str(outside.cached("plain_one", tenant, which))


def write(outside: Shaped, *statements: str) -> None:
    with outside.gate.engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_a_write_sends_its_statement_and_one_message_more(outside: Shaped, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round trip more would be one too many: see docs/freshness.md."""
    assert value(outside, "ann", "a") == '[["a", "ann", "g1", 0]]'
    sent = Sent(monkeypatch)
    write(outside, UPDATE)
    first, last = (one for one in sent.statements if "tidegate_outbox" not in one)  # the gate's poll
    assert first == UPDATE
    take, commit, position = last.split("; ")
    assert "tidegate_take_told_notes('{" in take
    assert (commit, position) == ("COMMIT", "SELECT pg_current_wal_insert_lsn()")
    assert waiting(outside) == 0
    assert outside.shapes.plain_one("ann", "a") == '[["a", "ann", "g1", 1]]'


def test_what_a_savepoint_takes_back_takes_no_other_note_along(outside: Shaped) -> None:
    assert value(outside, "ann", "a") == '[["a", "ann", "g1", 0]]'
    with outside.gate.engine.begin() as connection:
        savepoint = connection.begin_nested()
        connection.execute(text("UPDATE plain SET value = 7 WHERE id = 'b'"))
        savepoint.rollback()
        connection.execute(text("UPDATE plain SET value = 1 WHERE id = 'a'"))
    assert outside.shapes.plain_one("ann", "a") == '[["a", "ann", "g1", 1]]'
    assert outside.shapes.plain_one("bob", "b") == '[["b", "bob", "g1", 0]]'
    assert waiting(outside) == 0


@pytest.mark.parametrize(("place_of", "id_of", "left"), [(0, 0, 0), (0, 1, 1), (1, 0, 1)])
def test_a_note_is_taken_by_its_place_and_its_number(outside: Shaped, place_of: int, id_of: int, left: int) -> None:
    """What is rolled back leaves its place to another note of the same transaction."""
    with psycopg.connect(outside.url.replace("+psycopg", "")) as own:
        own.execute("SELECT tidegate_put_note('', '[]'), tidegate_put_note('', '[]')")
        notes = own.execute("SELECT ctid::text, id FROM tidegate_outbox ORDER BY id").fetchall()
        wanted = (f'{{"{notes[place_of][0]}"}}', [notes[id_of][1]])
        own.execute("SELECT tidegate_take_told_notes(%s::tid[], %s::bigint[])", wanted)
        assert own.execute("SELECT count(*) FROM tidegate_outbox").fetchone() == (1 + left,)
        own.rollback()


def test_nobody_takes_notes_of_another_transaction(outside: Shaped) -> None:
    with psycopg.connect(outside.url.replace("+psycopg", "")) as own:
        own.execute("SELECT set_config('tidegate.watched', 'on', true), tidegate_put_note('', '[]')")
        place, number = own.execute("SELECT ctid::text, id FROM tidegate_outbox").fetchall()[0]
        own.execute("SAVEPOINT s")
        own.execute("UPDATE tidegate_outbox SET xact = '3'")
        place = own.execute("SELECT ctid::text FROM tidegate_outbox").fetchall()[0][0]
        taking = "SELECT tidegate_take_told_notes(%s::tid[], %s::bigint[])"
        own.execute(taking, (f'{{"{place}"}}', [number]))
        assert own.execute("SELECT count(*) FROM tidegate_outbox").fetchone() == (1,)
        own.rollback()


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param(("UPDATE plain SET value = 1, grp = repeat('g', 9000)",), id="long"),
        pytest.param((UPDATE,) * 9, id="many"),
        pytest.param((UPDATE,) * 40, id="more than are told"),
        pytest.param(("UPDATE plain SET value = 1 WHERE false",), id="none"),
    ],
)
def test_notes_that_are_not_told_are_asked_for(
    outside: Shaped, monkeypatch: pytest.MonkeyPatch, statements: tuple[str, ...]
) -> None:
    assert value(outside, "ann", "a") == '[["a", "ann", "g1", 0]]'
    sent = Sent(monkeypatch)
    write(outside, *statements)
    assert sent.has_asked()
    assert waiting(outside) == 0
    with outside.gate.engine.connect() as connection:
        there = connection.execute(text("SELECT grp, value FROM plain WHERE id = 'a'")).one()
    assert outside.shapes.plain_one("ann", "a") == f'[["a", "ann", "{there.grp}", {there.value}]]'


def test_the_program_s_choice_of_messages_hides_no_note(outside: Shaped, monkeypatch: pytest.MonkeyPatch) -> None:
    assert value(outside, "ann", "a") == '[["a", "ann", "g1", 0]]'
    sent = Sent(monkeypatch)
    write(outside, "SET LOCAL client_min_messages = error", UPDATE)
    assert not sent.has_asked()
    assert outside.shapes.plain_one("ann", "a") == '[["a", "ann", "g1", 1]]'
    assert waiting(outside) == 0


def test_the_program_hears_its_own_notices_and_none_of_ours(outside: Shaped) -> None:
    heard: list[str | None] = []
    with outside.gate.engine.begin() as connection:
        raw: Any = connection.connection.driver_connection
        raw.add_notice_handler(lambda diagnostic: heard.append(diagnostic.message_primary))
        connection.execute(text("DO $$ BEGIN RAISE NOTICE 'mine'; END $$"))
        connection.execute(text(UPDATE))
    assert heard == ["mine"]


@pytest.mark.parametrize("ended", ["ROLLBACK", "COMMIT"])
def test_a_transaction_that_ends_behind_our_back_leaves_the_next_one_as_it_is(outside: Shaped, ended: str) -> None:
    assert value(outside, "ann", "a") == '[["a", "ann", "g1", 0]]'
    with outside.gate.engine.begin() as connection:
        connection.execute(text("UPDATE plain SET value = 5 WHERE id = 'b'"))
        raw: Any = connection.connection.driver_connection
        raw.execute(ended)
        connection.execute(text("UPDATE plain SET value = 1 WHERE id = 'a'"))
    assert outside.shapes.plain_one("ann", "a") == '[["a", "ann", "g1", 1]]'
    wait_for(lambda: waiting(outside) == 0, "the notes of who committed by himself", patient(10))
    assert outside.shapes.plain_one("bob", "b") == f'[["b", "bob", "g1", {5 if ended == "COMMIT" else 0}]]'


def test_what_another_listener_writes_after_is_late_not_lost(outside: Shaped) -> None:
    assert value(outside, "bob", "b") == '[["b", "bob", "g1", 0]]'

    def listener(connection: Connection) -> None:
        raw: Any = connection.connection.driver_connection
        raw.execute("UPDATE plain SET value = 5 WHERE id = 'b'")

    event.listen(outside.gate.engine, "commit", listener)
    try:
        write(outside, "UPDATE plain SET value = 1 WHERE id = 'a'")
    finally:
        event.remove(outside.gate.engine, "commit", listener)
    assert outside.shapes.plain_one("ann", "a") == '[["a", "ann", "g1", 1]]'
    wait_for(
        lambda: outside.shapes.plain_one("bob", "b") == '[["b", "bob", "g1", 5]]', "the listener's write", patient(10)
    )


def test_without_its_function_one_commit_fails_and_no_other(outside: Shaped) -> None:
    assert value(outside, "ann", "a") == '[["a", "ann", "g1", 0]]'
    outside.outside.execute("DROP FUNCTION tidegate_take_told_notes")
    with pytest.raises((ProgrammingError, psycopg.errors.UndefinedFunction)):
        write(outside, UPDATE)
    write(outside, UPDATE)
    wait_for(lambda: outside.shapes.plain_one("ann", "a") == '[["a", "ann", "g1", 1]]', "the second one", patient(10))


def test_a_function_of_the_program_that_is_missing_at_commit_is_another_thing(
    outside: Shaped, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside.outside.execute(
        "CREATE TABLE late (id int);"
        "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM missing(); RETURN NULL; END';"
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION late()"
    )
    with pytest.raises((ProgrammingError, psycopg.errors.UndefinedFunction), match="missing"):
        write(outside, UPDATE, "INSERT INTO late VALUES (1)")
    sent = Sent(monkeypatch)
    write(outside, UPDATE)
    assert any("tidegate_take_told_notes" in one for one in sent.statements)


def test_a_refused_commit_leaves_nothing_for_the_next_one(outside: Shaped, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("refused")

    watch: Any = outside.gate.engine.dialect.do_commit
    with outside.gate.engine.connect() as connection:
        with monkeypatch.context() as patched:
            patched.setattr(type(watch.watch.protocol), "before_commit", refuse)
            connection.execute(text(UPDATE))
            with pytest.raises(RuntimeError, match="refused"):
                connection.commit()
        connection.rollback()
        sent = Sent(monkeypatch)
        connection.execute(text("SELECT 1"))
        connection.commit()
    assert not any("tidegate_take_told_notes" in one for one in sent.statements)


def test_an_observer_hears_of_nothing_that_a_savepoint_took_back(outside: Shaped) -> None:
    heard: list[tidegate.RowEvent] = []
    outside.gate.observe(Plain, heard.append)
    with outside.gate.engine.begin() as connection:
        savepoint = connection.begin_nested()
        connection.execute(text("UPDATE plain SET value = 7 WHERE id = 'b'"))
        savepoint.rollback()
        connection.execute(text("UPDATE plain SET value = 1 WHERE id = 'a'"))
    wait_for(lambda: bool(heard), "the row that has changed", patient(10))
    assert [one.tenant for one in heard] == ["ann"]


def test_an_encoding_of_the_program_s_own_is_understood(outside: Shaped, monkeypatch: pytest.MonkeyPatch) -> None:
    outside.outside.execute("INSERT INTO plain VALUES ('ü', 'é', 'g1', 0)")
    outside.comparison.settle()
    engine = create_engine(outside.url, connect_args={"client_encoding": "LATIN1"})
    with tidegate.gate_on(engine, sessionmaker(engine), tidegate.Settings(cache=outside.settings.cache)) as gate:
        shapes = wrapped(gate)
        assert shapes.plain_one("é", "ü") == r'[["\u00fc", "\u00e9", "g1", 0]]'
        sent = Sent(monkeypatch)
        with engine.begin() as connection:
            connection.execute(text(UPDATE))
        assert not sent.has_asked()
        assert shapes.plain_one("é", "ü") == r'[["\u00fc", "\u00e9", "g1", 1]]'
    engine.dispose()
