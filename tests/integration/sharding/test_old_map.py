"""Readers with an old map: neither a hit nor a fill by it after a flip, on real servers."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from real_servers.sharded import hold_back, save_run, settings_of, tenant_on

import tidegate
from tidegate.cache.events import Filled, Missed, NotFilled, Served
from tidegate.cache.marks import Refusal
from tidegate.errors import StaleShardMap
from tidegate.routing.sharding.slots import slot_of

if TYPE_CHECKING:
    from real_servers.shards import Shards

NOW = datetime.fromisoformat("2024-03-05T12:00:00")
APP = str(uuid4())


def answered(gate: tidegate.Gate, events: list[Any], tenant: str, run_id: str) -> None:
    """Read until the cache answers; its quarantine waits for transactions of other databases of these servers."""
    for _ in range(200):
        events.clear()
        assert gate.workflow_runs.get_workflow_run_by_id(tenant, APP, run_id) is not None
        if kinds(events) == [Served]:
            return
    raise AssertionError(f"the cache never answered: {events}")


def kinds(events: list[Any]) -> list[type]:
    return [type(event) for event in events]


@pytest.mark.parametrize("near", ["off", "strict"])
def test_an_old_map_neither_hits_nor_fills_after_a_flip(stocked: Shards, near: str) -> None:
    tenant, events, others = tenant_on("s0"), list[Any](), list[Any]()
    settings = settings_of(stocked, catalogue="s0")
    cache = settings.cache.model_copy(update={"near_modes": {"all": near}})
    settings = settings.model_copy(update={"cache": cache})
    with (
        tidegate.connect(settings, observe=others.append) as gate,
        tidegate.connect(settings, observe=events.append) as late,
    ):
        behind = hold_back(late, away=True)
        old = behind.current()
        stocked.flipper().flip([slot_of(tenant)], "s0", "s2")
        gate._shards._maps.refresh()
        run_id = save_run(gate, tenant, APP, NOW)
        answered(gate, others, tenant, run_id)
        events.clear()
        for _ in range(2):
            with pytest.raises(StaleShardMap, match="the marks of this tenant are of epoch 2 on s2"):
                late.workflow_runs.get_workflow_run_by_id(tenant, APP, run_id)
        assert [event.reason for event in events if isinstance(event, Missed)] == [Refusal.EPOCH] * 2
        assert not {Served, Filled, NotFilled} & set(kinds(events))
        behind.away = False
        assert late.workflow_runs.get_workflow_run_by_id(tenant, APP, run_id) is not None  # it has read the map
        assert Filled not in kinds(events)
        events.clear()
        assert late.workflow_runs.get_workflow_run_by_id(tenant, APP, run_id) is not None
        assert kinds(events) == [Served]  # what the other has stored
        behind._map, behind.away = old, True  # not even what is near
        with pytest.raises(StaleShardMap, match="the marks of this tenant are of epoch 2 on s2"):
            late.workflow_runs.get_workflow_run_by_id(tenant, APP, run_id)
