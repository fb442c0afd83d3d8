"""A primary that dies, or freezes and comes back: reads go on, writes find the promoted replica, nothing is lost."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

import pytest
from real_servers.deadlines import patient
from real_servers.one_tenant import goes_on_writing
from real_servers.replicated import (
    HELD_S,
    Note,
    Scene,
    caught_up,
    held_on,
    in_background,
    make_notes,
    name_of,
    opened,
    settings,
    written,
)
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError

from tidegate.errors import NoNodeAvailable, RoutingError
from tidegate.proxy.embedded import Cluster
from tidegate.proxy.embedded.process import wait_for
from tidegate.proxy.settings import CacheSettings
from tidegate.routing.events import Passed, Promoted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.proxy.embedded import PostgresNode

CONNECT_S: Final = 5.0
FOUND_S: Final = 10.0
"""In which a promoted replica is found: some polls."""


@contextmanager
def three(*, cache: bool = False) -> Iterator[tuple[Cluster, PostgresNode, PostgresNode, PostgresNode]]:
    """A primary, and its replicas."""
    with Cluster(replicas=2, cache=cache) as cluster:
        make_notes(cluster)
        shard = cluster.shards[0]
        first, second = shard.replicas
        yield cluster, shard.primary, first, second


@pytest.mark.parametrize("cached", [False, True])
def test_a_killed_primary_and_its_promoted_replica(cached: bool) -> None:
    with three(cache=cached) as (cluster, primary, first, second):
        cache = CacheSettings(url=cluster.cache.url, read_timeout_ms=5_000) if cached else None
        given = settings(primary.port, first.port, second.port, cache=cache)
        with opened(given) as scene, opened(given, own_engine=True) as other:
            other.tenant = scene.tenant
            scene.write("one")
            wait_for(
                lambda: scene.answers(lambda: scene.notes.held(scene.tenant, [])) != name_of(primary),
                "marks are clean, replicas answer",
            )
            scene.write("two")
            scene.await_reached()
            caught_up(primary, first, second)
            primary.kill()
            began_s = time.monotonic()
            for _ in range(20):
                assert scene.read() == ["one", "two"]  # the first of them a miss, where there is a cache
            assert scene.notes.held(scene.tenant, []) == ["one", "two"]
            assert time.monotonic() - began_s < patient(CONNECT_S)
            began_s = time.monotonic()
            with pytest.raises((OperationalError, RoutingError)):
                scene.write("nobody takes this")
            with pytest.raises((OperationalError, RoutingError)):
                scene.notes.on_primary(scene.tenant)
            assert time.monotonic() - began_s < 2 * patient(CONNECT_S)

            first.promote()
            goes_on_writing(scene, "three")
            goes_on_writing(other, "four")
            assert [event.node for event in scene.seen(Promoted)] == [name_of(first)]
            now = ["one", "two", "three", "four"]
            assert written(first, scene.tenant) == now
            for one in (scene, other):
                assert one.notes.on_primary(one.tenant) == now
                assert one.notes.held(one.tenant, [])[:3] == now[:3], "its own writes at least"
                assert one.nodes.topology.primary.name == name_of(first)

            second.follow(first)
            wait_for(lambda: scene.answers(lambda: scene.notes.held(scene.tenant, [])) == name_of(second), "it answers")
            scene.write("five")
            caught_up(first, second)
            wait_for(lambda: scene.answers(lambda: scene.notes.held(scene.tenant, [])) == name_of(second), "it answers")
            assert scene.read() == [*now, "five"]

            # Split brain: the old primary comes back as it was.
            primary.start()
            before = written(primary, scene.tenant)
            for turn in range(20):
                scene.write(f"after {turn}")
                other.write(f"other {turn}")
                assert f"after {turn}" in scene.read()
            assert written(primary, scene.tenant) == before == ["one", "two"]
            with opened(given) as late:
                late.tenant = scene.tenant
                late.write("late")
                assert "late" in late.notes.on_primary(late.tenant)
            assert written(primary, scene.tenant) == before
            assert name_of(primary) not in late.answered()


@pytest.mark.parametrize("own_engine", [False, True])
def test_nothing_reaches_a_primary_that_was_frozen_while_another_was_promoted(own_engine: bool) -> None:
    with three() as (_, primary, first, second):
        given = settings(primary.port, first.port, second.port)
        with opened(given, own_engine=own_engine) as scene:
            for words in ("one", "two"):
                scene.write(words)
            scene.await_reached()
            caught_up(primary, first, second)
            with ExitStack() as stack:  # as many connections in the pool
                for _ in range(3):
                    stack.enter_context(scene.gate.session(scene.tenant)).execute(text("SELECT 1"))
            with scene.gate.session(scene.tenant) as idle:
                idle.add(Note(tenant_id=scene.tenant, words="lost"))
                idle.flush()
                primary.pause()
                # Two wait on connections that they had, and one for a new connection.
                waiting = [in_background(lambda: scene.write("stuck"))]
                waiting += [in_background(lambda: scene.notes.on_primary(scene.tenant))]
                wait_for(lambda: scene.gate.engine.pool.checkedout() == 3, "both have begun")  # type: ignore[attr-defined]
                connecting = in_background(lambda: scene.notes.on_primary(scene.tenant))
                first.promote()
                second.follow(first)
                began_s = time.monotonic()
                wait_for(lambda: bool(scene.seen(Promoted)), "the promoted replica is found", FOUND_S)
                for future in waiting:  # they end, on the promoted one or with an error
                    future.exception(HELD_S)
                assert time.monotonic() - began_s < patient(FOUND_S)
                scene.write("three")
                primary.resume()
                # It may have been too late. But it has waited for the old one, and must not read from that.
                assert connecting.exception(HELD_S) is not None or connecting.result()[-1] == "three"
                with pytest.raises(NoNodeAvailable, match="nothing was committed"):
                    idle.commit()
            for turn in range(20):
                scene.write(f"after {turn}")
                assert scene.notes.on_primary(scene.tenant)[-1] == f"after {turn}"
                assert scene.read()[-1] == f"after {turn}"
            answered = scene.answered()
            wait_for(lambda: scene.nodes.topology.nodes[0].view is not None, "the old one answers its monitor")
            for turn in range(20, 40):
                scene.write(f"after {turn}")
                assert scene.read()[-1] == f"after {turn}"
            wait_for(lambda: scene.answers(scene.read) == name_of(second), "the other one is a replica of the new one")
            assert scene.answered().get(name_of(primary)) == answered.get(name_of(primary))
            assert written(primary, scene.tenant) == ["one", "two"]
            assert "lost" not in written(first, scene.tenant)


def test_a_replica_of_the_lost_timeline_answers_nobody() -> None:
    # It has received what the promoted one has not: its log is longer, and none of that has happened.
    with three() as (_, primary, first, second), opened(settings(primary.port, first.port, second.port)) as scene:
        scene.write("one")
        scene.await_reached()
        first.execute("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'")
        first.execute("SELECT pg_reload_conf()")
        wait_for(lambda: not first.execute("SELECT 1 FROM pg_stat_wal_receiver"), "the first receives nothing")
        for turn in range(50):
            scene.write(f"lost {turn}")
        token = scene.gate.token(scene.tenant)
        caught_up(primary, second)
        primary.kill()
        first.promote()
        wait_for(lambda: bool(scene.seen(Promoted)), "the promoted replica is found", FOUND_S)
        stranger = str(scene.tenant)
        with opened(settings(first.port, primary.port, second.port)) as other:
            other.tenant = scene.tenant
            # Nobody told this gate of any write.
            assert {other.answers(other.read) for _ in range(10)} == {name_of(first)}
            assert other.read() == ["one"]
            with other.gate.session(other.tenant, token=token):
                assert {other.answers(other.read) for _ in range(10)} == {name_of(first)}
        assert {scene.answers(scene.read) for _ in range(10)} == {name_of(first)}
        assert scene.read() == ["one"]
        assert written(second, stranger)[-1] == "lost 49", "the test wants it to be further"


def test_a_read_that_runs_on_the_primary_as_it_is_killed_is_answered_by_a_replica_that_has_caught_up() -> None:
    with three() as (_, primary, first, second), opened(settings(primary.port, first.port, second.port)) as scene:
        scene.write("one")
        scene.await_reached()
        for replica in (first, second):
            replica.pause_replay()
        scene.write("two")
        read = in_background(lambda: scene.notes.held(scene.tenant, [primary.port]))
        held_on(primary)
        for replica in (first, second):
            replica.resume_replay()
        scene.await_reached()
        began_s = time.monotonic()
        primary.kill()
        assert read.result(HELD_S) == ["one", "two"]
        assert time.monotonic() - began_s < patient(CONNECT_S)
        assert scene.calls("held") == 1
        assert name_of(primary) in scene.seen(Passed)[-1].node


def test_a_replica_that_has_lost_its_standby_signal_never_becomes_the_primary() -> None:
    # It says that it is a primary, of this cluster, on this timeline; a promotion would have begun another.
    with three() as (_, primary, first, second):
        given = settings(primary.port, first.port, second.port)
        with opened(given) as scene:
            scene.write("one")
            scene.await_reached()
            caught_up(primary, first)
            first.stop()
            (first._folder / "standby.signal").unlink()
            first.launch()
            wait_for(lambda: is_a_primary(scene, first), "its monitor has seen it")
            scene.write("two")
            caught_up(primary, second)
            primary.kill()
            wait_for(lambda: scene.nodes.topology.nodes[0].view is None, "the primary is missed")
            asked_s = time.monotonic()
            wait_for(lambda: is_a_primary(scene, first, asked_s), "its monitor has seen it")
            with pytest.raises((DBAPIError, RoutingError)):
                scene.write("nobody takes this")
            assert scene.read() == ["one", "two"]
            primary.start()
            goes_on_writing(scene, "three")
        for turn in range(5):  # whoever answers first
            with opened(given) as late:
                late.tenant = scene.tenant
                late.write(f"{turn}")
        assert written(first, scene.tenant) == ["one"]
        assert len(written(primary, scene.tenant)) == 8


def is_a_primary(scene: Scene, node: PostgresNode, since_s: float = 0.0) -> bool:
    """Whether the gate has heard *node* say so, asked after *since_s*."""
    known = scene.nodes.topology.node(name_of(node))
    return known is not None and known.view is not None and not known.view.standby and known.view.asked_s > since_s
