"""Slots of no rows change hands and come back, while gates write and read, one of them cut off from the catalogue.

A trigger of the databases' own says of each run, at its COMMIT, whether the shard owned its slot then.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
from real_servers.figures import show
from real_servers.sharded import EVEN, hold_back, save_run, settings_of, tenant_on
from real_servers.twins import DAYS
from sqlalchemy import text

import tidegate
from tidegate.errors import StaleShardMap
from tidegate.routing.slots import slot_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from real_servers.shards import Shards

SECONDS: Final = 10.0
WRITES_A_SECOND: Final = 300
WRITERS: Final = 6
WATCH: Final = (
    "CREATE TABLE units (tenant uuid PRIMARY KEY, unit text)",
    "CREATE TABLE wrongly (id uuid)",
    """CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
         IF NOT EXISTS (SELECT FROM units JOIN tidegate_ownership USING (unit) WHERE tenant = NEW.tenant_id AND owned)
         THEN INSERT INTO wrongly VALUES (NEW.id); END IF;
         RETURN NULL; END $$""",
    """CREATE CONSTRAINT TRIGGER see AFTER INSERT ON workflow_runs DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION see()""",
)
UNWATCH: Final = ("DROP TRIGGER see ON workflow_runs", "DROP FUNCTION see", "DROP TABLE units, wrongly")


@pytest.fixture
def watched(stocked: Shards) -> Iterator[Shards]:
    _on_all(stocked, WATCH)
    yield stocked
    _on_all(stocked, UNWATCH)


def _on_all(shards: Shards, statements: tuple[str, ...]) -> list[Any]:
    found: list[Any] = []
    for engine in shards.engines.values():
        with engine.begin() as connection:
            for statement in statements:
                result = connection.execute(text(statement))
                found += result.all() if result.returns_rows else []
    return found


class Load:
    """Writers and readers; what they have done, and what went wrong."""

    def __init__(self, gates: list[tidegate.Gate], cut: tidegate.Gate, shards: Shards) -> None:
        self.gates, self.cut = gates, cut
        self.moving: list[str] = []
        for _ in range(4):
            self.moving.append(tenant_on("s0", frozenset(self.moving)))
        self.steady = [tenant_on(shard, frozenset(self.moving)) for shard in ("s0", "s1", "s2")]
        self.app = str(uuid4())
        self.stop = threading.Event()
        self.counted: Counter[str] = Counter()
        self.written: list[str] = []
        self.wrong: list[str] = []
        for engine in shards.engines.values():
            with engine.begin() as connection:
                for tenant in (*self.moving, *self.steady):
                    row = {"tenant": tenant, "unit": EVEN.holding(tenant).unit}
                    connection.execute(text("INSERT INTO units VALUES (:tenant, :unit)"), row)

    def write(self, number: int) -> None:
        pause_s, turn = WRITERS / WRITES_A_SECOND, number
        due_s = time.monotonic()
        while not self.stop.is_set():
            turn += 1
            gate = self.cut if turn % 7 == 0 else self.gates[turn % len(self.gates)]
            tenant = (self.moving if turn % 2 else self.steady)[turn // 2 % 3]
            run_id = str(uuid4())
            try:
                save_run(gate, tenant, self.app, DAYS[0], run_id)
            except StaleShardMap:
                self.counted["refused writes of the gate that is cut off" if gate is self.cut else "refused"] += 1
            else:
                self.written.append(run_id)
                if tenant in self.steady and gate.workflow_runs.get_workflow_run_by_id_without_tenant(run_id) is None:
                    self.wrong.append(f"{run_id} was written and not found")
            due_s += pause_s
            self.stop.wait(max(0.0, due_s - time.monotonic()))

    def read(self, number: int) -> None:
        gate = [*self.gates, self.cut][number % 3]
        seen: dict[str, int] = {}
        while not self.stop.is_set():
            for tenant in (*self.steady, *self.moving):
                try:
                    total = gate.workflow_runs.get_workflow_runs_count(tenant, self.app, "app-run")["total"]
                except StaleShardMap:
                    self.counted["refused reads of the gate that is cut off" if gate is self.cut else "failed"] += 1
                    continue
                self.counted["reads"] += 1
                if tenant in self.steady and total < seen.get(tenant, 0):
                    self.wrong.append(f"{tenant} had {seen[tenant]} runs, and then {total}")
                seen[tenant] = total


def test_no_write_goes_astray_and_no_read_fails(watched: Shards) -> None:
    with ExitStack() as stack:
        settings = settings_of(watched, catalogue="s0", poll_s=0.2, flip_wait_s=20.0)
        gates = [stack.enter_context(tidegate.connect(settings)) for _ in range(2)]
        impatient = settings_of(watched, catalogue="s0", flip_wait_s=0.1)
        cut = stack.enter_context(tidegate.connect(impatient))
        hold_back(cut, away=True)
        load = Load(gates, cut, watched)
        slots = sorted({slot_of(tenant) for tenant in load.moving})
        pool = stack.enter_context(ThreadPoolExecutor(WRITERS + 3))
        running = [pool.submit(load.write, n) for n in range(WRITERS)] + [pool.submit(load.read, n) for n in range(3)]
        began_s, flips, here, there = time.monotonic(), 0, "s0", "s1"
        try:
            while time.monotonic() - began_s < SECONDS:
                watched.flipper(drain_s=20.0).flip(slots, here, there)
                here, there, flips = there, here, flips + 1
                load.stop.wait(0.5)
        finally:
            load.stop.set()
        for each in running:
            each.result()
        seconds = time.monotonic() - began_s
    found = Counter(str(row[0]) for row in _on_all(watched, ("SELECT id FROM workflow_runs",)))
    load.counted.update(flips=flips, writes=len(load.written), per_second=int(len(load.written) / seconds))
    show("under flips", load.counted)
    assert _on_all(watched, ("SELECT id FROM wrongly",)) == []
    assert not load.wrong
    assert {run_id: found[run_id] for run_id in load.written if found[run_id] != 1} == {}
    assert load.counted["failed"] == load.counted["refused"] == 0
    assert flips >= 4
    assert load.counted["refused writes of the gate that is cut off"] > 0
    assert found.keys() == set(load.written)
