"""More asked than there is: the primary when every replica is gone, and replicas that come and go under load."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import psycopg
import pytest
from real_servers.deadlines import patient
from real_servers.printed_numbers import show
from real_servers.replicated import HELD_S, Scene, held_on, in_background, name_of, opened, settings

from tidegate.errors import Overloaded
from tidegate.routing.events import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.proxy.embedded import Cluster
    from tidegate.proxy.nodes.addresses import Address

TAKES_S: Final = 0.05
PLACES: Final = 4
STORM: Final = 60
"""Callers a place: 240 in all, whom the primary, at 80 calls a second or fewer, does not serve within WAIT_S."""
WAIT_S: Final = 1.5
SERVED: Final = 240
"""Calls, three seconds' work of the primary; then the storm ends."""
PATIENT: Final = {"answer_ms": 30_000}
"""Settings with which no monitor gives up."""


@contextmanager
def most_connections(url: str, name: str) -> Iterator[list[int]]:
    """Counts the connections called *name* again and again; the counts."""
    counts: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            while not stop.is_set():
                query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
                counts.append(connection.execute(query, (name,)).fetchall()[0][0])
                stop.wait(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield counts
    finally:
        stop.set()
        thread.join()


def test_in_a_storm_the_admitted_are_served_in_time_and_the_rest_is_told_at_once(replicated: Cluster) -> None:
    shard = replicated.shards[0]
    given = settings(
        shard.primary.port,
        *(r.port for r in shard.replicas),
        routing={"primary_reads": PLACES, "primary_wait_ms": int(WAIT_S * 1000)},
        pool={"size": PLACES, "overflow": 0},
        name="storm",
    )
    with opened(given) as scene, most_connections(shard.primary.url, "storm") as counts:
        scene.write("one")
        for replica in shard.replicas:
            replica.kill()
        ports = [shard.primary.port]
        served, refused, failed = storm(scene, ports)
        show("served, refused, failed", f"{len(served)}, {len(refused)}, {len(failed)}")
        for name, times in (("served", served), ("refused", refused)):
            assert times, f"none was {name}: {failed}"
            show(f"p50, p99 of the {name}", f"{times[len(times) // 2]:.5f} s, {times[int(len(times) * 0.99)]:.5f} s")
        show("connections", str(max(counts)))
    assert failed == []
    # Of half of them: where the machine stands still for a second, all that wait at that moment wait longer.
    assert served[len(served) // 2] < WAIT_S + patient(TAKES_S)
    assert refused[len(refused) // 2] < WAIT_S / 2, "at once"
    assert max(served[-1], refused[-1]) < patient(WAIT_S)
    assert len(scene.seen(Refused)) == len(refused)
    assert max(counts) <= PLACES + 1, "and its monitor's"


def storm(scene: Scene, ports: list[int]) -> tuple[list[float], list[float], list[BaseException]]:
    """How long those waited that were served, and those that were not, in seconds, sorted; and other errors."""
    served: list[float] = []
    refused: list[float] = []
    failed: list[BaseException] = []

    def caller(number: int) -> None:
        tenant = f"{scene.tenant} {number % 10}"
        while len(served) < SERVED:
            began_s = time.monotonic()
            try:
                scene.notes.held(tenant, ports, TAKES_S)
            except Overloaded:
                refused.append(time.monotonic() - began_s)
                # As often as it takes for all of them together to ask for fifty times what it can do.
                time.sleep(TAKES_S)
            except BaseException as error:  # noqa: BLE001  # whatever it is, the test shows it
                failed.append(error)
                return
            else:
                served.append(time.monotonic() - began_s)

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(PLACES * STORM)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(served), sorted(refused), failed


def test_reads_under_way_never_exceed_a_node_s_budget(replicated: Cluster) -> None:
    shard = replicated.shards[0]
    given = settings(
        shard.primary.port, *(r.port for r in shard.replicas), pool={"size": 2, "overflow": 1}, name="budget"
    )
    with opened(given) as scene, most_connections(shard.replicas[0].url, "budget") as counts:
        scene.write("one")
        scene.await_reached()
        most = watched(scene)
        errors = hammer(scene, threads=24, lasts_s=2.0)
        show("answered", scene.answered())
    assert errors == []
    assert most, "nobody was counted"
    assert max(most.values()) == 3, most
    assert max(counts) <= 3 + 1


def test_many_that_chose_the_same_node_at_once_do_not_exceed_its_budget_either(replicated: Cluster) -> None:
    shard = replicated.shards[0]
    replica = shard.replicas[0]
    with opened(settings(shard.primary.port, replica.port, pool={"size": 2, "overflow": 1})) as scene:
        scene.write("one")
        scene.await_reached()
        most = watched(scene)
        maker, chosen = scene.nodes.session_maker, threading.Barrier(8)

        def all_at_once(*given: object) -> object:
            found = maker(*given)  # type: ignore[arg-type]
            chosen.wait(patient(30))
            return found

        scene.nodes.session_maker = all_at_once  # type: ignore[method-assign,assignment]
        reads = [in_background(lambda: scene.notes.held(scene.tenant, [replica.port], 0.2)) for _ in range(8)]
        assert [read.result(HELD_S) for read in reads] == [["one"]] * 8
        assert most == {name_of(replica): 3}
        assert scene.answered() == {name_of(replica): 3, name_of(shard.primary): 6}


def watched(scene: Scene) -> dict[str, int]:
    """The most reads under way at the same time, by node, as it comes."""
    most: dict[str, int] = {}
    enter = scene.nodes.enter

    def entered(attempt: object) -> bool:
        let_in = enter(attempt)  # type: ignore[arg-type]
        name = attempt.node.name  # type: ignore[attr-defined]
        most[name] = max(most.get(name, 0), attempt.node.outstanding)  # type: ignore[attr-defined]
        return let_in

    scene.nodes.enter = entered  # type: ignore[method-assign]
    return most


def hammer(scene: Scene, threads: int, lasts_s: float) -> list[BaseException]:
    """Read from many threads; what went wrong but for being refused."""
    errors: list[BaseException] = []
    until_s = time.monotonic() + lasts_s

    def reads() -> None:
        while time.monotonic() < until_s:
            try:
                assert scene.read() == ["one"]
            except Overloaded:
                time.sleep(0.01)
            except BaseException as error:  # noqa: BLE001  # whatever it is, the test shows it
                errors.append(error)
                return

    running = [threading.Thread(target=reads) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return errors


def test_replicas_that_come_and_go_while_reads_run(replicated: Cluster) -> None:
    shard = replicated.shards[0]
    with opened(settings(shard.primary.port, *(r.port for r in shard.replicas), name="going")) as scene:
        scene.write("one")
        scene.await_reached()
        name = name_of(shard.replicas[1])
        address: Address = scene.nodes.addresses[name]
        stop = threading.Event()
        turns: list[int] = []

        def come_and_go() -> None:
            while not stop.is_set():
                scene.nodes.remove(name)
                stop.wait(0.02)
                scene.nodes.add(address)
                stop.wait(0.1)
                turns.append(scene.answered().get(name, 0))

        going = threading.Thread(target=come_and_go)
        going.start()
        errors = hammer(scene, threads=8, lasts_s=3.0)
        stop.set()
        going.join()
        assert errors == []
        assert not scene.nodes._engines._leaving, "the last read of each has closed its connections"
        assert len(turns) > 5
        assert turns[-1] > turns[0], "it answered in between"
        assert {node.name for node in scene.nodes.topology.nodes} == set(scene.nodes.addresses)
        scene.nodes.remove(name)
        before = scene.answered().get(name, 0)
        for _ in range(20):
            scene.read()
        assert scene.answered().get(name, 0) == before


@pytest.mark.parametrize("moment", ["its choice", "its engine"])
def test_a_node_that_is_removed_before_a_read_has_begun_is_passed_by(moment: str, replicated: Cluster) -> None:
    shard = replicated.shards[0]
    with opened(settings(shard.primary.port, shard.replicas[0].port)) as scene:
        scene.write("one")
        scene.await_reached()
        maker = scene.nodes.session_maker

        def removed_first(*given: object) -> object:
            found = maker(*given) if moment == "its engine" else None  # type: ignore[arg-type]
            scene.nodes.remove(name_of(shard.replicas[0]))
            return found or maker(*given)  # type: ignore[arg-type]

        scene.nodes.session_maker = removed_first  # type: ignore[method-assign,assignment]
        assert scene.answers(scene.read) == name_of(shard.primary)
        assert scene.read() == ["one"]


def test_a_read_under_way_on_a_frozen_node_that_is_removed_is_answered_elsewhere(replicated: Cluster) -> None:
    shard = replicated.shards[0]
    first, second = shard.replicas
    with opened(settings(shard.primary.port, first.port, second.port, weights=(1.0, 1e-9), routing=PATIENT)) as scene:
        scene.write("one")
        scene.await_reached()
        read = in_background(lambda: scene.notes.held(scene.tenant, [first.port]))
        held_on(first)
        first.pause()
        began_s = time.monotonic()
        scene.nodes.remove(name_of(first))
        assert read.result(HELD_S) == ["one"]
        assert time.monotonic() - began_s < patient(3)
        assert scene.answered()[name_of(second)] == 1
