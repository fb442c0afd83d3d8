"""Promotions, restores and copies: what one history has committed, another one does not answer with."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from real_servers.one_tenant import (
    comes_to_read,
    from_cache,
    goes_on_writing,
    make_table,
    put_back,
    saved,
    scene_on,
    warm,
)
from real_servers.replicated import Note, caught_up, make_notes, name_of, opened, settings, written
from sqlalchemy import text
from typer.testing import CliRunner

import tidegate
from tidegate.cache.store import Change, Miss
from tidegate.proxy.cli.app import app
from tidegate.proxy.embedded import Cluster
from tidegate.proxy.settings import CacheSettings

_TIMELINE = "SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def one() -> Iterator[Cluster]:
    with Cluster() as cluster:
        make_table(cluster.shards[0].primary.url)
        yield cluster


@pytest.fixture
def three() -> Iterator[Cluster]:
    """A primary and two replicas."""
    with Cluster(replicas=2) as cluster:
        make_notes(cluster)
        yield cluster


def test_a_volume_that_goes_back_to_a_snapshot(one: Cluster, servers_folder: Path) -> None:
    primary, cache = one.shards[0].primary, one.cache.url
    with scene_on(primary.url, cache) as scene:
        scene.write("one")
        copy = saved(primary, servers_folder)
        goes_on_writing(scene, "two")
        assert warm(scene) == ["one", "two"]
        put_back(primary, copy)
        # The log is soon as long as it was: no position tells.
        primary.execute("CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 5000)")
        with scene_on(primary.url, cache, scene.tenant) as late:
            assert late.read() == ["one"]
            comes_to_read(scene, "one")
            scene.write("three")
            assert late.read() == scene.read() == warm(late) == ["one", "three"]


def test_a_restart_that_lost_nothing_is_a_new_history_too(one: Cluster) -> None:
    primary = one.shards[0].primary
    with scene_on(primary.url, one.cache.url) as scene:
        scene.write("one")
        assert warm(scene) == ["one"]
        before = scene.gate._shards.every[0].histories.asked.history
        primary.stop()
        primary.start()
        goes_on_writing(scene, "two")
        assert warm(scene) == ["one", "two"]
        assert scene.gate._shards.every[0].histories.asked.history.ordinal == before.ordinal + 1


def test_a_new_history_is_above_one_that_only_the_cache_knows(two: Cluster) -> None:
    primary, replica = two.shards[0].primary, two.shards[0].replicas[0]
    with scene_on(primary.url, two.cache.url) as scene:
        scene.write("one")
        caught_up(primary, replica)
        replica.stop()
        for _ in range(2):
            primary.stop()
            primary.launch()
            goes_on_writing(scene, "lost")
        named = scene.gate._shards.every[0].histories.asked.history
        tenant = scene.tenant
    primary.kill()
    replica.launch()
    replica.promote()
    with scene_on(replica.url, two.cache.url, tenant) as late:
        assert late.read() == ["one"]
        goes_on_writing(late, "two")
        assert warm(late) == ["one", "two"]
        assert late.gate._shards.every[0].histories.asked.history.ordinal == named.ordinal + 1


def test_a_failover_that_lost_the_triggers(two: Cluster) -> None:
    """Until a gate has seen that they are there again, nobody caches what they would have noted."""
    primary, replica = two.shards[0].primary, two.shards[0].replicas[0]
    given = settings(primary.port, replica.port, cache=CacheSettings(url=two.cache.url))
    tidegate.connect(given).close()  # makes all but the triggers of the notes
    caught_up(primary, replica)
    replica.stop()
    with opened(given) as scene:
        scene.write("lost")
        assert warm(scene) == ["lost"]
        primary.kill()
        replica.launch()
        replica.promote()
        goes_on_writing(scene, "0")
        so_far = ["0"]
        for number in range(1, 40):
            assert [scene.read() for _ in range(3)] == [so_far] * 3
            scene.write(f"{number}")
            so_far.append(f"{number}")
        assert warm(scene) == so_far
        assert replica.execute("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'notes'::regclass") == [(5,)]


def test_a_failover_that_lost_a_commit_which_an_entry_holds(two: Cluster) -> None:
    primary, replica = two.shards[0].primary, two.shards[0].replicas[0]
    with opened(settings(primary.port, replica.port, cache=CacheSettings(url=two.cache.url))) as scene:
        scene.write("one")
        caught_up(primary, replica)
        replica.stop()
        scene.write("lost")
        assert warm(scene) == ["one", "lost"]
        primary.kill()
        replica.launch()
        replica.promote()
        assert written(replica, scene.tenant) == ["one"]
        comes_to_read(scene, "one")
        goes_on_writing(scene, "two")
        assert scene.read() == warm(scene) == ["one", "two"]


def test_two_promoted_one_after_the_other_to_the_same_timeline(three: Cluster) -> None:
    primary, (first, second) = three.shards[0].primary, three.shards[0].replicas
    cache = CacheSettings(url=three.cache.url, read_timeout_ms=5_000)
    with opened(settings(primary.port, first.port, second.port, cache=cache)) as scene:
        scene.write("one")
        caught_up(primary, first, second)
        primary.kill()
        first.promote()
        goes_on_writing(scene, "only on the first")
        assert warm(scene) == ["one", "only on the first"]
        first.kill()
        second.promote()
        assert second.execute(_TIMELINE) == [("00000002",)]
        goes_on_writing(scene, "two")  # a running gate follows, although the timeline is no higher
        assert scene.nodes.topology.primary.name == name_of(second)
        assert scene.read() == warm(scene) == written(second, scene.tenant) == ["one", "two"]
        first.launch()  # and comes back, as it was
        for turn in range(10):
            scene.write(f"{turn}")
            assert scene.read() == written(second, scene.tenant)
        with scene_on(first.url, three.cache.url, scene.tenant) as left:
            assert left.read() == ["one", "only on the first"]
            assert scene.read() == written(second, scene.tenant)


def test_a_primary_of_before_a_failover(two: Cluster) -> None:
    primary, replica = two.shards[0].primary, two.shards[0].replicas[0]
    with scene_on(primary.url, two.cache.url) as old:
        old.write("one")
        caught_up(primary, replica)
        tenant = old.tenant
    primary.stop()
    replica.promote()
    with scene_on(replica.url, two.cache.url, tenant) as new:
        new.write("after the failover")
        assert warm(new) == ["one", "after the failover"]
    replica.kill()
    primary.launch()
    with scene_on(primary.url, two.cache.url, tenant) as again:
        assert again.read() == ["one"]
        again.write("two")
        assert again.read() == warm(again) == ["one", "two"]


def test_a_gate_left_on_a_demoted_primary_closes_nothing_of_the_new_one(two: Cluster) -> None:
    primary, replica = two.shards[0].primary, two.shards[0].replicas[0]
    with ExitStack() as stack:
        left = stack.enter_context(scene_on(primary.url, two.cache.url))
        left.write("one")
        assert warm(left) == ["one"]
        caught_up(primary, replica)
        replica.promote()
        new = stack.enter_context(scene_on(replica.url, two.cache.url, left.tenant))
        new.write("two")
        assert warm(new) == ["one", "two"]
        writer = stack.enter_context(new.gate.engine.connect())
        ((xid,),) = writer.execute(text("SELECT pg_current_xact_id()::text")).all()
        writer.execute(Note.__table__.insert().values(tenant_id=new.tenant, words="three"))  # type: ignore[attr-defined]
        store, shard = new.gate._parts.store, new.gate._shards.every[0]
        origin = shard.primary.origin(new.tenant)
        assert store is not None
        assert origin is not None
        store.open([Change(new.tenant, frozenset({"notes"}))], xid, origin, ["never"])
        for _ in range(5):
            assert left.read() == ["one"]  # what its own server has
            left.write("one")  # goes into its own outbox
            new.read()
            found = store.lookup(new.tenant, "-", "notes", shard.histories.asked)
            assert isinstance(found, Miss)
            assert (list(found.intents), found.origin) == ([xid], origin)
            primary.execute("DELETE FROM notes WHERE words = 'one' AND id > 1")
        writer.rollback()


def test_a_physical_copy_that_was_promoted_for_itself(two: Cluster) -> None:
    primary, replica = two.shards[0].primary, two.shards[0].replicas[0]
    with ExitStack() as stack:
        kept = stack.enter_context(scene_on(primary.url, two.cache.url))
        kept.write("one")
        assert warm(kept) == ["one"]
        caught_up(primary, replica)
        replica.promote()
        staging = stack.enter_context(scene_on(replica.url, two.cache.url, kept.tenant))
        for turn in range(10):
            for scene, node in ((kept, primary), (staging, replica)):
                assert scene.read() == written(node, scene.tenant)
                scene.write(f"{turn} on {node.name}")
                assert scene.read() == written(node, scene.tenant)
                assert kept.read() == written(primary, kept.tenant)
        assert warm(staging) == written(replica, kept.tenant)
        assert not from_cache(kept), "what is left behind stores nothing"
        done = CliRunner().invoke(app, ["init", "--new-history", "--url", primary.url])
        assert done.exit_code in (0, 2), done.output  # the indexes are of tables that are not here
        assert warm(kept) == written(primary, kept.tenant)
        assert staging.read() == written(replica, staging.tenant)
