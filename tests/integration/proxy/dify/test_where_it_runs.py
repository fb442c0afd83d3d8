"""Where Dify's processes run: gevent with psycogreen, Celery's prefork with time limits, its engine's options."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from real_servers.deadlines import patient
from real_servers.subprocesses import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidegate.proxy.embedded import Cluster

HOSTS: Final = Path(__file__).parents[3] / "hosts"
RELEASE: Final = "v1_16"
LIMIT: Final = "SoftTimeLimitExceeded"
WAITING: Final = """
SELECT 1 FROM pg_locks
WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
IN_TRANSACTION: Final = (
    "SELECT query FROM pg_stat_activity WHERE state LIKE 'idle in%' AND datname = current_database()"
)
NO_TRANSACTION: Final = f"SELECT 1 WHERE NOT EXISTS ({IN_TRANSACTION})"
DATABASE: Final = "host_on_replicas"


class Place:
    """A database and a cache of a host's program, which can be kept from answering.

    Args:
        cluster: where they are.
        database_url: of the database, which is filled first.
        settings: of Tidegate, as variables.
    """

    def __init__(self, cluster: Cluster, database_url: str, settings: dict[str, str]) -> None:
        self._cluster = cluster
        self._conninfo = database_url.replace("+psycopg", "")
        cluster.cache.flush()
        variables = settings | {"HOST_DATABASE_URL": database_url.replace("+psycopg", "+psycopg2")}
        self.given: dict[str, Any] = {"release": RELEASE, "variables": variables}
        paths = os.pathsep.join(map(str, (HOSTS / RELEASE, HOSTS / "common")))
        plain = os.environ | variables | {"PYTHONPATH": paths}
        subprocess.run([sys.executable, "-m", "host_program", "fill"], env=plain, check=True)

    @contextmanager
    def locked(self, table: str) -> Iterator[Callable[[], None]]:
        """Keep everybody out of *table*, and yield what waits until somebody wants in."""
        with psycopg.connect(self._conninfo) as holder:
            holder.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
            yield partial(self.wait_for, WAITING)

    @contextmanager
    def silent_cache(self, until: str = "SELECT 1") -> Iterator[Callable[[], None]]:
        """Have the cache say nothing, and yield what waits until a statement finds something."""
        self._cluster.cache.pause()
        try:
            yield partial(self.wait_for, until)
        finally:
            self._cluster.cache.resume()

    def wait_for(self, sql: str) -> None:
        until = time.monotonic() + patient(20)
        while not self.execute(sql):
            assert time.monotonic() < until, sql
            time.sleep(0.01)

    def execute(self, sql: str) -> list[Any]:
        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            done = connection.execute(sql.encode())
            return done.fetchall() if done.description else []

    def leases(self) -> list[bytes]:
        with redis.Redis.from_url(self._cluster.cache.url) as client:
            return list(client.scan_iter(match="tg:l:*"))


@pytest.fixture
def place(cluster: Cluster, database_url: str, tmp_path: Path) -> Place:
    patience = {"connect_timeout_ms": 60_000, "read_timeout_ms": 60_000}  # what waits is asked, not timed
    lines = [f'url = "{cluster.cache.url}"', *(f"{name} = {ms}" for name, ms in patience.items())]
    settings = tmp_path / "tidegate.toml"
    settings.write_text("\n".join(("[cache]", *lines, "")))
    return Place(cluster, database_url, {"TIDEGATE_CONFIG": str(settings)})


def ask(child: Child, *order: Any) -> Any:
    """Ask, and do not wait for ever for one whose hub is blocked."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(child.ask, order)
        try:
            return asked.result(patient(20))
        except TimeoutError:
            child.kill()
            pytest.fail(f"no greenlet runs while another waits: {order}")


def test_while_one_greenlet_waits_the_others_run(place: Place) -> None:
    with Child("host_in_gevent", place.given | {"patched": True}, fresh=True) as child:
        for _ in range(4):
            assert ask(child, "read", 1) == "begun"
            assert ask(child, "result") == 0
        assert ask(child, "stats")["get_workflow_run_by_id"]["served"] > 0
        # A hit, a miss, a write and its commit, and the thread that applies the outbox.
        with place.silent_cache():
            assert ask(child, "read", 1) == "begun"
            assert ask(child, "alive") == [False]
        assert ask(child, "result") == 0
        for order, result in ((["read", 2], 0), (["write", 2, 7], 7), (["read", 2], 7)):
            with place.locked("workflow_runs") as wait:
                assert ask(child, *order) == "begun"
                wait()
                assert ask(child, "alive") == [False]
            assert ask(child, "result") == result
        with place.silent_cache(IN_TRANSACTION) as wait:
            assert ask(child, "write", 1, 5) == "begun"
            wait()
            assert ask(child, "alive") == [False]
        assert ask(child, "result") == 5
        with place.locked("tidegate_outbox") as wait:
            wait()
            assert ask(child, "alive") == []
        assert ask(child, "read", 1) == "begun"
        assert ask(child, "result") == 5


def test_a_time_limit_in_a_forked_worker_passes_and_leaves_nothing(place: Place) -> None:
    with Child("host_in_prefork", place.given, fresh=True) as child:
        assert child.ask(["parent", "backend"]) != child.ask(["worker", "backend"])
        assert child.ask(["worker", "hit", 1]) == 0
        late: tuple[tuple[list[Any], Any, bool], ...] = (
            (["read", 1], place.silent_cache, True),
            (["write", 3, 7], partial(place.silent_cache, IN_TRANSACTION), True),
        )
        for order, kept, at_once in late:
            with kept() as wait:
                worker = child.ask(["late", *order])
                wait()
                os.kill(worker, signal.SIGUSR1)
                outcome = child.ask(["outcome"]) if at_once else None
            # While a statement of psycopg2 runs, no handler of Python's does.
            assert (outcome or child.ask(["outcome"])) == LIMIT, order
            assert child.ask(["worker", "left"]) == {"connections": 0, "flights": 0}, order
            assert place.leases() == []
            place.wait_for(NO_TRANSACTION)  # the thread beside has one now and then
            tokens = place.execute(f"SELECT total_tokens FROM workflow_runs WHERE id::text LIKE 'a%{order[1]:012}'")
            assert child.ask(["worker", "read", order[1]]) == tokens[0][0]


def test_options_and_reset_listeners_of_the_engine_hold_on_replicas_too(replicated: Cluster) -> None:
    shard = replicated.shards[0]
    urls = [f"{node.url.rpartition('/')[0]}/{DATABASE}" for node in (shard.primary, *shard.replicas)]
    shard.primary.execute(f"CREATE DATABASE {DATABASE} STRATEGY file_copy", database="postgres")
    try:
        place = Place(replicated, urls[0], {"TIDEGATE_REPLICAS": ",".join(urls[1:])})
        # As Flask-SQLAlchemy hands them on: nothing but the listener resets a connection.
        named = {"pool_reset_on_return": None, "connect_args": {"options": f"-c application_name={DATABASE}"}}
        given = place.given | {"options": named, "enough": 2 * len(urls)}
        with Child("host_on_replicas", given, fresh=True) as child:
            ports = [str(urlsplit(url).port) for url in urls]
            wanted = [[name, port] for name in ("all pools", "the engine's pool") for port in sorted(ports)]
            assert child.hear() == wanted
            for url in urls:
                with psycopg.connect(url.replace("+psycopg", "")) as connection:
                    states = connection.execute(
                        "SELECT state FROM pg_stat_activity WHERE application_name = %s", [DATABASE]
                    )
                    assert {state for (state,) in states} == {"idle"}
    finally:
        shard.primary.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)", database="postgres")
