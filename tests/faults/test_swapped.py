"""What changes under running gates and keeps its name: databases and caches that are swapped, tables that move."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import psycopg
import pytest
import redis
from real_servers.deadlines import patient
from real_servers.one_tenant import comes_to_read, goes_on_writing, make_table, scene_on, warm, when_unused
from real_servers.tcp_proxy import Proxy
from sqlalchemy import create_engine

from tidegate.cache.store import Change
from tidegate.proxy.embedded import Cluster
from tidegate.proxy.embedded.process import give_to_server, wait_for
from tidegate.proxy.tracking.notes import Note, note_of
from tidegate.repositories.models import Base

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.proxy.embedded import PostgresNode
    from tidegate.proxy.embedded.valkey import ValkeyNode

_OURS = ("history", "database", "cache")


@pytest.fixture
def primary(cluster: Cluster) -> PostgresNode:
    return cluster.shards[0].primary


def test_a_copy_that_takes_the_name_of_its_original(primary: PostgresNode, notes_url: str, valkey_url: str) -> None:
    name = notes_url.rsplit("/", 1)[1]
    copy = f"copy_{uuid4().hex}"
    with scene_on(notes_url, valkey_url) as running:
        running.write("one")
        assert warm(running) == ["one"]
        when_unused(primary, name, f"CREATE DATABASE {copy} TEMPLATE {name}")
        goes_on_writing(running, "only in the original")
        assert warm(running) == ["one", "only in the original"]
        when_unused(primary, name, f"ALTER DATABASE {name} RENAME TO {copy}_old")
        primary.execute(f"ALTER DATABASE {copy} RENAME TO {name}", database="postgres")
        comes_to_read(running, "one")
        with scene_on(notes_url, valkey_url, running.tenant) as new:
            so_far = ["one"]
            for turn in range(3):
                new.write(f"{turn}")
                running.write(f"again {turn}")
                so_far += [f"{turn}", f"again {turn}"]
                assert running.read() == so_far
                comes_to_read(new, *so_far)
            assert warm(new) == so_far
    primary.execute(f"DROP DATABASE {copy}_old WITH (FORCE)", database="postgres")


def test_a_database_that_is_renamed_is_the_same_one(primary: PostgresNode, notes_url: str, valkey_url: str) -> None:
    name = notes_url.rsplit("/", 1)[1]
    with scene_on(notes_url, valkey_url) as before:
        before.write("one")
        assert warm(before) == ["one"]
        when_unused(primary, name, f"ALTER DATABASE {name} RENAME TO {name}_new")
        with scene_on(f"{notes_url}_new", valkey_url, before.tenant) as after:
            after.write("two")
            assert warm(after) == ["one", "two"]
            when_unused(primary, f"{name}_new", f"ALTER DATABASE {name}_new RENAME TO {name}")
            comes_to_read(before, "one", "two")
            before.write("three")
            assert warm(before) == ["one", "two", "three"]


@pytest.mark.parametrize("together", [False, True])
def test_tables_that_move_to_another_schema(
    together: bool, primary: PostgresNode, database_url: str, valkey_url: str
) -> None:
    name = database_url.rsplit("/", 1)[1]
    engine = create_engine(database_url)
    Base.metadata.create_all(engine)
    engine.dispose()
    make_table(database_url)
    paths = ["public%2Capp", "app%2Cpublic"]
    urls = [f"{database_url}?options=-csearch_path%3D{path}" for path in paths]
    with scene_on(urls[0], valkey_url) as one:
        one.write("one")
        assert warm(one) == ["one"]
        if together:
            primary.execute("ALTER SCHEMA public RENAME TO app", database=name)
        else:
            primary.execute("CREATE SCHEMA app", database=name)
            for table in ("notes", *Base.metadata.tables):
                primary.execute(f"ALTER TABLE {table} SET SCHEMA app", database=name)
        so_far = ["one"]
        with scene_on(urls[1], valkey_url, one.tenant) as two:
            for turn in range(6):
                goes_on_writing((one, two)[turn % 2], f"{turn}")
                so_far.append(f"{turn}")
                assert (one.read(), two.read()) == (so_far, so_far)
                assert (warm(one), warm(two)) == (so_far, so_far)


@pytest.mark.parametrize("row", ["", *_OURS])
def test_rows_of_ours_that_somebody_deletes(row: str, primary: PostgresNode, notes_url: str, valkey_url: str) -> None:
    name = notes_url.rsplit("/", 1)[1]
    with scene_on(notes_url, valkey_url) as one, scene_on(notes_url, valkey_url, one.tenant) as two:
        one.write("one")
        assert warm(two) == ["one"]
        gone = f"DELETE FROM tidegate_state WHERE name = '{row}'" if row else "TRUNCATE tidegate_state"
        primary.execute(gone, database=name)
        found = "SELECT 1 FROM tidegate_state WHERE name = ANY(%s)"
        wait_for(
            lambda: len(primary.execute(found, list(_OURS), database=name)) == len(_OURS), "they are back", patient(10)
        )
        so_far = ["one"]
        with scene_on(notes_url, valkey_url, one.tenant) as three:
            for turn in range(9):
                (one, two, three)[turn % 3].write(f"{turn}")
                so_far.append(f"{turn}")
                for scene in (one, two, three):  # what no history is known for goes into the outbox
                    comes_to_read(scene, *so_far)
            assert warm(one) == warm(two) == warm(three) == so_far


def test_a_change_is_told_although_no_cache_is_recorded(notes_url: str, valkey_url: str) -> None:
    with scene_on(notes_url, valkey_url) as scene:
        scene.write("one")
        shard = scene.gate._shards.every[0]
        with scene.gate.engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM tidegate_state")
            changes = [Change(scene.tenant, whole=True)]
            shard.outbox.put(cast("Any", connection), changes)
            found = connection.exec_driver_sql("SELECT source, rows FROM tidegate_outbox").all()
            assert note_of(changes) in [Note(*row) for row in found]
            connection.rollback()


@pytest.fixture
def replicated_cache(start_valkey: Callable[..., ValkeyNode]) -> tuple[ValkeyNode, ValkeyNode]:
    """A cache and its replica: such a cache saves its replication id too."""
    first = start_valkey()
    second = start_valkey("--replicaof", "127.0.0.1", str(first.port))

    def follows() -> bool:
        with redis.Redis.from_url(second.url) as client:
            return bool(client.info("replication")["master_link_status"] == "up")

    wait_for(follows, "the replica follows")
    return first, second


def test_a_clone_of_the_cache_under_its_name(
    notes_url: str, replicated_cache: tuple[ValkeyNode, ValkeyNode], start_valkey: Callable[..., ValkeyNode]
) -> None:
    first, second = replicated_cache[0], start_valkey()
    with Proxy(first.port) as between, ExitStack() as stack:
        moved = stack.enter_context(scene_on(notes_url, f"redis://127.0.0.1:{between.port}/0"))
        kept = stack.enter_context(scene_on(notes_url, first.url, moved.tenant))
        moved.write("one")
        assert warm(moved) == warm(kept) == ["one"]
        clone(first, second)
        between.server_port = second.port
        between.cut()
        so_far = ["one"]
        for turn in range(100):
            kept.write(f"{turn}")
            so_far.append(f"{turn}")
            assert moved.read() == kept.read() == so_far
            moved.read()
        moved.write("by the outbox")
        comes_to_read(kept, *so_far, "by the outbox")
        assert warm(kept) == [*so_far, "by the outbox"]


def clone(first: ValkeyNode, second: ValkeyNode) -> None:
    """Start the second server anew with what the first one has saved."""
    with redis.Redis.from_url(first.url) as client:
        client.save()
    second.stop()
    (second._folder / "dump.rdb").write_bytes((first._folder / "dump.rdb").read_bytes())
    give_to_server(second._folder)
    second.start()
    with redis.Redis.from_url(second.url) as client, redis.Redis.from_url(first.url) as original:
        assert client.info("replication")["master_replid2"] == original.info("replication")["master_replid"]
        assert client.keys("*")


def test_a_replica_of_the_cache_that_takes_over_serves_after_a_while(
    notes_url: str, replicated_cache: tuple[ValkeyNode, ValkeyNode]
) -> None:
    first, second = replicated_cache
    with Proxy(first.port) as between, ExitStack() as stack:
        behind = f"redis://127.0.0.1:{between.port}/0"
        one = stack.enter_context(scene_on(notes_url, behind))
        two = stack.enter_context(scene_on(notes_url, behind, one.tenant))
        one.write("one")
        assert warm(one) == warm(two) == ["one"]
        first.kill()
        with redis.Redis.from_url(second.url) as client:
            client.replicaof("NO", "ONE")
        between.server_port = second.port
        between.cut()
        for turn in range(5):
            one.write(f"{turn}")
            assert one.read() == two.read()
        assert warm(one) == warm(two) == ["one", "0", "1", "2", "3", "4"]
        two.write("the last")
        assert one.read() == warm(one) == ["one", "0", "1", "2", "3", "4", "the last"]


def test_a_crash_that_the_server_gets_over_by_itself_and_that_loses_commits() -> None:
    with Cluster(postgres_settings={"wal_writer_delay": "10s"}) as cluster:
        primary = cluster.shards[0].primary
        make_table(primary.url)
        with scene_on(primary.url, cluster.cache.url) as scene:
            scene.write("one")
            primary.execute("CHECKPOINT")
            assert warm(scene) == ["one"]
            started = "SELECT pg_postmaster_start_time()::text"
            before = primary.execute(started)
            scene.write("lost")
            assert warm(scene) == ["one", "lost"]
            ours = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = 'tidegate'"
            ((killed,), *_) = primary.execute(ours)
            os.kill(killed, signal.SIGKILL)

            def is_back() -> bool:
                with suppress(psycopg.OperationalError):
                    return primary.execute(f"SELECT 1 FROM pg_stat_activity WHERE pid = {killed}") == []
                return False

            wait_for(is_back, "the server has got over the crash", patient(20))
            assert primary.execute(started) == before
            assert primary.execute("SELECT words FROM notes") == [("one",)]
            comes_to_read(scene, "one")
            goes_on_writing(scene, "two")
            assert warm(scene) == ["one", "two"]
