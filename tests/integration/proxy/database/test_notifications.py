"""Who follows a server by its notifications: in every way in which a program may reach the server, and without them."""

from __future__ import annotations

import logging
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from real_servers.with_password import PASSWORD, PIECES, USER, WAYS, Asking, Ways, asking, wait_listening
from sqlalchemy import create_engine, event
from sqlalchemy.orm import sessionmaker

import tidegate
from tidegate.proxy.database.schema import OUTBOX, make_tables
from tidegate.proxy.embedded.process import wait_for
from tidegate.proxy.settings import CacheSettings
from tidegate.proxy.shards.catalogue import Catalogue, Follower
from tidegate.routing.sharding.shard_map import even_map

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Engine

ROW = f"INSERT INTO {OUTBOX.name} (source, rows) VALUES ('', '[[\"t\",[\"run:1\"],false]]')"


@pytest.fixture(scope="module")
def server() -> Iterator[Asking]:
    with asking() as found:
        yield found


@contextmanager
def gate_on(engine: Engine, server: Asking) -> Iterator[tidegate.Gate]:
    patiently = CacheSettings(url=server.cluster.cache.url, near=False, connect_timeout_ms=5_000, read_timeout_ms=5_000)
    settings = tidegate.Settings(cache=patiently)
    with tidegate.gate_on(engine, sessionmaker(engine), settings, on_close=engine.dispose) as gate:
        applier = gate._shards.every[0].applier
        assert applier is not None
        applier.ensure_started()
        yield gate


def wait_applied(server: Asking) -> None:
    """Write a row as a process without the cache does, but notify nobody, and wait until it is applied."""
    server.primary.execute(ROW)
    wait_for(lambda: server.primary.execute(f"SELECT count(*) FROM {OUTBOX.name}") == [(0,)], "the row is applied")


def assert_silent(caplog: pytest.LogCaptureFixture) -> None:
    assert not [piece for piece in PIECES if piece in caplog.text], caplog.text


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_the_outbox_is_applied_and_listened_to_in_every_way_to_the_server(
    server: Asking,
    driver: str,
    way: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "tidegate")
    engine: Engine = getattr(Ways(server, driver, tmp_path, monkeypatch), way)()
    with gate_on(engine, server):
        wait_applied(server)
        if driver == "psycopg":
            wait_listening(server, "tidegate-outbox")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING], caplog.text
    assert_silent(caplog)


@pytest.mark.parametrize("way", ["options_in_the_url", "several_hosts", "a_creator", "a_service", "a_socket"])
def test_the_catalogue_is_listened_to_in_every_way_too(
    server: Asking, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Engine = getattr(Ways(server, "psycopg", tmp_path, monkeypatch), way)()
    make_tables(engine)
    server.primary.execute("DELETE FROM tidegate_catalogue")
    catalogue, first = Catalogue(engine), even_map(["a", "b"])
    catalogue.publish(first, None)
    with closing(Follower.of(engine, poll_s=600)) as follower:
        assert follower.current() == first
        wait_listening(server, "tidegate-catalogue")
        second = first.with_slots_moved([1], "b")
        catalogue.publish(second, 1)
        wait_for(lambda: follower.current() == second, "it was notified")
    engine.dispose()


def test_the_outbox_s_listener_has_the_listeners_of_the_engine(server: Asking) -> None:
    engine = create_engine(server.primary.url)

    @event.listens_for(engine, "connect")
    def connected(raw: Any, _record: Any) -> None:
        raw.execute("SELECT pg_advisory_lock_shared(4711)")  # the connection's, and others can see it
        raw.commit()

    held = "SELECT 1 FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE objid = 4711 AND application_name = %s"
    with gate_on(engine, server):
        wait_for(lambda: bool(server.primary.execute(held, "tidegate-outbox")), "the listener was prepared")


def of_the_listener() -> bool:
    return threading.current_thread().name.endswith("-listener")


def by_creator(server: Asking, connect: Callable[[], Any]) -> Engine:
    """An engine that connects in the listener's thread as the function says, and else as it should."""
    arguments = server.arguments()
    return create_engine(
        "postgresql+psycopg://", creator=lambda: connect() if of_the_listener() else psycopg.connect(**arguments)
    )


def test_the_poll_goes_on_while_its_listener_hangs(server: Asking) -> None:
    hung, go_on = threading.Event(), threading.Event()

    def hang() -> Any:
        hung.set()
        go_on.wait()
        raise psycopg.OperationalError("it is over")

    with gate_on(by_creator(server, hang), server):
        assert hung.wait(60)
        wait_applied(server)
        wait_applied(server)
        go_on.set()


def test_the_poll_goes_on_without_its_listener_and_that_is_said_once_without_the_password(
    server: Asking, caplog: pytest.LogCaptureFixture
) -> None:
    tries = threading.Semaphore(0)

    def fail() -> Any:
        tries.release()
        return psycopg.connect(f"host=127.0.0.1 port={server.port} user={USER} password={PASSWORD}")

    with gate_on(by_creator(server, fail), server):
        for _ in range(3):
            assert tries.acquire(timeout=60)
        wait_applied(server)
    said = [message for message in caplog.messages if "tidegate-outbox is not notified" in message]
    assert len(said) == 1
    assert "in connection info string" in said[0]
    assert_silent(caplog)


def test_what_was_published_before_the_listener_listened_is_found_then(server: Asking) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def connect_late() -> Any:
        arrived.set()
        assert go_on.wait(60)
        return psycopg.connect(**server.arguments())

    engine = by_creator(server, connect_late)
    make_tables(engine)
    server.primary.execute("DELETE FROM tidegate_catalogue")
    catalogue, first = Catalogue(engine), even_map(["a", "b"])
    catalogue.publish(first, None)
    with closing(Follower.of(engine, poll_s=600)) as follower:
        assert follower.current() == first
        assert arrived.wait(60)
        wait_for(lambda: not follower._notified._news.is_set(), "the thread has begun")
        second = first.with_slots_moved([1], "b")
        catalogue.publish(second, 1)
        go_on.set()
        wait_for(lambda: follower.current() == second, "it has looked")
    engine.dispose()


def test_a_listener_that_lost_its_connection_listens_again(server: Asking) -> None:
    engine = create_engine(server.primary.url.replace("postgres@", f"{USER}:x@"), connect_args=server.arguments())
    with gate_on(engine, server):
        for _ in range(2):
            wait_listening(server, "tidegate-outbox")
            sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tidegate-outbox'"
            server.primary.execute(sql)
        wait_listening(server, "tidegate-outbox")


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_what_fails_later_is_said_without_the_password(
    server: Asking, driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_engine(f"postgresql+{driver}://", connect_args=server.arguments() | {"dbname": "tidegate"})
    with gate_on(engine, server):
        wait_applied(server)
        broken = f"host=127.0.0.1 port=1 user={USER} password={PASSWORD}"
        event.listen(engine, "do_connect", lambda dialect, *_: dialect.loaded_dbapi.connect(broken))
        engine.dispose()
        wait_for(lambda: "the outbox could not be applied" in caplog.text, "the failure is logged")
    assert "in connection info string" in caplog.text
    assert_silent(caplog)
