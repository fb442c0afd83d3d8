"""What is handed to the layer that knows the nodes, and what comes back of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from tidegate.cache.codec.answers import AnswerCodec
from tidegate.cache.events import ignore
from tidegate.cache.memory_store import MemoryStore
from tidegate.cache.near.lru import LruCache
from tidegate.cache.read_through import ReadThrough
from tidegate.cache.request import ONLY_PRIMARY, ReadRequirement
from tidegate.cache.root_recovery import RootRecovery
from tidegate.cache.store import Change
from tidegate.cache.switches import Switches
from tidegate.cache.untold import UntoldChanges
from tidegate.position import NOWHERE, AskedFor, History, Origin, Position
from tidegate.proxy.database.primary import ClockPrimary
from tidegate.proxy.explain import explain
from tidegate.proxy.explanation import uncached
from tidegate.proxy.layers.caching import Caching
from tidegate.proxy.layers.facade import gated
from tidegate.proxy.layers.telemetry import Telemetry
from tidegate.proxy.observe import Counters
from tidegate.repositories.base import Bindable, Binding
from tidegate.repositories.policies import PolicyTable, Read

if TYPE_CHECKING:
    from tidegate.cache.request import Answer
    from tidegate.proxy.call import Call, Layer
    from tidegate.proxy.explanation import Explanation


@dataclass(frozen=True)
class Line:
    name: str = "db:5432"
    answers: bool = True
    why: str = "it may"

    def text(self) -> str:
        return f"{self.name} may answer: {self.why}"


class Nodes:
    """The lowest layer: answers nothing, and says which node would."""

    def __init__(self) -> None:
        self.needs: list[ReadRequirement | None] = []

    def __call__(self, call: Call) -> Answer:
        raise AssertionError(call)

    def explain(self, call: Call) -> Explanation:
        self.needs.append(call.route.requirement)
        return uncached(call.shown(), [Line()])


class Plain:
    def get(self, tenant_id: str, key: str) -> str:
        raise AssertionError((tenant_id, key))

    def count(self, tenant_id: str) -> int:
        raise AssertionError(tenant_id)


@gated(PolicyTable({"get": Read(guard="row:{key}"), "count": Read()}))
class Gated(Plain, Bindable):
    """A repository behind a gate."""


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def repository(nodes: Nodes, store: MemoryStore) -> Gated:
    return over(nodes, store)


def over(nodes: Nodes, store: MemoryStore, epoch: int | None = None) -> Gated:
    made = Gated()
    recovery = RootRecovery(store, ClockPrimary("", 0.0))
    caching = Caching(
        read_through=ReadThrough(store, recovery, lambda _tenant: AskedFor(History(), epoch)),
        store=store,
        codec=AnswerCodec(()),
        near=None,
        pushes=None,
        near_modes={},
        blobs=LruCache(1, 1),
        switches=Switches(),
        untold=UntoldChanges(),
        below=nodes,
        keep_alive=lambda: None,
        observe=ignore,
    )
    return bound(made, Telemetry(Counters(), caching))


def bound(made: Gated, layer: Layer) -> Gated:
    home: Any = object()
    made.tidegate_binding = Binding(home, layer)
    return made


def clean(store: MemoryStore, position: Position) -> None:
    store.make_root("t", "n", ClockPrimary("", 0.0).origin("t"))
    store.complete_root("t", "n", "1", position)
    store.end_quarantine("t", "n", position)


def test_the_nodes_are_told_what_the_marks_have_said(repository: Gated, nodes: Nodes, store: MemoryStore) -> None:
    lost = explain(repository.get, ("t", "k"), {})
    assert (lost.nodes, nodes.needs) == ((Line(),), [ONLY_PRIMARY])
    assert str(lost).endswith("\n  a node's answer is not stored\n  db:5432 may answer: it may")
    clean(store, Position(1, 7))
    assert explain(repository.get, ("t", "k"), {}).stores
    assert nodes.needs[1:] == [ReadRequirement(Position(1, 7), primary=False, root=Origin(0, History(0), ""))]
    with_answer = replace(explain(repository.get, ("t", "k"), {}), answered="store")
    assert str(with_answer).endswith("\n  if none did:\n  db:5432 may answer: it may")
    nodes.needs.pop()
    store.bump([Change("t", frozenset({"row:k"}))], None, Position(1, 9))
    explain(repository.get, ("t", "k"), {})
    assert nodes.needs[2:] == [ReadRequirement(Position(1, 9), primary=False, root=Origin(0, History(0), ""))]
    store.open([Change("t", frozenset({"row:k"}))], "5", ClockPrimary("", 0.0).origin("t"), ["n"])
    assert not explain(repository.get, ("t", "k"), {}).stores
    assert nodes.needs[3:] == [ONLY_PRIMARY]


def test_a_shard_map_that_is_old_is_told_of(nodes: Nodes, store: MemoryStore) -> None:
    clean(store, NOWHERE)
    assert explain(over(nodes, store, 0).get, ("t", "k"), {}).stores
    store.make_root("t", "n2", Origin(2, History(0), "s1"))
    found = explain(over(nodes, store, 1).get, ("t", "k"), {})
    assert "moved to another shard since the shard map at hand" in found.cache.why
    assert (found.answered, found.stores, nodes.needs[-1]) == ("node", False, ONLY_PRIMARY)


def test_the_nodes_ask_themselves_where_the_cache_has_not(repository: Gated, nodes: Nodes) -> None:
    found = explain(repository.count, ("t",), {})
    assert (found.answered, found.nodes, nodes.needs) == ("plain", (Line(),), [None])


def test_without_a_cache_the_nodes_are_below_the_telemetry(nodes: Nodes) -> None:
    made = bound(Gated(), Telemetry(Counters(), nodes))
    assert explain(made.get, ("t", "k"), {}).nodes == (Line(),)
    assert nodes.needs == [None]
