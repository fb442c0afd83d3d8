from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from real_servers.deadlines import patient

from tidegate.cache.memory_store import MemoryStore
from tidegate.cache.read_needs import ReadNeeds
from tidegate.cache.request import ONLY_PRIMARY, ReadRequirement
from tidegate.cache.root_recovery import Ended, OldestRunning, RootRecovery, Transaction
from tidegate.position import AskedFor, History, Origin, Position
from tidegate.routing.replicas.choose import ReplicaRequirement, worth_asking
from tidegate.routing.replicas.health import Health
from tidegate.routing.replicas.monitor import Monitor, Pace
from tidegate.routing.replicas.topology import Node, ServerId, Topology, View

if TYPE_CHECKING:
    from collections.abc import Collection

SERVER = ServerId("1", "then")
BEFORE, AT, NOW_S = Position(1, 90), Position(1, 100), 50.0
BEHIND = View(NOW_S - 0.01, SERVER, standby=True, position=BEFORE)


def asked(**of_node: Any) -> bool:
    node = Node("r", view=BEHIND)
    for name, value in of_node.items():
        setattr(node, name, value)
    topology = Topology([Node("p"), node])
    topology.system = "1"
    return worth_asking(topology, ReplicaRequirement(AT, silent_s=1.5), NOW_S, least_s=0.005) == [node]


@pytest.mark.parametrize(
    ("of_node", "expected"),
    [
        ({}, True),
        ({"lag_s": 0.09}, True),
        ({"lag_s": 0.11}, False),
        ({"view": replace(BEHIND, asked_s=NOW_S - 0.004)}, False),
        ({"view": replace(BEHIND, position=AT)}, False),
        ({"view": replace(BEHIND, asked_s=NOW_S - 2)}, False),
        ({"view": replace(BEHIND, standby=False)}, False),
        ({"view": replace(BEHIND, server=ServerId("2", "then"))}, False),
        ({"view": None}, False),
        ({"health": Health(1, NOW_S + 1)}, False),
        ({"outstanding": 10}, False),
        ({"weight": 0.0}, False),
        ({"barred": "cannot be led to"}, False),
    ],
    ids=str,
)
def test_a_replica_is_asked_again_where_that_may_change_the_choice(of_node: dict[str, Any], *, expected: bool) -> None:
    assert asked(**of_node) is expected


class OneLine:
    """Counts its questions."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)

    def ask(self) -> View:
        self.asked.release()
        return replace(BEHIND, asked_s=time.monotonic())

    def cut(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize("wanted", [False, True])
def test_a_monitor_asks_at_once_when_somebody_waits(*, wanted: bool) -> None:
    line = OneLine()
    monitor = Monitor("r", line, lambda _view: None, lambda _why: None, Pace(idle_s=3_600, wanted_s=3_600))
    monitor.ensure_started()
    try:
        assert line.asked.acquire(timeout=patient(10))
        if wanted:
            monitor.want()
            assert line.asked.acquire(timeout=patient(10))
        monitor.ask_soon()
        assert line.asked.acquire(timeout=patient(10))
    finally:
        monitor.close()


class OnePrimary:
    """A primary with one transaction that may be running."""

    def __init__(self) -> None:
        self.oldest = 100

    def asked(self, _tenant: str, /) -> AskedFor:
        return AskedFor(History(1))

    def renew(self, _tenant: str, _than: History, /) -> None:
        raise AssertionError("there is one history")

    def origin(self, _tenant: str, /) -> Origin:
        return Origin(0, History(1), "")

    def transaction(self, _tenant: str, /) -> Transaction:
        return Transaction("7", BEFORE, History(1))

    def oldest_running(self, _tenant: str, /) -> OldestRunning:
        return OldestRunning(self.oldest, AT, History(1))

    def ended(self, _tenant: str, xids: Collection[str], /) -> Ended:
        return Ended(xids, AT, History(1))


def test_one_read_brings_lost_marks_back() -> None:
    primary, store = OnePrimary(), MemoryStore()
    needs = ReadNeeds(store, RootRecovery(store, primary), primary.asked)
    assert needs("t", "tag") == ReadRequirement(AT, primary=False, root=Origin(0, History(1), ""))
    store.lose_marks("t")
    primary.oldest = 3
    assert needs("t", "tag") == ONLY_PRIMARY  # somebody's transaction has to end first
    primary.oldest = 100
    assert needs("t", "tag") == ReadRequirement(AT, primary=False, root=Origin(0, History(1), ""))
