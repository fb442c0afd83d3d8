"""Which node would answer a call, and why the others would not; on real servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis
from real_servers.which_server import asks, ports_that_answer

import tidegate
from tidegate.cache.request import Answer
from tidegate.proxy.layers.routing import Routing
from tidegate.proxy.settings import CacheSettings, ReplicaSettings, RoutingSettings, ShardSettings
from tidegate.repositories.models import new_id
from tidegate.routing.replicas.health import Health

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidegate.proxy.call import Call
    from tidegate.proxy.embedded import Cluster
    from tidegate.proxy.explanation import NodeLine

TENANT = "t"


@pytest.fixture
def gate(replicated: Cluster) -> Iterator[tidegate.Gate]:
    shard = replicated.shards[0]
    first, second = (replica.url for replica in shard.replicas)
    replicas = (ReplicaSettings(url=first, weight=0.0), ReplicaSettings(url=second))
    named = ShardSettings(name="s0", primary=shard.primary.url, replicas=replicas)
    # One look is enough for a test of words.
    with tidegate.connect(tidegate.Settings(shards=(named,), routing=RoutingSettings(silent_ms=600_000))) as made:
        yield made


def call_of(repository: Any, method: Callable[[Any], object]) -> Call:
    """The call that *method* makes on *repository*, which does not arrive anywhere."""
    calls: list[Call] = []

    def keep(call: Call) -> Answer:
        calls.append(call)
        return Answer(None)

    kept = repository.tidegate_binding
    repository.tidegate_binding = kept._replace(layer=keep)
    method(repository)
    repository.tidegate_binding = kept
    return calls[0]


def explain(gate: tidegate.Gate, repository: Any, method: Callable[[Any], object]) -> tuple[NodeLine, ...]:
    routing = gate._shards.every[0].routing
    assert isinstance(routing, Routing)
    return routing.explain(call_of(repository, method)).nodes


def lines(found: tuple[NodeLine, ...], replicated: Cluster) -> list[str]:
    """As text, with names of servers instead of their ports."""
    shard, text = replicated.shards[0], "\n".join(node.text() for node in found)
    for name, node in zip(("primary", "first", "second"), (shard.primary, *shard.replicas), strict=True):
        text = text.replace(f"127.0.0.1:{node.port}", name)
    return text.splitlines()


def test_a_read_says_where_it_may_go(gate: tidegate.Gate, replicated: Cluster) -> None:
    primary, first, second = lines(explain(gate, asks(gate), lambda it: it.ask(TENANT, "SELECT 1")), replicated)
    assert primary == "primary (primary) does not answer: a replica may"
    assert first == "first (replica) does not answer: it has the weight 0"
    assert second.startswith("second (replica) may answer: it is at 00000001.")
    assert second.endswith(" and 00000000.0000000000000000 is needed")


def test_a_write_goes_to_the_primary(gate: tidegate.Gate, replicated: Cluster) -> None:
    found = lines(explain(gate, asks(gate), lambda it: it.ask_primary(TENANT, "SELECT 1")), replicated)
    assert found == [
        "primary (primary) may answer: writes are the primary's",
        "first (replica) does not answer: writes are the primary's",
        "second (replica) does not answer: writes are the primary's",
    ]


def test_why_only_the_primary_will_do(gate: tidegate.Gate) -> None:
    runs: Any = gate.workflow_runs
    loop = explain(gate, runs, lambda it: it.get_expired_runs_batch(TENANT, None))
    assert {node.why for node in loop} == {"the method's policy names the primary"}
    nobodys = explain(gate, runs, lambda it: it.get_workflow_run_by_id_without_tenant(new_id()))
    assert {node.why for node in nobodys} == {"the call names no tenant"}
    written = gate._shards.every[0].unmarked_writes
    assert written is not None
    ticket = written.begin([TENANT])
    under_way = explain(gate, asks(gate), lambda it: it.ask(TENANT, "SELECT 1"))
    assert {node.why for node in under_way} == {"a commit of this process has not come back"}
    written.end([TENANT], gate._shards.every[0].primary.transaction("")[1], ticket)


def test_no_replica_may(gate: tidegate.Gate, replicated: Cluster) -> None:
    nodes = gate._shards.every[0].nodes
    assert nodes is not None
    nodes.topology.replicas[1].health = Health(3, float("inf"))
    primary, _, second = lines(explain(gate, asks(gate), lambda it: it.ask(TENANT, "SELECT 1")), replicated)
    assert primary == "primary (primary) may answer: no replica may"
    assert second == "second (replica) does not answer: it is banned for another inf s, after 3 failures"


def test_explaining_changes_nothing(gate: tidegate.Gate, replicated: Cluster) -> None:
    nodes = gate._shards.every[0].nodes
    assert nodes is not None
    before = gate.stats()
    for _ in range(3):
        explain(gate, asks(gate), lambda it: it.ask(TENANT, "SELECT 1"))
    assert gate.stats() == before
    assert not nodes._engines._engines, "nobody has read from a replica"
    port = replicated.shards[0].replicas[1].port
    assert ports_that_answer(gate, {port}) == {port}


def test_with_a_cache_the_marks_are_only_looked_at(replicated: Cluster) -> None:
    shard = replicated.shards[0]
    replicas = tuple(ReplicaSettings(url=replica.url) for replica in shard.replicas)
    named = ShardSettings(name="s0", primary=shard.primary.url, replicas=replicas)
    cache = CacheSettings(url=replicated.cache.url, read_timeout_ms=5_000, connect_timeout_ms=5_000)
    tenant, app, run = new_id(), new_id(), new_id()
    with tidegate.connect(tidegate.Settings(shards=(named,), cache=cache)) as gate:
        runs: Any = gate.workflow_runs

        def by_id(it: Any) -> object:
            return it.get_workflow_run_by_id(tenant, app, run)

        def keys() -> int:
            with redis.Redis.from_url(replicated.cache.url) as client:
                return len(list(client.scan_iter(match=f"*{tenant}*")))

        unknown = explain(gate, runs, by_id)
        assert {node.why for node in unknown} == {"a write may be under way, or the tenant's marks do not tell"}
        assert keys() == 0, "explaining has made the tenant's marks"
        assert by_id(runs) is None
        assert keys() > 0
        known = explain(gate, runs, by_id)
        assert known[0].why in {"a replica may", "no replica may"}
