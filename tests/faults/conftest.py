"""A store with one answer in it, and every method to call on it; and replicas to be maltreated."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import pytest
from real_servers.one_answer import ASKED, CHANGE, MISS, ORIGIN, filling, put
from real_servers.one_tenant import make_table
from real_servers.replicated import make_notes

from tidegate.cache.marks import Noted
from tidegate.cache.redis.store import RedisStore
from tidegate.cache.store import Change
from tidegate.position import NOWHERE
from tidegate.proxy.embedded import Cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CALLS: dict[str, Callable[[RedisStore], object]] = {
    "lookup": lambda store: store.lookup("t", "d", "tag", ASKED),
    "lease": lambda store: store.lease("t", "d", MISS, "k", 60_000),
    "holder": lambda store: store.holder("t", "d"),
    "release": lambda store: store.release("t", "d", "k"),
    "fill": lambda store: store.fill("t", filling(blobs={"h": b"large"})),
    "check": lambda store: store.check("t", Noted("n", 1), ["tag"], ASKED),
    "blobs": lambda store: store.blobs("t", ["h", "h2"]),
    "make_root": lambda store: store.make_root("t", "n", ORIGIN),
    "complete_root": lambda store: store.complete_root("t", "n", "7", NOWHERE),
    "end_quarantine": lambda store: store.end_quarantine("t", "n", NOWHERE),
    "open": lambda store: store.open([*CHANGE, Change("t2", whole=True)], "5", ORIGIN, ["n", "n2"]),
    "stamp": lambda store: store.stamp([*CHANGE, Change("t2", whole=True)], "5", ORIGIN, NOWHERE),
    "resolve": lambda store: store.resolve("t", ["5"], ORIGIN, NOWHERE),
    "bump": lambda store: store.bump([*CHANGE, Change("t2", whole=True)], None, NOWHERE),
}


@pytest.fixture
def ns() -> str:
    return secrets.token_hex(8)


@pytest.fixture
def store_at(ns: str) -> Callable[..., RedisStore]:
    """A patient store at a URL: what is shown is not how long it waits."""

    def make(url: str, **bounds: Any) -> RedisStore:
        return RedisStore.from_url(url, ns, **({"connect_timeout_ms": 5_000, "read_timeout_ms": 5_000} | bounds))

    return make


@pytest.fixture
def calls() -> dict[str, Callable[[RedisStore], object]]:
    return CALLS


@pytest.fixture
def put_answer() -> Callable[..., None]:
    return put


@pytest.fixture(scope="session")
def started_replicated() -> Iterator[Cluster]:
    fast = {"max_standby_streaming_delay": "200ms", "deadlock_timeout": "100ms"}
    with Cluster(replicas=2, postgres_settings=fast) as running:
        make_notes(running)
        yield running


@pytest.fixture
def replicated(started_replicated: Cluster) -> Iterator[Cluster]:
    """A primary with two replicas that stream; what a test does to the replicas is undone after it."""
    yield started_replicated
    for node in started_replicated.shards[0].replicas:
        node.resume()
        if not node.running:
            node.start()
        node.resume_replay()
        node.delay(0)
        node.wait_streaming()
    for node in (started_replicated.shards[0].primary, *started_replicated.shards[0].replicas):
        # Held up by reads that have gone elsewhere; the next test's are waited for by this.
        node.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")


@pytest.fixture
def two() -> Iterator[Cluster]:
    """A primary and a replica."""
    with Cluster(replicas=1) as cluster:
        make_notes(cluster)
        yield cluster


@pytest.fixture
def notes_url(database_url: str) -> str:
    """A database with the table of the notes."""
    make_table(database_url)
    return database_url
