"""Behind PgBouncer: gates and programs share connections to the server, so no setting of a session is anybody's own."""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest
from real_servers.deadlines import patient
from real_servers.pgbouncer import PgBouncer, pgbouncer_program
from real_servers.shaped_gate import connect, wrapped
from real_servers.tracked_shapes import SCHEMA
from sqlalchemy import text

import tidegate
from tidegate.proxy.embedded import Cluster
from tidegate.proxy.embedded.process import give_to_server
from tidegate.proxy.settings import CacheSettings, Settings, ShardSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    pgbouncer_program() is None, reason="no pgbouncer is installed; on Debian: apt-get install pgbouncer"
)
WINDOW_S: Final = 2.0
ROUNDS: Final = 40
_numbers = itertools.count()


@pytest.fixture(scope="module")
def served() -> Iterator[Cluster]:
    """A cluster whose server may be restarted, and whose transactions may be prepared."""
    with Cluster(postgres_settings={"max_prepared_transactions": "20"}) as running:
        yield running


@dataclass
class Pooled:
    """A database with the tables, behind a pooler."""

    url: str
    direct: str
    pooler: PgBouncer


@pytest.fixture
def pooled(served: Cluster, servers_folder: Path) -> Iterator[Callable[..., Pooled]]:
    """Makes the tables in a database, and a pooler of that mode in front of it."""
    primary, made = served.shards[0].primary, list[Pooled]()

    def behind(mode: str = "transaction") -> Pooled:
        name = f"pooled_{next(_numbers)}"
        primary.execute(f"CREATE DATABASE {name} STRATEGY file_copy", database="postgres")
        direct = primary.url.rsplit("/", 1)[0] + f"/{name}"
        with connect(direct) as connection:
            for statement in SCHEMA:
                connection.execute(statement.encode())
        pooler = PgBouncer(servers_folder / name, primary.port, mode, 3 if mode == "transaction" else 20)
        made.append(Pooled(pooler.url(direct), direct, pooler))
        pooler.start()
        return made[-1]

    served.cache.flush()
    yield behind
    for one in made:
        one.pooler.stop()
        primary.execute(f"DROP DATABASE {one.direct.rsplit('/', 1)[1]} WITH (FORCE)", database="postgres")


def program(url: str) -> psycopg.Connection[Any]:
    """A connection that no gate knows; prepared statements would be in sessions that others have too."""
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True, prepare_threshold=None)


@contextmanager
def gate_at(url: str, served: Cluster) -> Iterator[tuple[tidegate.Gate, Any]]:
    settings = Settings(shards=(ShardSettings(name="s0", primary=url),), cache=CacheSettings(url=served.cache.url))
    with tidegate.connect(settings) as gate:
        yield gate, wrapped(gate)


def row(which: str, value: int) -> str:
    return f'[["{which}", "ann", "g1", {value}]]'


def seen(call: Callable[[], str], wanted: str) -> None:
    until = time.monotonic() + patient(WINDOW_S)
    while (found := call()) != wanted:
        assert time.monotonic() < until, f"{found}, not {wanted}"


def together(*works: Callable[[], None]) -> None:
    """Do them at once; raise what the first one of them raised."""
    failures: list[BaseException] = []

    def kept(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # raised below
            failures.append(error)

    threads = [threading.Thread(target=kept, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


ONCE: Final = "UPDATE plain SET value = {value} WHERE id = '{which}'"
PREPARED: Final = "PREPARE TRANSACTION '{which}{value}';COMMIT PREPARED '{which}{value}'"


@dataclass
class Writer:
    """Writes one row, of a tenant of his own: while a note waits, its tenant is answered by the primary."""

    which: str
    gate: tidegate.Gate
    shapes: Any
    url: str
    marked: set[str]

    def answer(self) -> str:
        return str(self.shapes.plain_one(self.which, self.which))

    def answers(self, value: int) -> None:
        for _ in range(3):
            assert self.answer() == self.row(value)

    def row(self, value: int) -> str:
        return f'[["{self.which}", "{self.which}", "g1", {value}]]'

    def watched(self) -> None:
        for value in range(1, ROUNDS):
            with self.gate.engine.begin() as connection:
                connection.execute(text(ONCE.format(value=value, which=self.which)))
            self.answers(value)

    def rolled_back(self) -> None:
        for value in range(1, ROUNDS):
            with self.gate.engine.connect() as connection:
                connection.execute(text(ONCE.format(value=value, which=self.which)))
                connection.rollback()
            self.answers(0)

    def unwatched(self, sql: str) -> None:
        with program(self.url) as own:
            for value in range(1, ROUNDS):
                self.marked.add(str(own.execute("SELECT current_setting('tidegate.watched', true)").fetchall()))
                for statement in sql.format(value=value, which=self.which).split(";"):
                    own.execute(statement.encode())
                seen(self.answer, self.row(value))
                self.answers(value)


def test_whoever_shares_connections_is_seen_by_what_he_does_himself(
    pooled: Callable[..., Pooled], served: Cluster
) -> None:
    """Watched: at once. Others: within the window, also on connections that a gate has marked."""
    url, marked = pooled().url, set[str]()
    with gate_at(url, served) as (gate, shapes), program(url) as first:
        first.execute("INSERT INTO plain SELECT x, x, 'g1', 0 FROM unnest(string_to_array('a b c d e f', ' ')) x")
        seen(lambda: str(first.execute("SELECT count(*) FROM tidegate_outbox").fetchall()), "[(0,)]")
        a, b, c, d, e, f = (Writer(which, gate, shapes, url, marked) for which in "abcdef")
        together(
            a.watched,
            b.watched,
            c.rolled_back,
            lambda: d.unwatched(ONCE),
            lambda: e.unwatched(f"BEGIN;{ONCE};SAVEPOINT s;{ONCE};RELEASE s;COMMIT"),
            lambda: f.unwatched(f"BEGIN;{ONCE};{PREPARED}"),
        )
        seen(lambda: str(first.execute("SELECT count(*) FROM tidegate_outbox").fetchall()), "[(0,)]")
        assert sum(method.served for method in gate.stats().methods.values()) > ROUNDS
    assert "[('on',)]" in marked  # else nobody met a connection that is marked, and the test shows nothing


def test_a_server_that_went_back_behind_the_pooler_is_found_out(
    pooled: Callable[..., Pooled], served: Cluster, servers_folder: Path
) -> None:
    """The pooler keeps its clients while the server is restarted: no connection of the gate's is lost."""
    behind, primary = pooled(), served.shards[0].primary
    with program(behind.url) as outside:
        outside.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)")
        with gate_at(behind.url, served) as (gate, shapes):
            # A gate that applies what waits needs two connections at a time, and the pooler gives none meanwhile.
            seen(lambda: str(outside.execute("SELECT count(*) FROM tidegate_outbox").fetchall()), "[(0,)]")

            def write(value: int) -> None:
                with gate.engine.begin() as connection:
                    connection.execute(text(f"UPDATE plain SET value = {value}"))

            def read() -> str:
                return str(shapes.plain_one("ann", "a"))

            def cached() -> str:
                read()
                return str(gate.explain(shapes.plain_one, "ann", "a").answered in ("near", "store"))

            backup = servers_folder / f"backup_{next(_numbers)}"
            with behind.pooler.paused():
                primary.stop()
                shutil.copytree(primary._folder, backup)
                primary.start()
            write(1)
            seen(cached, "True")
            with behind.pooler.paused():
                primary.stop()
                shutil.rmtree(primary._folder)
                shutil.copytree(backup, primary._folder)
                give_to_server(primary._folder)
                primary.start()
            seen(read, row("a", 0))
            write(2)
            assert read() == row("a", 2)
            seen(cached, "True")


@pytest.mark.parametrize(("mode", "listens"), [("transaction", False), ("session", True)])
def test_a_gate_listens_only_where_it_has_a_session(
    pooled: Callable[..., Pooled], served: Cluster, mode: str, listens: bool, caplog: pytest.LogCaptureFixture
) -> None:
    behind = pooled(mode)
    with gate_at(behind.url, served), connect(behind.direct) as direct:
        listening = "SELECT count(*) > 0 FROM pg_stat_activity WHERE query = 'LISTEN tidegate_outbox'"
        said = "tidegate-outbox is not notified, and looks every 0.25 s instead: a pooler shares connections"
        if listens:
            seen(lambda: str(direct.execute(listening).fetchall()), "[(True,)]")
        else:
            seen(lambda: str(said in caplog.text), "True")
            with program(behind.url) as shared:
                assert shared.execute("SELECT pg_listening_channels()").fetchall() == []
