"""When the commit protocol is told: at each COMMIT of a transaction that changed tracked rows, and at nothing else."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any, Final

import pytest
from sqlalchemy import create_engine, event, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import sessionmaker

from tidegate.errors import PolicyError
from tidegate.position import NOWHERE
from tidegate.proxy.writes.watch import attach
from tidegate.repositories.models import WorkflowRun, new_id

TENANT, OTHER = "7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10", "9e0c7a54-8d2b-4f7e-8a31-0c5d4b6e2f90"
RUNS: Final[Any] = WorkflowRun.__table__

pytestmark = [pytest.mark.fast, pytest.mark.matrix]


class RefusedError(Exception):
    """What a protocol raises that does not want this commit."""


def test_a_transaction_that_changes_no_tracked_row_does_nothing(watched: Any) -> None:
    run = watched.store()
    with watched.engine.begin() as connection:
        connection.execute(text("CREATE TABLE untracked (id INTEGER)"))
        connection.execute(text("INSERT INTO untracked VALUES (1)"))
    with watched.sessions() as session:
        loaded = session.get_one(WorkflowRun, run["id"])
        loaded.status = loaded.status  # no net change, no UPDATE
        session.commit()
    assert len(watched.statements) == 4  # and what takes the notes
    assert watched.take() == {}


def test_an_update_that_matches_nothing_does_nothing(watched: Any) -> None:
    run = watched.store()
    with watched.engine.begin() as connection:
        mine = update(RUNS).where(RUNS.c.id == run["id"], RUNS.c.tenant_id == OTHER)
        connection.execute(mine.values(status="failed"))
        connection.execute(update(RUNS).where(RUNS.c.id == new_id()).values(status="failed"))
        connection.execute(update(RUNS).where(RUNS.c.status == "nowhere").values(status="failed"))
    assert watched.take() == {}


def test_an_update_that_matches_nothing_forgets_no_earlier_one(watched: Any, tags_of: Any) -> None:
    run = watched.store()
    with watched.engine.begin() as connection:
        by_id = update(RUNS).where(RUNS.c.id == run["id"])
        connection.execute(by_id.values(status="failed"))
        assert connection.execute(by_id.where(RUNS.c.status == "running").values(status="stopped")).rowcount == 0
    assert watched.take() == {TENANT: tags_of(run)}


@pytest.mark.parametrize("through", ["session", "connection"])
def test_a_refused_commit_is_rolled_back_and_not_committed_by_the_next_user_of_the_connection(
    watched: Any, values_of: Any, through: str
) -> None:
    def refuse(_connection: Any) -> None:
        raise RefusedError("no")

    watched.recorder.before = refuse
    values = values_of(WorkflowRun)
    if through == "session":
        with watched.sessions() as session:
            session.add(WorkflowRun(**values))
            with pytest.raises(RefusedError):
                session.commit()
    else:
        with watched.engine.connect() as connection:
            connection.execute(insert(RUNS), values)
            with pytest.raises(RefusedError):
                connection.commit()
    watched.recorder.before = None
    with watched.engine.connect() as connection:  # the same connection: the pool gives the last one first
        assert connection.execute(select(RUNS)).all() == []
        connection.commit()
    with watched.sessions() as session:
        assert session.get(WorkflowRun, values["id"]) is None


def test_rollback_forgets(watched: Any, values_of: Any) -> None:
    with watched.engine.connect() as connection:
        connection.execute(insert(RUNS), values_of(WorkflowRun))
        connection.rollback()
        connection.execute(select(RUNS))
        connection.commit()
    with watched.engine.connect() as connection:  # closed without a word: the pool rolls back
        connection.execute(insert(RUNS), values_of(WorkflowRun))
    with watched.engine.connect() as connection:
        connection.execute(select(RUNS))
        connection.commit()
    assert watched.take() == {}


@pytest.mark.parametrize("release", [True, False])
def test_savepoints_tell_nothing_and_take_their_part_back(
    watched: Any, values_of: Any, tags_of: Any, release: bool
) -> None:
    first, second = values_of(WorkflowRun), values_of(WorkflowRun, tenant_id=OTHER)
    with watched.sessions() as session:
        session.add(WorkflowRun(**first))
        session.flush()
        nested = session.begin_nested()
        session.add(WorkflowRun(**second))
        session.flush()
        nested.commit() if release else nested.rollback()
        assert watched.recorder.changes == []
        session.commit()
    assert watched.take() == {TENANT: tags_of(first)} | ({OTHER: tags_of(second)} if release else {})
    assert len(watched.rows()) == (2 if release else 1)


def test_a_session_in_an_outer_transaction(watched: Any, values_of: Any, tags_of: Any) -> None:
    run = values_of(WorkflowRun)
    with watched.engine.connect() as connection:
        outer = connection.begin()
        with watched.sessions(bind=connection, join_transaction_mode="create_savepoint") as session:
            session.add(WorkflowRun(**run))
            session.commit()
        assert watched.recorder.changes == []
        outer.commit()
    assert watched.take() == {TENANT: tags_of(run)}


def test_the_flush_of_commit_counts(watched: Any, values_of: Any, tags_of: Any) -> None:
    run = watched.store()
    new = values_of(WorkflowRun, tenant_id=OTHER)
    with watched.sessions() as session:
        loaded = session.get_one(WorkflowRun, run["id"])

        @event.listens_for(session, "before_flush")
        def _(target: Any, *_: Any) -> None:
            if not any(isinstance(row, WorkflowRun) for row in target.new):
                target.add(WorkflowRun(**new))

        loaded.status = "succeeded"
        session.commit()
    assert watched.take() == {TENANT: tags_of(run), OTHER: tags_of(new)}


def test_begin_and_explicit_commits(watched: Any, values_of: Any, tags_of: Any) -> None:
    first, second = values_of(WorkflowRun), values_of(WorkflowRun)
    with watched.engine.connect() as connection:
        with connection.begin():
            connection.execute(insert(RUNS), first)
        assert watched.take() == {TENANT: tags_of(first)}
        connection.execute(insert(RUNS), second)
        connection.commit()
        assert watched.take() == {TENANT: tags_of(second)}


def test_option_engines_are_watched_whoever_is_attached(watched: Any, values_of: Any, tags_of: Any) -> None:
    made = watched.engine.execution_options(logging_token="made")  # noqa: S106  # a name for the log
    assert attach(made, watched.recorder) is watched.watch
    assert attach(sessionmaker(made), watched.recorder) is watched.watch
    for engine in (made, made.execution_options(stream_results=False)):
        run = values_of(WorkflowRun)
        with engine.begin() as connection:
            connection.execute(insert(RUNS), run)
        assert watched.take() == {TENANT: tags_of(run)}


def test_what_is_attached_to_an_option_engine_watches_the_engine(watch_engine: Any, values_of: Any) -> None:
    engine = create_engine("sqlite://")
    watched = watch_engine(engine.execution_options(stream_results=False))
    with engine.begin() as connection:
        connection.execute(insert(RUNS), values_of(WorkflowRun))
    assert set(watched.take()) == {TENANT}


def test_an_engine_has_one_protocol(watched: Any) -> None:
    with pytest.raises(PolicyError, match="already watched"):
        attach(watched.engine, type(watched.recorder)())
    with pytest.raises(PolicyError, match="sessionmaker bound to one"):
        attach(sessionmaker(), watched.recorder)


def test_a_protocol_that_refuses_prevents_the_commit(watched: Any, values_of: Any, tags_of: Any) -> None:
    def refuse(_connection: Any) -> None:
        raise RefusedError("no")

    run = values_of(WorkflowRun)
    watched.recorder.before = refuse
    with watched.sessions() as session:
        session.add(WorkflowRun(**run))
        with pytest.raises(RefusedError):
            session.commit()
        session.rollback()
        watched.recorder.before = None
        assert session.scalars(select(WorkflowRun)).all() == []
        session.add(WorkflowRun(**run))
        session.commit()
    assert watched.take() == {TENANT: tags_of(run)}


def test_nothing_raises_after_commit(watched: Any, values_of: Any, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_connection: Any) -> None:
        raise RuntimeError("no stamp")

    watched.recorder.after = fail
    with caplog.at_level(logging.ERROR), watched.engine.begin() as connection:
        connection.execute(insert(RUNS), values_of(WorkflowRun))
    assert "could not be stamped" in caplog.text
    watched.recorder.after = None
    assert len(watched.rows()) == 1
    assert watched.recorder.stamped == []


def test_a_commit_that_failed_is_not_stamped(postgresql: Any, values_of: Any) -> None:
    with postgresql.engine.begin() as connection:
        connection.execute(text("CREATE TABLE late (id INTEGER UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
    with postgresql.engine.connect() as connection:
        connection.execute(insert(RUNS), values_of(WorkflowRun))
        connection.execute(text("INSERT INTO late VALUES (1), (1)"))
        with pytest.raises(IntegrityError):
            connection.commit()
    assert len(postgresql.recorder.changes) == 1
    assert postgresql.recorder.stamped == []
    with postgresql.engine.begin() as connection:
        connection.execute(select(RUNS))
    assert postgresql.recorder.stamped == []


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_transaction_that_failed_commits_nothing(
    watch_engine: Any, tables_url: str, driver: str, values_of: Any
) -> None:
    pytest.importorskip(driver)
    watched = watch_engine(create_engine(tables_url.replace("+psycopg:", f"+{driver}:")))
    run = watched.store()
    with watched.engine.connect() as connection:
        connection.execute(insert(RUNS), values_of(WorkflowRun))
        connection.execute(update(RUNS).where(RUNS.c.id == run["id"]).values(status="failed"))
        with pytest.raises(IntegrityError):
            connection.execute(insert(RUNS), run)
        connection.commit()  # PostgreSQL rolls back, and says nothing
    assert watched.take() == {}
    assert [row.status for row in watched.rows()] == ["running"]


def test_the_connection_lost_before_commit_leaves_nothing_behind(postgresql: Any, values_of: Any) -> None:
    with postgresql.engine.connect() as connection:
        connection.execute(insert(RUNS), values_of(WorkflowRun))
        with postgresql.engine.connect() as other:
            pid = connection.connection.dbapi_connection.info.backend_pid
            other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        with pytest.raises(DBAPIError):
            connection.commit()
        connection.rollback()
        connection.execute(select(RUNS))
        connection.commit()
    assert postgresql.recorder.changes == []
    assert postgresql.recorder.stamped == []


def test_ids_and_positions(watched: Any, values_of: Any) -> None:
    with watched.engine.begin() as connection:
        connection.execute(insert(RUNS), values_of(WorkflowRun))
        xid = connection.scalar(text("SELECT pg_current_xact_id()::text")) if watched.is_postgresql else ""
    [(told, before, _)], [(_, after)] = watched.recorder.transactions, watched.recorder.stamped
    assert told == xid
    if not watched.is_postgresql:
        assert (before, after) == (NOWHERE, NOWHERE)
        return
    assert before.timeline == after.timeline == 1
    assert before.lsn < after.lsn
    with watched.engine.connect() as connection:
        state = connection.connection.dbapi_connection
        assert not state.autocommit
        status = connection.scalar(text("SELECT pg_xact_status(:xid ::xid8)"), {"xid": xid})
        assert status == "committed"


def test_the_position_query_leaves_no_transaction_open(postgresql: Any, values_of: Any) -> None:
    with postgresql.engine.connect() as connection:
        pid = connection.connection.dbapi_connection.info.backend_pid
        connection.execute(insert(RUNS), values_of(WorkflowRun))
        connection.commit()
        with postgresql.engine.connect() as other:
            state = text("SELECT state FROM pg_stat_activity WHERE pid = :pid")
            assert other.scalar(state, {"pid": pid}) == "idle"


def test_the_protocol_can_write_in_the_transaction(watched: Any, values_of: Any) -> None:
    with watched.engine.begin() as connection:
        connection.execute(text("CREATE TABLE outbox (id INTEGER)"))
    watched.recorder.before = lambda connection: connection.execute(text("INSERT INTO outbox VALUES (1)"))
    with watched.engine.begin() as connection:
        connection.execute(insert(RUNS), values_of(WorkflowRun))
    with watched.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM outbox")) == 1


def test_what_commits_by_itself_is_left_in_the_outbox(watched: Any, tags_of: Any) -> None:
    run = watched.store()
    for statement in (update(RUNS).values(status="failed"), text("DELETE FROM workflow_runs")):
        with watched.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(statement)
            connection.commit()
        assert watched.take() == {}
        assert watched.left() == {TENANT: tags_of(run)}


def test_an_engine_in_autocommit_leaves_all_in_the_outbox(watch_engine: Any, tables_url: str, tags_of: Any) -> None:
    watched = watch_engine(create_engine(tables_url, isolation_level="AUTOCOMMIT"))
    run = watched.store()
    assert watched.take() == {}
    assert watched.left() == {TENANT: tags_of(run)}


@pytest.fixture
def two_phase(watch_engine: Any) -> Any:
    from tidegate.proxy.embedded import Cluster

    with Cluster(cache=False, postgres_settings={"max_prepared_transactions": "5"}) as cluster:
        yield watch_engine(create_engine(cluster.shards[0].primary.url))


def test_two_phase(two_phase: Any, values_of: Any, tags_of: Any) -> None:
    watched = two_phase
    run, prepared, lost = values_of(WorkflowRun), values_of(WorkflowRun), values_of(WorkflowRun)
    with watched.engine.connect() as connection:
        transaction = connection.begin_twophase()
        connection.execute(insert(RUNS), run)
        transaction.commit()  # in one phase
    assert watched.take() == {TENANT: tags_of(run)}
    with watched.engine.connect() as connection:
        transaction = connection.begin_twophase()
        connection.execute(insert(RUNS), prepared)
        transaction.prepare()
        assert len(watched.recorder.changes) == 1
        assert watched.recorder.stamped == []
        transaction.commit()
    assert watched.take() == {TENANT: tags_of(prepared)}
    session = sessionmaker(watched.engine, twophase=True)()
    session.add(WorkflowRun(**lost))
    session.commit()
    session.close()
    assert watched.take() == {TENANT: tags_of(lost)}
    elsewhere = values_of(WorkflowRun)
    with watched.engine.connect() as connection:
        transaction = connection.begin_twophase(xid="tidegate-test")
        connection.execute(insert(RUNS), elsewhere)
        transaction.prepare()
        connection.invalidate()
    with watched.engine.connect() as connection:
        connection.commit_prepared("tidegate-test", recover=True)
    assert len(watched.recorder.changes) == 1
    assert watched.recorder.stamped == []  # its intent stays, and is resolved by a reader


def test_a_prepare_that_was_refused_cannot_be_committed_silently(two_phase: Any, values_of: Any) -> None:
    def refuse(_connection: Any) -> None:
        raise RefusedError("no")

    two_phase.recorder.before = refuse
    with two_phase.engine.connect() as connection:
        transaction = connection.begin_twophase()
        connection.execute(insert(RUNS), values_of(WorkflowRun))
        with pytest.raises(RefusedError):
            transaction.prepare()
        with pytest.raises(RefusedError):
            transaction.commit()
        transaction.rollback()
    assert two_phase.rows() == []


def test_many_rows_of_one_tenant_are_the_whole_tenant(watch_engine: Any, values_of: Any, tags_of: Any) -> None:
    watched = watch_engine(create_engine("sqlite://"), most_tags=10)
    other = values_of(WorkflowRun, tenant_id=OTHER, created_at=values_of(WorkflowRun)["created_at"] + timedelta(days=1))
    with watched.engine.begin() as connection:
        connection.execute(insert(RUNS), [values_of(WorkflowRun) for _ in range(20)] + [other])
    assert watched.take() == {TENANT: "whole", OTHER: tags_of(other)}
