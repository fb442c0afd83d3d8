"""Servers and databases that share a name, and those that are one under two names: ids tell them apart."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from real_servers.deadlines import patient
from real_servers.one_tenant import comes_to_read, goes_on_writing, make_table, scene_on, warm, when_unused
from real_servers.tcp_proxy import Proxy
from sqlalchemy import create_engine

from tidegate.proxy.embedded.process import wait_for
from tidegate.repositories.models import Base

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from real_servers.replicated import Scene

    from tidegate.proxy.embedded import Cluster, PostgresNode
    from tidegate.proxy.embedded.valkey import ValkeyNode


@pytest.fixture
def primary(cluster: Cluster) -> PostgresNode:
    return cluster.shards[0].primary


@pytest.fixture
def copy_of(primary: PostgresNode) -> Iterator[Callable[[str, str], str]]:
    """Makes a database beside another one, and returns its URL."""
    names: list[str] = []

    def make(url: str, how: str) -> str:
        names.append(f"copy_{uuid4().hex}")
        original = url.rsplit("/", 1)[1]
        statement = f"CREATE DATABASE {names[-1]} {how}".format(original=original)

        when_unused(primary, original, statement)  # a template must have no sessions
        return url.replace(original, names[-1])

    yield make
    for name in names:
        primary.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", database="postgres")


def database_of(scene: Scene) -> str:
    store: Any = scene.gate._parts.store
    return str(store._keys.marks_prefix())


@pytest.mark.parametrize("paths", [("app,public", "public,app"), ("public,app", "app,public"), ("app", "public,app")])
def test_two_search_paths_to_the_same_tables(database_url: str, valkey_url: str, paths: tuple[str, str]) -> None:
    urls = [f"{database_url}?options=-csearch_path%3D{path.replace(',', '%2C')}" for path in paths]
    engine = create_engine(f"{database_url}?options=-csearch_path%3Dapp")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA app")
    Base.metadata.create_all(engine)
    engine.dispose()
    make_table(f"{database_url}?options=-csearch_path%3Dapp")
    with scene_on(urls[0], valkey_url) as one, scene_on(urls[1], valkey_url, one.tenant) as two:
        assert database_of(one) == database_of(two)
        for turn in range(5):
            (one, two)[turn % 2].write(f"{turn}")
            so_far = [f"{n}" for n in range(turn + 1)]
            assert one.read() == two.read() == so_far
            assert warm(one) == warm(two) == so_far


def test_a_cache_under_another_name_is_the_same_cache(
    notes_url: str, valkey_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    other = valkey_url.replace("127.0.0.1", "localhost").replace("redis://", "redis://default:any@")
    with scene_on(notes_url, valkey_url) as one, scene_on(notes_url, other, one.tenant) as two:
        one.write("one")
        assert warm(two) == ["one"]
        two.write("two")
        assert one.read() == warm(one) == ["one", "two"]
    assert "does not serve" not in caplog.text


def test_one_url_that_leads_to_two_caches(
    notes_url: str,
    cluster: Cluster,
    valkey_url: str,
    start_valkey: Callable[..., ValkeyNode],
    caplog: pytest.LogCaptureFixture,
) -> None:
    second = start_valkey()
    with Proxy(cluster.cache.port) as between, ExitStack() as stack:
        behind = f"redis://127.0.0.1:{between.port}/0"
        moved = stack.enter_context(scene_on(notes_url, behind))
        kept = stack.enter_context(scene_on(notes_url, valkey_url, moved.tenant))
        moved.write("one")
        assert warm(moved) == warm(kept) == ["one"]
        between.server_port = second.port
        between.cut()
        so_far = ["one"]
        for turn in range(5):
            kept.write(f"{turn}")
            so_far.append(f"{turn}")
            assert moved.read() == kept.read() == so_far
        moved.write("by the outbox")
        so_far.append("by the outbox")
        assert moved.read() == so_far
        comes_to_read(kept, *so_far)
        with caplog.at_level(logging.ERROR):
            third = stack.enter_context(scene_on(notes_url, behind, moved.tenant))
            wait_for(lambda: "--cache-url" in caplog.text, "it says how to change over", patient(20))
        for turn in range(5):
            kept.write(f"again {turn}")
            so_far.append(f"again {turn}")
            assert third.read() == moved.read() == kept.read() == so_far
        assert warm(kept) == so_far
        third.write("the last")
        comes_to_read(kept, *so_far, "the last")


def test_a_cache_that_was_started_anew_without_its_data_serves_again(
    notes_url: str, start_valkey: Callable[..., ValkeyNode]
) -> None:
    node = start_valkey()
    with scene_on(notes_url, node.url) as one, scene_on(notes_url, node.url, one.tenant) as two:
        one.write("one")
        assert warm(one) == warm(two) == ["one"]
        node.kill()
        one.write("two")
        assert one.read() == two.read() == ["one", "two"]
        node.start()
        for turn in range(3):
            one.write(f"{turn}")
            assert two.read() == one.read()
        assert warm(one) == warm(two) == ["one", "two", "0", "1", "2"]
        two.write("three")
        assert one.read() == warm(one) == ["one", "two", "0", "1", "2", "three"]


def test_a_flushed_cache_keeps_its_name(notes_url: str, start_valkey: Callable[..., ValkeyNode]) -> None:
    node = start_valkey()
    with scene_on(notes_url, node.url) as one:
        one.write("one")
        assert warm(one) == ["one"]
        node.flush()
        with scene_on(notes_url, node.url, one.tenant) as two:
            two.write("two")
            assert warm(two) == one.read() == warm(one) == ["one", "two"]


def test_a_copy_by_template_on_the_same_cache(
    notes_url: str, valkey_url: str, copy_of: Callable[[str, str], str]
) -> None:
    with scene_on(notes_url, valkey_url) as original:
        original.write("one")
        assert warm(original) == ["one"]
        copied = copy_of(notes_url, "TEMPLATE {original}")
        _apart(original, copied, valkey_url)


def test_a_dump_that_was_restored_on_the_same_cache(
    notes_url: str, valkey_url: str, copy_of: Callable[[str, str], str]
) -> None:
    with scene_on(notes_url, valkey_url) as original:
        original.write("one")
        assert warm(original) == ["one"]
        restored = copy_of(notes_url, "")
        make_table(restored)
        _restore(notes_url, restored, "notes", "tidegate_state")
        _apart(original, restored, valkey_url)


def _restore(dumped: str, into: str, *tables: str) -> None:
    from tidegate.proxy.database.schema import make_tables

    source, target = create_engine(dumped), create_engine(into)
    make_tables(target)
    for table in tables:
        with source.connect() as reading, target.begin() as writing:
            rows = reading.exec_driver_sql(f"SELECT * FROM {table}").all()
            marks = ", ".join(["%s"] * len(rows[0]))
            for row in rows:
                writing.exec_driver_sql(f"INSERT INTO {table} VALUES ({marks})", tuple(row))
    with target.begin() as writing:
        writing.exec_driver_sql("SELECT setval('notes_id_seq', 1000)")
    source.dispose()
    target.dispose()


def _apart(original: Scene, copied: str, valkey_url: str) -> None:
    with scene_on(copied, valkey_url, original.tenant) as copy:
        assert database_of(copy) != database_of(original)
        firsts = ["one"]
        seconds = ["one"]
        for turn in range(5):
            assert (original.read(), copy.read()) == (firsts, seconds)
            original.write(f"here {turn}")
            firsts.append(f"here {turn}")
            assert (copy.read(), original.read()) == (seconds, firsts)
            copy.write(f"there {turn}")
            seconds.append(f"there {turn}")
        assert (warm(original), warm(copy)) == (firsts, seconds)


def test_a_database_that_was_dropped_and_made_anew_under_its_name(
    primary: PostgresNode, notes_url: str, valkey_url: str
) -> None:
    name = notes_url.rsplit("/", 1)[1]
    with scene_on(notes_url, valkey_url) as running:
        running.write("one")
        assert warm(running) == ["one"]
        primary.execute(f"DROP DATABASE {name} WITH (FORCE)", database="postgres")
        primary.execute(f"CREATE DATABASE {name}", database="postgres")
        make_table(notes_url)
        with scene_on(notes_url, valkey_url, running.tenant) as new:
            assert new.read() == []
            comes_to_read(running)
            goes_on_writing(new, "two")
            assert new.read() == running.read() == warm(new) == ["two"]
            goes_on_writing(running, "three")
            assert running.read() == ["two", "three"]
            comes_to_read(new, "two", "three")
