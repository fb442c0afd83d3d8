"""What would answer a call, down to the node, on real replicas with a cache above them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import tidegate
from tidegate.proxy.embedded.process import wait_for
from tidegate.proxy.settings import CacheSettings, ReplicaSettings, ShardSettings
from tidegate.repositories.models import new_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.proxy.embedded import Cluster

TENANT, APP, RUN = new_id(), new_id(), new_id()


@pytest.fixture
def gate(replicated: Cluster) -> Iterator[tidegate.Gate]:
    shard = replicated.shards[0]
    replicas = tuple(ReplicaSettings(url=replica.url) for replica in shard.replicas)
    named = ShardSettings(name="s0", primary=shard.primary.url, replicas=replicas)
    cache = CacheSettings(url=replicated.cache.url, read_timeout_ms=5_000, connect_timeout_ms=5_000)
    with tidegate.connect(tidegate.Settings(shards=(named,), cache=cache)) as made:
        yield made


def test_replicas_may_answer_once_the_marks_are_clean_and_reached(gate: tidegate.Gate) -> None:
    by_id = gate.workflow_runs.get_workflow_run_by_id
    unmarked = gate.explain(by_id, TENANT, APP, RUN)
    assert [node.answers for node in unmarked.nodes] == [True, False, False]
    by_id(TENANT, APP, RUN)
    gate.invalidate(TENANT)
    wait_for(lambda: all(node.answers for node in gate.explain(by_id, TENANT, APP, RUN).nodes[1:]), "replicas may")
    marked = gate.explain(by_id, TENANT, APP, RUN)
    assert (marked.answered, marked.stores) == ("node", True)
    assert [node.answers for node in marked.nodes] == [False, True, True]
    by_id(TENANT, APP, RUN)
    assert gate.explain(by_id, TENANT, APP, RUN).answered == "store"


def test_the_primary_answers_what_names_no_tenant(gate: tidegate.Gate) -> None:
    nodes = gate.explain(gate.workflow_runs.get_workflow_run_by_id_without_tenant, RUN).nodes
    assert [node.answers for node in nodes] == [True, False, False]
