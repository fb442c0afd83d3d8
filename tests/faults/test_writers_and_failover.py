"""Processes that only write, also forked ones, and changes that are made known by hand, through failovers and lag."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from real_servers.deadlines import patient
from real_servers.one_tenant import from_cache, scene_on, warm
from real_servers.replicated import Note, Scene, caught_up, name_of, opened, pair_of, written
from sqlalchemy.exc import DBAPIError

from tidegate.cache.store import Change
from tidegate.errors import NoNodeAvailable, RoutingError
from tidegate.proxy.embedded.process import wait_for
from tidegate.proxy.tracking.notes import note_of

if TYPE_CHECKING:
    from tidegate.proxy.embedded import Cluster, PostgresNode


def write(scene: Scene, words: str) -> None:
    with scene.gate.session(scene.tenant) as session:
        session.add(Note(tenant_id=scene.tenant, words=words))
        session.commit()


def followed(scene: Scene, node: PostgresNode) -> None:
    wait_for(lambda: scene.nodes.topology.primary.name == name_of(node), f"{node.name} is followed", patient(10))


@pytest.mark.parametrize("cut", [True, False], ids=["cut", "refused"])
def test_a_process_that_only_writes_follows_and_commits_nothing_on_the_old_primary(cut: bool, two: Cluster) -> None:
    # Two rules cover each other: connections to the old primary are cut, and a commit on one that is not is refused.
    primary, replica, given = pair_of(two)
    with opened(given) as scene:
        if not cut:
            scene.nodes._lines.cut = lambda _left: None  # type: ignore[method-assign,assignment]
        write(scene, "one")
        with scene.gate.session(scene.tenant) as session:
            session.add(Note(tenant_id=scene.tenant, words="lost"))
            session.flush()
            caught_up(primary, replica)
            replica.promote()  # and the old primary goes on answering
            followed(scene, replica)
            with pytest.raises((NoNodeAvailable, DBAPIError) if cut else NoNodeAvailable):
                session.commit()
        write(scene, "two")
        assert written(primary, scene.tenant) == ["one"]
        assert written(replica, scene.tenant) == ["one", "two"]


def test_a_forked_process_that_only_writes_follows_too(two: Cluster) -> None:
    primary, replica, given = pair_of(two)
    with opened(given) as scene:
        write(scene, "one")
        caught_up(primary, replica)
        (go_read, go_write), (told_read, told_write) = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                write(scene, "of the child")
                os.write(told_write, b"1")
                os.read(go_read, 1)
                followed(scene, replica)
                write(scene, "after the failover")
                code = 0
            finally:
                os._exit(code)
        os.read(told_read, 1)
        caught_up(primary, replica)
        replica.promote()
        os.write(go_write, b"1")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert written(primary, scene.tenant) == ["one", "of the child"]
        assert written(replica, scene.tenant) == ["one", "of the child", "after the failover"]


def test_what_is_made_known_by_hand_is_not_refilled_from_a_replica_that_is_behind(two: Cluster) -> None:
    primary, replica, given = pair_of(two)
    with opened(given) as scene:
        scene.write("one")
        assert warm(scene) == ["one"]
        caught_up(primary, replica)
        replica.pause_replay()
        primary.execute("INSERT INTO notes (tenant_id, words) VALUES (%s, 'outside')", scene.tenant)
        scene.gate.invalidate(scene.tenant)
        for _ in range(20):
            assert scene.read() == ["one", "outside"]
        replica.resume_replay()
        assert warm(scene) == ["one", "outside"]


def test_by_hand_while_the_primary_is_away_nothing_is_served_that_was_stored_before(two: Cluster) -> None:
    primary, _, given = pair_of(two)
    with opened(given) as scene, scene_on(primary.url, two.cache.url, scene.tenant) as other:
        scene.write("one")
        assert warm(other) == ["one"]
        primary.kill()
        assert from_cache(other)
        scene.gate.invalidate(scene.tenant)
        with pytest.raises((DBAPIError, RoutingError)):
            other.read()
        primary.start()
        primary.execute("INSERT INTO notes (tenant_id, words) VALUES (%s, 'meanwhile')", scene.tenant)
        assert other.read() == ["one", "meanwhile"]


def test_by_hand_while_the_cache_is_away_the_outbox_tells_it_later(two: Cluster) -> None:
    primary, _, given = pair_of(two)
    with opened(given) as scene:
        scene.write("one")
        assert warm(scene) == ["one"]
        two.cache.pause()
        primary.execute("INSERT INTO notes (tenant_id, words) VALUES (%s, 'outside')", scene.tenant)
        scene.gate.invalidate(scene.tenant)
        by_hand = note_of([Change(scene.tenant, whole=True)])
        assert primary.execute("SELECT source, rows FROM tidegate_outbox WHERE source = ''") == [by_hand]
        two.cache.resume()
        wait_for(lambda: scene.read() == ["one", "outside"], "the outbox is applied", patient(10))
