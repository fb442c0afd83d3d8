"""A COMMIT that brings the position along, in one round trip: what the program sees where one of the two fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
from real_servers.driver_statements import note_taking
from real_servers.sharded import run_row
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

import tidegate
from tidegate.cache.events import Bumped, StoreFailed
from tidegate.cache.redis.store import RedisStore
from tidegate.position import Position
from tidegate.proxy.settings import CacheSettings
from tidegate.proxy.writes.commit_connection import CommittingConnection

if TYPE_CHECKING:
    from collections.abc import Iterator


class Writing:
    """A gate whose commits can be looked at."""

    def __init__(self, url: str, cache: str, driver: str, **how: Any) -> None:
        self.tenant = str(uuid4())
        self.engine = create_engine(url.replace("+psycopg", f"+{driver}"), **how)
        self.events: list[object] = []
        settings = tidegate.Settings(cache=CacheSettings(url=cache, near=False))
        self.gate = tidegate.gate_on(self.engine, sessionmaker(self.engine), settings, observe=self.events.append)

    def write(self) -> str:
        row = run_row(self.tenant)
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            session.add(row)
        return row.id

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def has(self, run_id: str) -> bool:
        with self.engine.connect() as connection:
            return bool(connection.scalar(text("SELECT 1 FROM workflow_runs WHERE id = :id"), {"id": run_id}))

    def close(self) -> None:
        self.gate.close()
        self.engine.dispose()


@pytest.fixture(params=["psycopg", "psycopg2"])
def writing(request: pytest.FixtureRequest, tables_url: str, valkey_url: str) -> Iterator[Writing]:
    found = Writing(tables_url, valkey_url, request.param)
    yield found
    found.close()


def test_each_commit_is_stamped_with_a_position_after_it(writing: Writing) -> None:
    for _ in range(3):
        assert writing.has(writing.write())
    assert len(writing.of(Bumped)) == 3
    assert writing.of(StoreFailed) == []


def test_the_position_of_a_stamp_lies_behind_the_commit_on_its_timeline(
    writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Position] = []
    stamped: list[Position] = []
    stamp, take = RedisStore.stamp_soon, CommittingConnection.take_notes

    def known(committing: CommittingConnection, tenant: str | None) -> Any:
        found = take(committing, tenant)
        taken.append(committing.transaction_id().position)
        return found

    def noted(store: RedisStore, changes: Any, xid: str, origin: Any, position: Position, failed: Any) -> None:
        stamped.append(position)
        stamp(store, changes, xid, origin, position, failed)

    monkeypatch.setattr(RedisStore, "stamp_soon", noted)
    monkeypatch.setattr(CommittingConnection, "take_notes", known)
    here = text("SELECT pg_current_wal_insert_lsn()::text, pg_walfile_name(pg_current_wal_insert_lsn())")
    with writing.engine.connect() as connection:
        with Session(connection) as session:
            session.add(run_row(writing.tenant))
            session.commit()
        after = Position.parse(*connection.execute(here).one())
    ((before,), (position,)) = taken, stamped
    assert before.lsn < position.lsn <= after.lsn, "the COMMIT has a record of its own"
    assert before.timeline == position.timeline == after.timeline


def test_a_position_that_cannot_be_had_fails_no_commit(writing: Writing, monkeypatch: pytest.MonkeyPatch) -> None:
    writing.write()
    events, module = len(writing.of(Bumped)), "tidegate.proxy.writes.commit_connection"
    monkeypatch.setattr(f"{module}._HERE", "SELECT missing")
    monkeypatch.setattr(f"{module}._COMMIT", b"COMMIT; SELECT missing")
    written = writing.write()
    assert writing.has(written)
    assert len(writing.of(Bumped)) == events
    assert [event.where for event in writing.of(StoreFailed)] == ["stamp"]
    monkeypatch.undo()
    assert writing.has(writing.write())  # the connection is as it was
    assert len(writing.of(Bumped)) == events + 1
    assert writing.gate.workflow_runs.get_workflow_run_by_id_without_tenant(written) is not None


def test_a_commit_that_the_database_refuses_raises_what_it_raises_without_a_gate(writing: Writing) -> None:
    with writing.engine.begin() as connection:
        connection.execute(text("CREATE TABLE late (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
    row = run_row(writing.tenant)
    with Session(writing.engine) as session:
        session.add(row)
        session.execute(text("INSERT INTO late VALUES (1), (1)"))
        with pytest.raises(IntegrityError):
            session.commit()
        session.rollback()
        named = row.id
    assert not writing.has(named)
    assert writing.of(Bumped) == []
    assert writing.has(writing.write())


def test_a_refused_commit_leaves_nothing_for_the_next_one(writing: Writing, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("refused")

    asked: list[str] = []
    note_taking(monkeypatch, asked.append)
    watch: Any = writing.engine.dialect.do_commit
    with writing.engine.connect() as connection:
        with monkeypatch.context() as patched:
            patched.setattr(type(watch.watch.protocol), "before_commit", refuse)
            with Session(connection) as session:
                session.add(run_row(writing.tenant))
                with pytest.raises(RuntimeError, match="refused"):
                    session.commit()
        assert len(asked) == 1
        connection.rollback()
        connection.execute(text("SELECT 1"))
        connection.commit()
    assert len(asked) == 1
    assert writing.of(Bumped) == []


def test_a_program_s_own_kind_of_cursor_is_not_used(tables_url: str, valkey_url: str) -> None:
    class Refusing(psycopg.Cursor[Any]):
        def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            assert "COMMIT" not in str(query)
            return super().execute(query, *args, **kwargs)

    writing = Writing(tables_url, valkey_url, "psycopg", connect_args={"cursor_factory": Refusing})
    assert writing.has(writing.write())
    assert len(writing.of(Bumped)) == 1
    writing.close()


def test_what_a_later_listener_writes_at_commit_is_in_the_transaction(writing: Writing) -> None:
    with writing.engine.begin() as connection:
        connection.execute(text("CREATE TABLE late (id int)"))
    last: list[Any] = []

    def listener(connection: Any) -> None:
        last.append(connection.scalar(text("INSERT INTO late VALUES (1) RETURNING txid_current()")))

    event.listen(writing.engine, "commit", listener)
    with Session(writing.engine) as session, session.begin():
        session.add(run_row(writing.tenant))
        session.flush()
        current = session.scalar(text("SELECT txid_current()"))
    assert last == [current]
