"""A shard that the settings and the map do not both name: before it is added, as it is, and where a gate lacks it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import uuid4

import pytest
from real_servers.sharded import NOW, save_run, settings_of, shards_with
from real_servers.toml import settings_file
from typer.testing import CliRunner

import tidegate
from tidegate.errors import NoNodeAvailable, PartialResult
from tidegate.proxy.cli.app import app
from tidegate.proxy.embedded.process import wait_for
from tidegate.routing.sharding.slots import slot_of

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from real_servers.shards import Shards

APP: Final = str(uuid4())


def of_two(shards: Shards) -> tidegate.Settings:
    settings = settings_of(shards, catalogue="s0", poll_s=0.2)
    return settings.model_copy(update={"shards": settings.shards[:2]})


def of_three(shards: Shards) -> tidegate.Settings:
    return settings_of(shards, catalogue="s0", poll_s=0.2)


def add_last(shards: Shards, folder: Path) -> None:
    """As a person does, with settings of all."""
    path = settings_file(shards, folder)
    said = CliRunner().invoke(app, ["shards", "add", "s2", "--config", str(path)])
    assert said.exit_code == 0, said.output


def tenant_in(slots: Collection[int]) -> str:
    while slot_of(tenant := str(uuid4())) not in slots:
        pass
    return tenant


def count(gate: tidegate.Gate, tenant: str) -> int:
    return gate.workflow_runs.get_workflow_runs_count(tenant, APP, "app-run")["total"]


def begun_with_two(shards: Shards) -> dict[str, set[int]]:
    """The catalogue holds a map of two shards; the slots that each keeps, and those that the third will get."""
    tidegate.connect(of_two(shards)).close()
    shard_map = shards.map()
    going = {slot for slots in shard_map.slots_to_add("s2").values() for slot in slots}
    return {name: set(shard_map.slots_of(name)) - going for name in shard_map.shards} | {"s2": going}


def test_a_gate_whose_settings_name_a_shard_before_the_map_does_goes_on_when_it_is_added(
    stocked: Shards, tmp_path: Path
) -> None:
    slots = begun_with_two(stocked)
    with tidegate.connect(of_three(stocked)) as live:
        staying = {name: tenant_in(slots[name]) for name in ("s0", "s1")}
        coming = tenant_in(slots["s2"])
        runs = {name: save_run(live, tenant, APP, NOW) for name, tenant in staying.items()}
        assert {name: shards_with(stocked, run) for name, run in runs.items()} == {"s0": ["s0"], "s1": ["s1"]}
        assert count(live, coming) == 0
        add_last(stocked, tmp_path)
        assert stocked.map().shards == ("s0", "s1", "s2")
        assert shards_with(stocked, save_run(live, coming, APP, NOW)) == ["s2"]
        assert [count(live, tenant) for tenant in (*staying.values(), coming)] == [1, 1, 1]
        with live.session(coming) as session:
            assert session.connection().engine.url == stocked.engines["s2"].url
        runs["s2"] = save_run(live, coming, APP, NOW)
        assert {live.workflow_runs.get_workflow_run_by_id_without_tenant(run).id for run in runs.values()} == {  # type: ignore[union-attr]
            *runs.values()
        }


def test_a_shard_that_the_map_does_not_know_may_be_down(stocked: Shards, tmp_path: Path) -> None:
    slots = begun_with_two(stocked)
    server = stocked.cluster.shards[2].primary
    server.kill()
    try:
        with tidegate.connect(of_three(stocked)) as live:
            tenant = tenant_in(slots["s1"])
            save_run(live, tenant, APP, NOW)
            assert count(live, tenant) == 1
            assert live.workflow_runs.get_workflow_run_by_id_without_tenant(str(uuid4())) is None  # all are asked
            server.start()
            add_last(stocked, tmp_path)
            assert shards_with(stocked, save_run(live, tenant_in(slots["s2"]), APP, NOW)) == ["s2"]
    finally:
        if not server.running:
            server.start()


def test_a_gate_that_lacks_a_shard_of_the_map_serves_the_tenants_of_the_others(stocked: Shards, tmp_path: Path) -> None:
    slots = begun_with_two(stocked)
    here, there = tenant_in(slots["s0"]), tenant_in(slots["s2"])
    with tidegate.connect(of_two(stocked)) as live:
        run_id = save_run(live, here, APP, NOW)
        add_last(stocked, tmp_path)
        wait_for(lambda: "s2" in live._shards.names(), "the gate has the new map")
        with pytest.raises(NoNodeAvailable, match=r"'s2'.*no such shard"):
            save_run(live, there, APP, NOW)
        with pytest.raises(NoNodeAvailable, match=r"'s2'.*no such shard"):
            count(live, there)
        with live.session(there) as session, pytest.raises(NoNodeAvailable, match=r"'s2'.*no such shard"):
            session.connection()
        save_run(live, here, APP, NOW)
        assert count(live, here) == 2
        assert live.workflow_runs.get_workflow_run_by_id_without_tenant(run_id) is not None
        with pytest.raises(PartialResult, match=r"'s2'.*no such shard"):
            live.workflow_runs.get_workflow_run_by_id_without_tenant(str(uuid4()))
    with tidegate.connect(of_two(stocked)) as started_so:
        assert count(started_so, here) == 2
        with pytest.raises(NoNodeAvailable, match=r"'s2'.*no such shard"):
            count(started_so, there)
