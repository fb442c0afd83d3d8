"""Servers of another cluster, tokens between gates, commits whose answer is lost, on real servers."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from real_servers.replicated import (
    Note,
    Scene,
    caught_up,
    make_notes,
    name_of,
    opened,
    settings,
    written,
)
from real_servers.tcp_proxy import Proxy
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, OperationalError

from tidegate.errors import CommitUnknown, RoutingError
from tidegate.position import NOWHERE
from tidegate.proxy.embedded import Cluster
from tidegate.proxy.embedded.process import wait_for
from tidegate.proxy.settings import CacheSettings
from tidegate.routing.events import Passed, Promoted
from tidegate.routing.replicas.choose import ReplicaRequirement, refusal
from tidegate.routing.replicas.token import Token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.proxy.embedded import PostgresNode


@pytest.fixture(scope="module")
def strangers() -> Iterator[Cluster]:
    """A cluster that has nothing to do with the other, and whose log is much longer."""
    with Cluster(replicas=1, cache=False) as cluster:
        make_notes(cluster)
        cluster.shards[0].primary.execute(
            "INSERT INTO notes (tenant_id, words) SELECT i, i FROM generate_series(1, 9999) i"
        )
        caught_up(cluster.shards[0].primary, *cluster.shards[0].replicas)
        yield cluster


@pytest.fixture
def primary(replicated: Cluster) -> PostgresNode:
    return replicated.shards[0].primary


@pytest.fixture
def replica(replicated: Cluster) -> PostgresNode:
    return replicated.shards[0].replicas[0]


def why(scene: Scene, port: int) -> str:
    """Why the server on *port* must not answer."""
    node = scene.nodes.topology.node(name_of(port))
    assert node is not None
    wanted = ReplicaRequirement(NOWHERE)
    return refusal(node, wanted, scene.nodes.topology, 0.0) or "it may"


def test_a_replica_of_another_cluster_is_refused(primary: PostgresNode, strangers: Cluster) -> None:
    stranger = strangers.shards[0].replicas[0]
    with opened(settings(primary.port, stranger.port)) as scene:
        scene.write("one")
        assert {scene.answers(scene.read) for _ in range(20)} == {name_of(primary)}
        assert "is of another cluster" in why(scene, stranger.port)


def test_a_connection_that_goes_to_another_cluster_is_refused_though_its_monitor_s_does_not(
    primary: PostgresNode, replica: PostgresNode, strangers: Cluster
) -> None:
    with Proxy(replica.port) as proxy, opened(settings(primary.port, proxy.port)) as scene:
        scene.write("one")
        scene.await_reached()
        proxy.server_port = strangers.shards[0].replicas[0].port
        assert scene.read() == ["one"]
        assert scene.answers(scene.read) == name_of(primary)
        assert any("another cluster" in event.why for event in scene.seen(Passed))


@pytest.mark.parametrize("configured", ["there", "slow", "down"])
def test_another_cluster_s_primary_is_never_taken_for_the_primary(
    configured: str, primary: PostgresNode, replica: PostgresNode, strangers: Cluster
) -> None:
    stranger = strangers.shards[0].primary
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(primary.port))
        if configured == "slow":
            proxy.hold()
            timer = threading.Timer(5.0, proxy.resume)  # after it was asked for the first time, in vain
            timer.start()
            stack.callback(timer.join)
        if configured == "down":
            proxy.server_port = 1
            with pytest.raises((DBAPIError, RoutingError)):
                stack.enter_context(opened(settings(proxy.port, stranger.port)))
            assert not stranger.execute("SELECT 1 FROM pg_tables WHERE tablename = 'tidegate_state'")
            return
        scene = stack.enter_context(opened(settings(proxy.port, stranger.port, replica.port)))
        for turn in range(10):
            scene.write(f"{turn}")
        assert len(written(primary, scene.tenant)) == 10
        assert written(stranger, scene.tenant) == []
        assert not stranger.execute("SELECT 1 FROM pg_tables WHERE tablename = 'tidegate_state'")
        proxy.server_port = 1
        proxy.cut()
        with pytest.raises((DBAPIError, RoutingError)):
            scene.write("nobody takes this")
        assert not scene.seen(Promoted)
        assert written(stranger, scene.tenant) == []


def test_a_gate_that_starts_after_the_failover_finds_the_promoted_replica_and_no_stranger(strangers: Cluster) -> None:
    with Cluster(replicas=1, cache=False) as cluster:
        make_notes(cluster)
        old, promoted = cluster.shards[0].primary, cluster.shards[0].replicas[0]
        old.kill()
        promoted.promote()
        ports = (strangers.shards[0].replicas[0].port, promoted.port)
        with (
            opened(settings(old.port, promoted.port)) as scene,
            opened(settings(old.port, promoted.port), own_engine=True) as other,
        ):
            for one in (scene, other):
                one.write("one")
                assert written(promoted, one.tenant) == ["one"]
        # Two clusters, and what the settings call the primary does not say which is meant.
        with pytest.raises((DBAPIError, RoutingError)), opened(settings(old.port, *ports)):
            pass


@pytest.mark.parametrize("how", ["given", "kept back"])
@pytest.mark.parametrize("lag", ["paused", "delayed"])
def test_a_token_brings_what_another_gate_has_written(
    how: str, lag: str, primary: PostgresNode, replica: PostgresNode
) -> None:
    given = settings(primary.port, replica.port)
    with opened(given) as writer, opened(given) as reader:
        reader.tenant = writer.tenant
        writer.write("one")
        writer.await_reached()
        assert reader.answers(reader.read) == name_of(replica)
        if lag == "paused":
            replica.pause_replay()
        else:
            replica.delay(3600)
        writer.write("two")
        carried = writer.gate.token(writer.tenant)
        assert len(carried.encode()) <= 64
        if how == "kept back":
            assert reader.read() == ["one"], "what tokens are there for"
            return
        with reader.gate.session(reader.tenant, token=carried) as session:
            assert reader.answers(reader.read) == name_of(primary)
            assert session.scalar(select(func.count()).where(Note.tenant_id == reader.tenant)) == 2
        assert reader.read() == ["one", "two"]
        replica.resume_replay()
        replica.delay(0)
        wait_for(lambda: reader.answers(reader.read) == name_of(replica), "it has caught up")
        assert reader.read() == ["one", "two"]


def test_a_commit_whose_answer_is_lost_is_unknown_and_made_once(primary: PostgresNode, replica: PostgresNode) -> None:
    with Proxy(primary.port) as proxy, opened(settings(proxy.port, replica.port)) as scene:
        for turn in range(1, 4):
            proxy.cut_after(b"COMMIT", once_sent=b"INSERT INTO notes")
            with pytest.raises(CommitUnknown):
                scene.write(f"{turn}")
            assert proxy.cuts == turn
            assert len(written(primary, scene.tenant)) == turn, "the test wants it committed, and once"
            # Nobody knows where it stands: only the primary is sure to show it.
            assert scene.answers(scene.read) == name_of(proxy.port)
            assert len(scene.read()) == turn


def test_a_lost_commit_that_changed_nothing_tracked_is_the_driver_s_error(
    primary: PostgresNode, replica: PostgresNode
) -> None:
    primary.execute("CREATE TABLE IF NOT EXISTS untracked (x int)")
    with Proxy(primary.port) as proxy, opened(settings(proxy.port, replica.port)) as scene:
        proxy.cut_after(b"COMMIT", once_sent=b"INSERT INTO untracked")
        with scene.gate.session(scene.tenant) as session:
            session.execute(text("INSERT INTO untracked VALUES (1)"))
            with pytest.raises(OperationalError):
                session.commit()
        assert proxy.cuts == 1
        # A connection lost before COMMIT was sent is no secret either: nothing has happened.
        with scene.gate.session(scene.tenant) as session:
            session.add(Note(tenant_id=scene.tenant, words="one"))
            session.flush()
            proxy.cut()
            with pytest.raises(OperationalError):
                session.execute(text("SELECT 1"))
        assert written(primary, scene.tenant) == []


@pytest.mark.parametrize("whose", ["the tenant's", "everybody's"])
def test_a_token_covers_a_write_whose_position_could_not_be_asked_for(
    whose: str, primary: PostgresNode, replica: PostgresNode, replicated: Cluster
) -> None:
    cache = CacheSettings(url=replicated.cache.url, read_timeout_ms=5_000)
    with (
        Proxy(primary.port) as proxy,
        # psycopg 3 asks for it together with the COMMIT.
        opened(settings(proxy.port, replica.port, cache=cache, driver="psycopg2")) as writer,
        opened(settings(primary.port, replica.port)) as reader,
    ):
        reader.tenant = writer.tenant
        writer.write("one")
        token_before = writer.gate.token()
        replica.pause_replay()
        proxy.cut_after(b"SELECT pg_current_wal_insert_lsn()::text, pg_walfile_name", once_sent=b"two")
        writer.write("two")
        assert proxy.cuts == 1
        token = writer.gate.token(writer.tenant if whose == "the tenant's" else None)
        assert Token.of_text(token).position.lsn > Token.of_text(token_before).position.lsn
        with reader.gate.session(reader.tenant, token=token):
            assert reader.read() == ["one", "two"]
