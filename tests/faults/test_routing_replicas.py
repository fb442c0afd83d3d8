"""Replicas that die, freeze, vanish, restart or refuse: the read is answered by another node, in time, and once."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import psycopg
import pytest
from real_servers.deadlines import patient
from real_servers.replicated import (
    HELD_S,
    Scene,
    caught_up,
    held_on,
    in_background,
    name_of,
    opened,
    settings,
    written,
)
from real_servers.tcp_proxy import Proxy

from tidegate.errors import PolicyError
from tidegate.proxy.embedded.process import wait_for
from tidegate.routing.events import Banned, Passed
from tidegate.routing.replicas.probe_sql import REPLAYED
from tidegate.routing.replicas.topology import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidegate.proxy.embedded import Cluster, PostgresNode

BOUND_S: Final = 6.0
"""In which a read is answered, whatever happens to a replica: a question of a monitor may take a second, a connection
two; the rest is for a machine that is busy with something else."""
FAST_S: Final = 3.0
"""The same where the server says at once that it is gone."""
FIRST: Final = (1.0, 1e-9)
"""Weights with which the first of two replicas is asked as long as it may answer."""


@pytest.fixture
def primary(replicated: Cluster) -> PostgresNode:
    return replicated.shards[0].primary


@pytest.fixture
def replicas(replicated: Cluster) -> tuple[PostgresNode, ...]:
    return replicated.shards[0].replicas


@pytest.fixture
def scene(primary: PostgresNode, replicas: tuple[PostgresNode, ...]) -> Iterator[Scene]:
    """The first replica answers as long as it may."""
    with opened(settings(primary.port, *(r.port for r in replicas), weights=FIRST)) as scene:
        scene.write("one")
        scene.await_reached()
        yield scene


def kill(node: PostgresNode) -> None:
    node.kill()


def freeze(node: PostgresNode) -> None:
    node.pause()


def terminate(node: PostgresNode) -> None:
    for pid in held_on(node):
        node.execute("SELECT pg_terminate_backend(%s)", pid)


@pytest.mark.parametrize(("fault", "bound_s"), [(kill, FAST_S), (freeze, BOUND_S), (terminate, FAST_S)])
def test_a_read_under_way_on_a_replica_that_fails_is_answered_by_the_other(
    fault: Callable[[PostgresNode], None], bound_s: float, scene: Scene, replicas: tuple[PostgresNode, ...]
) -> None:
    first, second = replicas
    read = in_background(lambda: scene.notes.held(scene.tenant, [first.port]))
    held_on(first)
    began_s = time.monotonic()
    fault(first)
    assert read.result(HELD_S) == ["one"]
    assert time.monotonic() - began_s < patient(bound_s)
    assert scene.calls("held") == 1
    assert scene.gate.stats().methods[next(iter(scene.gate.stats().methods))].errors == 0
    assert scene.answered()[name_of(second)] == 1
    assert name_of(first) not in scene.answered()
    assert [event.node for event in scene.seen(Banned)] == [name_of(first)]


def test_a_read_under_way_on_a_replica_that_is_cut_off_is_answered_by_the_other(
    primary: PostgresNode, replicas: tuple[PostgresNode, ...]
) -> None:
    first, second = replicas
    with Proxy(first.port) as proxy, opened(settings(primary.port, proxy.port, second.port, weights=FIRST)) as scene:
        scene.write("one")
        scene.await_reached()
        read = in_background(lambda: scene.notes.held(scene.tenant, [first.port]))
        held_on(first)
        began_s = time.monotonic()
        proxy.hold()
        assert read.result(HELD_S) == ["one"]
        assert time.monotonic() - began_s < patient(BOUND_S)
        assert scene.answered() == {name_of(primary): 1, name_of(second): 1}
        assert scene.calls("held") == 1
        # It is found again, by monitor and reads, without anybody doing anything.
        proxy.resume()
        wait_for(lambda: scene.answers(scene.read) == name_of(proxy.port), "the replica answers again")


def test_a_read_whose_connection_would_have_to_be_made_to_a_frozen_replica_is_answered_in_time(
    scene: Scene, replicas: tuple[PostgresNode, ...]
) -> None:
    # The kernel takes the connection, and nobody speaks: no socket is known yet that could be cut.
    first, second = replicas
    first.pause()
    began_s = time.monotonic()
    assert scene.answers(scene.read) == name_of(second)
    assert time.monotonic() - began_s < patient(BOUND_S)


@pytest.mark.parametrize("fault", ["held", "cut"])
def test_a_replica_that_fails_when_it_is_asked_where_it_is_is_no_matter_either(
    fault: str, primary: PostgresNode, replicas: tuple[PostgresNode, ...]
) -> None:
    said = REPLAYED.partition("{")[0].encode()
    with (
        Proxy(replicas[0].port) as proxy,
        opened(settings(primary.port, replicas[0].port)) as writer,
        opened(settings(primary.port, proxy.port)) as scene,  # it has read nothing yet
    ):
        scene.tenant = writer.tenant
        writer.write("one")
        caught_up(primary, replicas[0])
        scene.nodes.ensure_started()
        if fault == "held":
            proxy.hold_at(said)
        else:
            proxy.cut_after(said, once_sent=b"")
        began_s = time.monotonic()
        assert scene.read() == ["one"]
        assert time.monotonic() - began_s < patient(BOUND_S)
        assert scene.answered() == {name_of(primary): 1}
        assert [event.node for event in scene.seen(Banned)] == [name_of(proxy.port)]


@pytest.mark.parametrize("both", ["frozen", "killed", "cut off"])
def test_with_both_replicas_gone_the_primary_answers(
    both: str, primary: PostgresNode, replicas: tuple[PostgresNode, ...]
) -> None:
    with ExitStack() as stack:
        proxies = [stack.enter_context(Proxy(replica.port)) for replica in replicas]
        ports = [proxy.port for proxy in proxies]
        scene = stack.enter_context(opened(settings(primary.port, *ports)))
        scene.write("one")
        scene.await_reached()
        reads = [in_background(lambda: scene.notes.held(scene.tenant, [r.port for r in replicas])) for _ in range(6)]
        for replica in replicas:
            held_on(replica)
        began_s = time.monotonic()
        for replica, proxy in zip(replicas, proxies, strict=True):
            {"frozen": replica.pause, "killed": replica.kill, "cut off": proxy.hold}[both]()
        assert [read.result(HELD_S) for read in reads] == [["one"]] * 6
        assert time.monotonic() - began_s < patient(BOUND_S)
        assert scene.answered() == {name_of(primary): 7}
        began_s = time.monotonic()
        assert scene.answers(scene.read) == name_of(primary)
        assert time.monotonic() - began_s < patient(BOUND_S) / 2, "what is known to be gone is not tried"


@pytest.mark.parametrize(
    "conflict", ["TRUNCATE notes", "DELETE FROM notes; VACUUM notes", "ALTER TABLE notes ADD x int"]
)
def test_a_read_that_stands_in_the_way_of_a_replica_s_replay_is_answered_by_the_other(
    conflict: str, scene: Scene, primary: PostgresNode, replicas: tuple[PostgresNode, ...]
) -> None:
    first, second = replicas
    read = in_background(lambda: scene.notes.held(scene.tenant, [first.port]))
    held_on(first)
    began_s = time.monotonic()
    for statement in conflict.split(";"):
        primary.execute(statement)
    found = read.result(HELD_S)
    assert time.monotonic() - began_s < patient(FAST_S)
    primary.execute("ALTER TABLE notes DROP COLUMN IF EXISTS x")
    assert found == written(primary, scene.tenant)
    assert scene.answered() == {name_of(primary): 1, name_of(second): 1}
    assert scene.calls("held") == 1
    assert [event.node for event in scene.seen(Passed)] == [name_of(first)]
    assert not scene.seen(Banned), "nothing is wrong with it"


def test_a_write_declared_read_is_refused_by_name_and_never_tried_on_the_primary(
    scene: Scene, primary: PostgresNode
) -> None:
    with pytest.raises(PolicyError, match=r"Notes\.misdeclared is declared Read, and a standby refused it"):
        scene.notes.misdeclared(scene.tenant, "two")
    assert written(primary, scene.tenant) == ["one"]
    assert not scene.seen(Passed)
    assert not scene.seen(Banned), "it is the program's mistake"


def fall_behind(replica: PostgresNode, tenant: str) -> bool:
    """Kill one of its processes, so that it recovers anew; whether it shows less of *tenant* than before.

    It does not where a page with the last change in it happened to be written out.
    """
    started = "SELECT pg_postmaster_start_time()::text"
    before, shown = replica.execute(started), written(replica, tenant)
    replica.delay(3600)
    with psycopg.connect(replica.url.replace("+psycopg", ""), autocommit=True) as victim:
        ((pid,),) = victim.execute("SELECT pg_backend_pid()").fetchall()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(psycopg.OperationalError):
            victim.execute("SELECT pg_sleep(60)")
    wait_for(replica._answers, "it answers again")
    assert replica.execute(started) == before, "the test wants it to look like the same server"
    return written(replica, tenant) != shown


@pytest.mark.parametrize("vouches", ["as it does", "always"])
def test_a_replica_that_recovers_anew_from_behind_serves_no_read_that_needs_more(
    vouches: str, primary: PostgresNode, replicas: tuple[PostgresNode, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody tells the gate: what it knows of the replica is of before, and its monitor asks once a minute.
    first, _ = replicas
    rare = {"poll_ms": 60_000, "wanted_poll_ms": 60_000, "silent_ms": 600_000}
    with ExitStack() as stack:
        scenes = (knowing(stack, rare, primary, first) for _ in range(5))
        scene = next(scene for scene in scenes if fall_behind(first, scene.tenant))
        if vouches == "always":
            monkeypatch.setattr(View, "vouches_for", lambda *_: True)
            assert scene.answers(scene.read) == name_of(first)
            assert scene.read() == [], "what this test is there to prevent"
            return
        for _ in range(3):
            assert scene.read() == ["one"]
        assert scene.answered() == {name_of(primary): 3}
        assert [event.node for event in scene.seen(Passed)][:1] == [name_of(first)], "its connection was asked"


def knowing(stack: ExitStack, routing: dict[str, int], primary: PostgresNode, replica: PostgresNode) -> Scene:
    """A gate that has written, and has seen its replica show that, but has not read from it yet."""
    replica.delay(0)
    primary.execute("CHECKPOINT")
    caught_up(primary, replica)
    replica.execute("CHECKPOINT")  # what it will begin from
    with opened(settings(primary.port, replica.port)) as writer:
        writer.write("one")
        writer.await_reached()
        scene = stack.enter_context(opened(settings(primary.port, replica.port, routing=routing)))
        scene.tenant = writer.tenant
        scene.gate.session(scene.tenant, token=writer.gate.token()).__enter__().close()
        scene.await_reached()
        return scene
