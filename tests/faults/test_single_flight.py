"""64 threads in 8 processes that ask for one page which is not cached: one query, also if its process is killed two.

The test holds a lock on the table, so that the query of whoever fills lasts until all have come, and PostgreSQL itself
says who waits for it, and counts the statements.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest
from real_servers.deadlines import patient
from real_servers.printed_numbers import show
from real_servers.subprocesses import Child
from real_servers.versioned_tenant import Book
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from tidegate.cache.request import Limits
from tidegate.proxy.embedded import Cluster
from tidegate.proxy.embedded.process import wait_for
from tidegate.repositories.models import Base

if TYPE_CHECKING:
    from collections.abc import Iterator

PROCESSES, THREADS = 8, 8
SLACK_S = 2.0
"""What a machine that has nothing else to do adds to a wait, at most."""
BLOCKED = "SELECT application_name FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND backend_type ~ 'client'"
QUERIES = "SELECT coalesce(sum(calls), 0)::int FROM pg_stat_statements WHERE query ~ 'workflow_runs.*ORDER BY'"


@pytest.fixture(scope="module")
def counting() -> Iterator[Cluster]:
    settings = {"shared_preload_libraries": "pg_stat_statements", "max_connections": "200"}
    with Cluster(postgres_settings=settings) as cluster:
        cluster.shards[0].primary.execute("CREATE EXTENSION pg_stat_statements")
        engine = create_engine(cluster.shards[0].primary.url)
        Base.metadata.create_all(engine)
        engine.dispose()
        yield cluster


@pytest.fixture
def book(counting: Cluster) -> Book:
    made = Book.new()
    engine = create_engine(counting.shards[0].primary.url)
    with Session(engine) as session:
        session.add(made.first())
        session.flush()
        for _ in range(30):
            made.write(session)
        session.commit()
    engine.dispose()
    return made


@pytest.fixture(scope="module")
def processes(counting: Cluster) -> Iterator[dict[str, Child]]:
    """By the name that PostgreSQL knows their connections by; a test that kills one takes it out."""
    url = counting.shards[0].primary.url
    cache = {"url": counting.cache.url, "connect_timeout_ms": 5_000, "read_timeout_ms": 5_000}
    with ExitStack() as stack:
        children = {}
        for name in (f"crowd{number}" for number in range(PROCESSES)):
            shards = [{"name": "s0", "primary": f"{url}?application_name={name}"}]
            given = {"settings": {"shards": shards, "cache": cache}, "threads": THREADS}
            children[name] = stack.enter_context(Child("thundering_herd", given))
        yield children


@contextmanager
def locked(cluster: Cluster) -> Iterator[None]:
    """No query of the runs ends meanwhile."""
    with psycopg.connect(cluster.shards[0].primary.url.replace("+psycopg", "")) as connection:
        connection.execute("LOCK TABLE workflow_runs IN ACCESS EXCLUSIVE MODE")
        yield
        connection.rollback()


def get_ready(processes: dict[str, Child], book: Book, cluster: Cluster) -> None:
    primary = cluster.shards[0].primary
    wait_for(lambda: primary.execute("SELECT id FROM tidegate_outbox") == [], "the notes of the rows are applied")
    for child in processes.values():
        child.tell(book.plain())
    for child in processes.values():
        assert child.hear() == "ready"
    primary.execute("SELECT pg_stat_statements_reset()")


def let_all_miss(processes: dict[str, Child], cluster: Cluster) -> str:
    """Let all ask, wait until all have missed; the name of the one process whose query waits for the lock."""
    for child in processes.values():
        child.tell("go")
    assert [child.hear() for child in processes.values()] == [THREADS] * len(processes)
    primary = cluster.shards[0].primary
    wait_for(lambda: len(primary.execute(BLOCKED)) > 0, "a query waits for the lock")
    ((name,),) = primary.execute(BLOCKED)
    return str(name)


def reports(processes: dict[str, Child], cluster: Cluster) -> tuple[dict[str, int], float, int]:
    """Connections taken by the askers of each process, the longest wait in seconds, and how often the page was read."""
    found = {name: child.hear() for name, child in processes.items()}
    waits = [wait for report in found.values() for wait in report["waits_s"]]
    queries = int(cluster.shards[0].primary.execute(QUERIES)[0][0])
    show("queries", f"{queries} for {len(waits)} threads, which waited {max(waits):.2f} s at most")
    assert all(report["rows"] == [20] * THREADS for report in found.values())
    return {name: sum(report["held"].values()) for name, report in found.items()}, max(waits), queries


def test_one_page_is_queried_once(processes: dict[str, Child], book: Book, counting: Cluster) -> None:
    get_ready(processes, book, counting)
    with locked(counting):
        filler = let_all_miss(processes, counting)
    connections, _, queries = reports(processes, counting)
    assert connections == {name: int(name == filler) for name in processes}
    assert queries == 1


def test_a_query_that_takes_longer_than_any_lease_is_made_once_and_its_answer_is_stored(
    processes: dict[str, Child], book: Book, counting: Cluster
) -> None:
    get_ready(processes, book, counting)
    with locked(counting):
        filler = let_all_miss(processes, counting)
        until = time.monotonic() + (Limits().lease_ms + Limits().wait_ms) / 1000
        while time.monotonic() < until:
            assert counting.shards[0].primary.execute(BLOCKED) == [(filler,)], "somebody else queries too"
        released = time.monotonic()
    connections, _, queries = reports(processes, counting)
    assert time.monotonic() - released < patient(SLACK_S), "who waited got the answer when it was there"
    assert connections == {name: int(name == filler) for name in processes}
    assert queries == 1


def test_twice_at_most_if_the_one_who_fills_is_killed(
    processes: dict[str, Child], book: Book, counting: Cluster
) -> None:
    get_ready(processes, book, counting)
    with locked(counting):
        processes.pop(let_all_miss(processes, counting)).kill()
    connections, longest_s, queries = reports(processes, counting)
    assert sum(connections.values()) == 1
    assert 1 <= queries <= 2  # that of the dead may have gone on to its end
    assert longest_s < Limits().wait_ms / 1000 + patient(SLACK_S)
