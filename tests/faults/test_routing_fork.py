"""A process that was forked off watches the servers for itself, and a closed gate leaves nothing behind."""

from __future__ import annotations

import multiprocessing
import os
import threading
from typing import TYPE_CHECKING, Any

from real_servers.deadlines import patient
from real_servers.replicated import held_on, in_background, name_of, opened, settings

from tidegate.proxy.embedded.process import wait_for
from tidegate.proxy.settings import CacheSettings

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from real_servers.replicated import Scene

    from tidegate.proxy.embedded import Cluster

_OURS = ("tidegate-monitor", "tidegate-cutter", "tidegate-outbox", "tidegate-first")


def ours() -> list[str]:
    """The gates' threads in this process."""
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith(_OURS))


def backends(scene: Scene) -> dict[str, int]:
    """The server's process behind each monitor's connection."""
    found = {}
    for name, monitor in scene.nodes._monitors.items():
        line: Any = monitor._line
        wait_for(lambda line=line: line._raw is not None, "the monitor is connected")  # type: ignore[misc]
        found[name] = line._raw.info.backend_pid
    return found


def in_child(scene: Scene, answers: Connection) -> None:
    before = ours()
    outstanding = [node.outstanding for node in scene.nodes.topology.nodes]
    words = [scene.read() for _ in range(20)]
    pids = backends(scene)
    asked = [node.view.asked_s for node in scene.nodes.topology.nodes if node.view is not None]
    wait_for(
        lambda: all(n.view and n.view.asked_s > a for n, a in zip(scene.nodes.topology.nodes, asked, strict=True)),
        "the child's monitors ask",
    )
    scene.write("by the child")
    after = ours()
    scene.gate.close()
    answers.send((before, outstanding, words[-1], pids, after, ours(), scene.answered()))
    answers.close()
    os._exit(0)


def test_a_forked_child_has_monitors_a_cutter_and_connections_of_its_own(replicated: Cluster) -> None:
    shard = replicated.shards[0]
    ports = [replica.port for replica in shard.replicas]
    with opened(settings(shard.primary.port, *ports)) as scene:
        scene.write("one")
        scene.await_reached()
        for _ in range(10):
            scene.read()
        own = backends(scene)
        read = in_background(lambda: scene.notes.held(scene.tenant, ports, 3))
        wait_for(lambda: sum(node.outstanding for node in scene.nodes.topology.nodes) == 1, "a read is under way")
        answered_before = scene.answered()
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()
        child = context.Process(target=in_child, args=(scene, there))
        child.start()
        assert here.poll(30), "the child does not answer"
        before, outstanding, words, pids, after, closed, answered = here.recv()
        child.join(patient(10))
        assert child.exitcode == 0
        assert before == []
        assert outstanding == [0, 0, 0], "the parent's reads are not the child's"
        assert words == ["one"]
        assert after == sorted([*(f"tidegate-monitor {name}" for name in own), "tidegate-cutter"])
        assert closed == []
        assert not set(pids.values()) & set(own.values())
        assert sum(answered.get(name_of(port), 0) for port in ports) >= 19 + sum(
            answered_before.get(name_of(port), 0) for port in ports
        )
        # What the parent had is as it was: the child said goodbye to nobody in its name.
        assert read.result(patient(30)) == ["one"]
        assert backends(scene) == own
        wait_for(lambda: scene.read() == ["one", "by the child"], "the parent goes on")
        assert [event for event in scene.events if type(event).__name__ == "Banned"] == []


def test_a_closed_gate_leaves_no_thread_and_no_connection(replicated: Cluster) -> None:
    shard = replicated.shards[0]
    replica = shard.replicas[0]
    cache = CacheSettings(url=replicated.cache.url, near=True, read_timeout_ms=5_000)
    given = settings(shard.primary.port, *(r.port for r in shard.replicas), cache=cache, name="closing")
    query = "SELECT application_name FROM pg_stat_activity WHERE application_name IN ('closing', 'tidegate-outbox')"
    threads = set(threading.enumerate())
    kept = []  # so that what is left open is not closed by being forgotten
    for read in (True, False):
        with opened(given) as scene:
            kept.append(scene)
            scene.write("one")
            if read:
                for _ in range(10):
                    scene.read()
                assert ours()
        wait_for(lambda: set(threading.enumerate()) <= threads, "every thread has ended")
        for node in (shard.primary, replica):
            wait_for(lambda node=node: not node.execute(query), "every connection is closed")  # type: ignore[misc]


def test_a_gate_closes_in_time_while_a_replica_is_frozen(replicated: Cluster) -> None:
    shard = replicated.shards[0]
    frozen = shard.replicas[0]
    threads = set(threading.enumerate())
    with opened(settings(shard.primary.port, *(r.port for r in shard.replicas), weights=(1.0, 1e-9))) as scene:
        scene.write("one")
        scene.await_reached()
        read = in_background(lambda: scene.notes.held(scene.tenant, [frozen.port]))
        held_on(frozen)
        frozen.pause()
        assert read.result(patient(30)) == ["one"]
    wait_for(lambda: set(threading.enumerate()) <= threads, "every thread has ended", patient(10))
