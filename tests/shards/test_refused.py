"""What a shard has refused: tried again where nothing was committed, and never let through."""

from __future__ import annotations

import time
from datetime import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import pytest
from real_servers.sharded import hold_back, run_of, settings_of, shards_with, tenant_on

import tidegate
from tidegate.routing.slots import slot_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from real_servers.shards import Shards

NOW: Final = datetime.fromisoformat("2024-03-05T12:00:00")
APP: Final = str(uuid4())


@pytest.fixture
def gate(stocked: Shards) -> Iterator[tidegate.Gate]:
    with tidegate.connect(settings_of(stocked, cache=False, catalogue="s0", flip_wait_s=0.2)) as made:
        yield made


def user_of(tenant: str) -> SimpleNamespace:
    return SimpleNamespace(id=APP, tenant_id=tenant)


def test_each_write_of_a_repository_has_its_own_patience(gate: tidegate.Gate, stocked: Shards) -> None:
    tenant, flip = tenant_on("s0"), stocked.flipper().flip
    runs = gate.workflow_executions(user_of(tenant), APP, "app-run")
    hold_back(gate)
    flip([slot_of(tenant)], "s0", "s1")
    runs.save(run_of(APP, NOW))
    time.sleep(0.25)  # longer than the first one would have waited
    flip([slot_of(tenant)], "s1", "s2")
    last = run_of(APP, NOW)
    runs.save(last)
    assert shards_with(stocked, last.id_) == ["s2"]
