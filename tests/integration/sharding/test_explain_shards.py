"""``gate.explain`` and ``tidegate explain`` on several shards: whose, where, since when; no database is asked."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
from real_servers.sharded import NOW, save_run, settings_of, tenant_on
from real_servers.toml import settings_file
from sqlalchemy import event
from typer.testing import CliRunner

import tidegate
from tidegate.proxy.cli.app import app
from tidegate.proxy.embedded.process import wait_for
from tidegate.proxy.explanation import NodeExplained, ShardExplained
from tidegate.proxy.settings import CacheSettings, RoutingSettings, ShardingSettings
from tidegate.repositories.entities.workflow_node_execution import WorkflowNodeExecution
from tidegate.repositories.enums import WorkflowNodeExecutionStatus
from tidegate.routing.sharding.slots import slot_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from real_servers.shards import Shards

    from tidegate.proxy.embedded import Cluster

APP: Final = str(uuid4())
RUN: Final = str(uuid4())


@pytest.fixture
def gate(stocked: Shards) -> Iterator[tidegate.Gate]:
    with tidegate.connect(settings_of(stocked, catalogue="s0")) as made:
        yield made


def lines(explanation: Any) -> list[tuple[str, bool, str]]:
    return [(line.name, line.answers, line.why) for line in explanation.nodes if isinstance(line, ShardExplained)]


@contextmanager
def asked(gate: tidegate.Gate) -> Iterator[list[str]]:
    """What this thread asks of any primary meanwhile, and that it connects."""
    found: list[str] = []
    with ExitStack() as stack:
        for parts in gate._shards.every:
            for name, heard in (
                ("before_cursor_execute", lambda _c, _u, statement, *_: found.append(statement)),
                ("do_connect", lambda *_: found.append("connects")),
            ):
                event.listen(parts.engine, name, heard)
                stack.callback(event.remove, parts.engine, name, heard)
        yield found


def quiet(gate: tidegate.Gate) -> None:
    """Have nothing run beside it: the outbox is looked through, and the catalogue asked, by threads."""
    for parts in gate._shards.every:
        assert parts.applier is not None
        parts.applier.close()
    gate._shards._maps.close()  # type: ignore[attr-defined]


def test_a_call_with_a_tenant_names_shard_unit_and_epoch(gate: tidegate.Gate, stocked: Shards) -> None:
    tenant = tenant_on("s1")
    unit = f"slot:{slot_of(tenant)}"
    by_id = gate.workflow_runs.get_workflow_run_by_id
    found = gate.explain(by_id, tenant, APP, RUN)
    assert lines(found) == [("s1", True, f"{unit} is there since epoch 1")]
    assert f"the shard s1 is asked: {unit} is there since epoch 1" in str(found)
    stocked.flipper().flip([slot_of(tenant)], "s1", "s2")
    gate._shards.refresh()
    assert lines(gate.explain(by_id, tenant.upper(), APP, RUN)) == [("s2", True, f"{unit} is there since epoch 2")]


def test_a_pinned_tenant_is_a_unit_of_its_own(stocked: Shards) -> None:
    tenant = tenant_on("s0")
    with tidegate.connect(settings_of(stocked, pins={tenant: "s2"})) as gate:
        found = gate.explain(gate.workflow_runs.get_workflow_run_by_id, tenant, APP, RUN)
    assert lines(found) == [("s2", True, f"tenant:{tenant} is there since epoch 1")]


@pytest.mark.parametrize("cached", [True, False])
def test_a_call_of_nobody_known_names_every_shard(stocked: Shards, cached: bool) -> None:
    with tidegate.connect(settings_of(stocked, cache=cached, catalogue="s0")) as gate:
        runs, nodes = gate.workflow_runs, gate.node_executions
        for found in (
            gate.explain(runs.get_workflow_run_by_id_without_tenant, RUN),
            gate.explain(nodes.get_execution_by_id, RUN),
            gate.explain(runs.delete_runs_by_ids, [RUN]),
        ):
            assert [(name, answers) for name, answers, _ in lines(found)] == [(f"s{i}", True) for i in range(3)]
            assert all("is not known before they are found" in why for _, _, why in lines(found))
            assert found.answered == "plain"


def test_an_id_that_the_directory_knows_is_its_tenants(gate: tidegate.Gate) -> None:
    tenant = tenant_on("s2")
    run_id, node_id = save_run(gate, tenant, APP, NOW), str(uuid4())
    user = SimpleNamespace(id=APP, tenant_id=tenant)
    node = WorkflowNodeExecution(
        id=node_id,
        workflow_id=APP,
        workflow_execution_id=run_id,
        index=1,
        node_id="n",
        node_type="llm",
        title="n",
        status=WorkflowNodeExecutionStatus.SUCCEEDED,
        created_at=NOW,
    )
    gate.workflow_node_executions(user, APP, "workflow-run").save(node)
    for method, key in (
        (gate.workflow_runs.get_workflow_run_by_id_without_tenant, run_id),
        (gate.node_executions.get_execution_by_id, node_id),
    ):
        assert lines(gate.explain(method, key)) == [("s2", True, f"slot:{slot_of(tenant)} is there since epoch 1")]
        assert gate.explain(method, key).answered == "node"
        wait_for(lambda: _is_stored(gate, method, key), "it is stored")  # noqa: B023  # it is waited for


def _is_stored(gate: tidegate.Gate, method: Any, key: str) -> bool:
    assert method(key) is not None
    return gate.explain(method, key).answered in ("near", "store")


def test_no_database_is_asked(stocked: Shards) -> None:
    server = stocked.cluster.shards[2].primary
    tidegate.connect(settings_of(stocked, catalogue="s0")).close()
    server.kill()
    try:
        with tidegate.connect(settings_of(stocked, catalogue="s0")) as gate:  # s2 is not joined
            quiet(gate)
            with asked(gate) as found:
                for tenant in (tenant_on("s0"), tenant_on("s2")):
                    gate.explain(gate.workflow_runs.get_workflow_run_by_id, tenant, APP, RUN)
                gate.explain(gate.workflow_runs.get_workflow_run_by_id_without_tenant, RUN)
                gate.explain(gate.workflow_runs.get_runs_batch_by_time_range, None, NOW, None, 10)
            assert found == []
    finally:
        server.start()


def test_a_shard_that_the_settings_lack_is_not_asked(stocked: Shards) -> None:
    settings = settings_of(stocked, catalogue="s0")
    tidegate.connect(settings).close()
    tenant = tenant_on("s2")
    with tidegate.connect(settings.model_copy(update={"shards": settings.shards[:2]})) as gate:
        ((name, answers, why),) = lines(gate.explain(gate.workflow_runs.get_workflow_run_by_id, tenant, APP, RUN))
        everywhere = lines(gate.explain(gate.workflow_runs.get_workflow_run_by_id_without_tenant, RUN))
    assert (name, answers) == ("s2", False)
    assert why == f"slot:{slot_of(tenant)} is there, and these settings have no such shard"
    assert len(everywhere) == 3


def test_the_nodes_are_those_of_the_tenants_shard(two: Cluster) -> None:
    waits = CacheSettings(url=two.cache.url, connect_timeout_ms=5_000, read_timeout_ms=5_000)
    settings = two.settings().model_copy(
        update={"cache": waits, "routing": RoutingSettings(poll_ms=50), "sharding": ShardingSettings(catalogue="s0")}
    )
    with tidegate.connect(settings) as gate:
        seen: set[str] = set()
        while len(seen) < 2:
            tenant = str(uuid4())
            first, *others = gate.explain(gate.workflow_runs.get_workflow_run_by_id, tenant, APP, RUN).nodes
            shard = two.shards[int(first.name[1:])]
            assert isinstance(first, ShardExplained)
            assert all(isinstance(node, NodeExplained) for node in others)
            assert [node.name for node in others] == [
                server.url.rsplit("@", 1)[-1].split("/")[0] for server in (shard.primary, *shard.replicas)
            ]
            seen.add(first.name)


def test_the_command_says_the_same(stocked: Shards, tmp_path: Path) -> None:
    tenant = tenant_on("s1")
    config = settings_file(stocked, tmp_path, cache_url=stocked.cluster.cache.url)
    said = CliRunner().invoke(app, ["explain", "get_workflow_run_by_id", tenant, APP, RUN, "--config", str(config)])
    assert said.exit_code == 0, said.output
    assert f"the shard s1 is asked: slot:{slot_of(tenant)} is there since epoch 1" in said.output
    said = CliRunner().invoke(app, ["explain", "get_workflow_run_by_id_without_tenant", RUN, "--config", str(config)])
    assert [f"the shard s{i} is asked" in said.output for i in range(3)] == [True] * 3
