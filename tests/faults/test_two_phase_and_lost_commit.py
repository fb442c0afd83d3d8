"""Transactions whose end the writer does not know or does not see: readers ask the primary, and are never wrong."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest
from real_servers.gate_vs_plain import Pair
from real_servers.printed_numbers import show
from real_servers.tcp_proxy import Proxy
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

import tidegate
from tidegate.cache.root_recovery import GRACE_MS
from tidegate.errors import CommitUnknown
from tidegate.proxy.database.histories import Histories
from tidegate.proxy.database.primary import PostgresPrimary
from tidegate.proxy.embedded import Cluster
from tidegate.proxy.embedded.process import wait_for
from tidegate.proxy.settings import CacheSettings, ShardSettings
from tidegate.repositories.models import Base

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PREPARED: Final = "a transaction"
LOST: Final = 5


@pytest.fixture(scope="module")
def two_phase() -> Iterator[Cluster]:
    with Cluster(postgres_settings={"max_prepared_transactions": "10"}) as cluster:
        yield cluster


@pytest.fixture
def pair(two_phase: Cluster) -> Iterator[Pair]:
    primary = two_phase.shards[0].primary
    for (gid,) in primary.execute("SELECT gid FROM pg_prepared_xacts"):
        primary.execute(f"ROLLBACK PREPARED '{gid}'")
    engine = create_engine(primary.url)
    Base.metadata.drop_all(engine)
    engine.dispose()
    two_phase.cache.flush()
    pair = Pair(primary.url, cache(two_phase), books=1)
    warm(pair)
    yield pair
    pair.close()


def cache(cluster: Cluster) -> CacheSettings:
    return CacheSettings(url=cluster.cache.url, connect_timeout_ms=5_000, read_timeout_ms=5_000)


def warm(pair: Pair) -> None:
    """Until the cache answers every read, and rightly."""
    wait_for(lambda: hits(pair) == ALL, "the cache answers")


def hits(pair: Pair) -> int:
    """Read everything on both sides, which must agree; how much of it came from the cache."""
    before = pair.hits()
    assert pair.differences() == []
    return pair.hits() - before


ALL: Final = 9
UNTOUCHED: Final = 4
"""Reads of a pair, and those among them that a write to the runs leaves as they are."""


def test_a_commit_whose_answer_is_lost(pair: Pair, two_phase: Cluster) -> None:
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(two_phase.shards[0].primary.port))
        primary = two_phase.shards[0].primary.url.replace(str(two_phase.shards[0].primary.port), str(proxy.port))
        shards = (ShardSettings(name="s0", primary=primary),)
        writer = stack.enter_context(tidegate.connect(tidegate.Settings(shards=shards, cache=cache(two_phase))))
        for times in range(1, LOST + 1):
            proxy.cut_after(b"COMMIT", once_sent=b"total_tokens")
            with writer.session(pair.books[0].tenant) as session:
                written = pair.books[0].write(session)
                with pytest.raises(CommitUnknown):
                    session.commit()
            assert proxy.cuts == times
            run = pair.runs.get_workflow_run_by_id(pair.books[0].tenant, pair.books[0].app, pair.books[0].run)
            assert run is not None
            assert run.total_tokens == written, "the test wants it committed"
            assert hits(pair) == UNTOUCHED
            warm(pair)
    show("lost answers to COMMIT", f"{LOST}; {dict(pair.events)}")
    assert pair.events["RootAdvanced"] >= LOST


def prepare(pair: Pair, cluster: Cluster) -> None:
    """A write that is prepared on the watched engine; then its process is gone, as far as the server can tell."""
    with pair.gate.engine.connect() as connection:
        transaction = connection.begin_twophase(PREPARED)
        with Session(connection, join_transaction_mode="control_fully") as session:
            pair.books[0].write(session)
            transaction.prepare()
            driver: Any = connection.connection.driver_connection
            driver.close()
            connection.invalidate()
    assert cluster.shards[0].primary.execute("SELECT gid FROM pg_prepared_xacts") == [(PREPARED,)]


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_left_prepared_and_ended_elsewhere(end: str, pair: Pair, two_phase: Cluster) -> None:
    for _ in range(3):
        prepare(pair, two_phase)
        # For much longer than an intent stays young: nobody may take it for dead.
        until = time.monotonic() + 5 * GRACE_MS / 1000
        while time.monotonic() < until:
            assert hits(pair) == UNTOUCHED
        two_phase.shards[0].primary.execute(f"{end} PREPARED '{PREPARED}'")
        assert hits(pair) == UNTOUCHED or end == "ROLLBACK"
        warm(pair)


def test_a_long_transaction_prolongs_the_quarantine(pair: Pair, two_phase: Cluster) -> None:
    with psycopg.connect(two_phase.shards[0].primary.url.replace("+psycopg", "")) as other:
        other.execute("SELECT pg_current_xact_id()")
        two_phase.cache.flush()
        for _ in range(20):
            assert hits(pair) == 0
        pair.write(pair.books[0])
        assert hits(pair) == 0
        other.rollback()
        warm(pair)


def test_marks_lost_under_an_open_transaction(pair: Pair, two_phase: Cluster) -> None:
    ways: tuple[Callable[[Session], None], ...] = (Session.commit, Session.rollback)
    for end in ways:
        with pair.gate.session(pair.books[0].tenant) as session:
            pair.books[0].write(session)
            two_phase.cache.flush()
            for _ in range(20):
                assert hits(pair) == 0
            end(session)
        assert pair.differences() == []
        warm(pair)


@pytest.mark.usefixtures("pair")  # whose gate makes the tables
def test_the_newest_transaction_of_all_is_in_progress(two_phase: Cluster) -> None:
    # Nothing that began after it has ended, so it is not below the xmax of anybody's snapshot.
    url = two_phase.shards[0].primary.url
    engine = create_engine(url)
    primary = PostgresPrimary(engine, "s0", Histories(engine.dialect, "s0"))
    with psycopg.connect(url.replace("+psycopg", "")) as newest:
        ((xid,),) = newest.execute("SELECT pg_current_xact_id()::text").fetchall()
        future = str(int(xid) + 1_000_000)
        for _ in range(3):
            assert primary.ended("", [xid, future])[0] == [future]
        newest.rollback()
    assert primary.ended("", [xid, future])[0] == [xid, future]
    engine.dispose()
