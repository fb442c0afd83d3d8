"""How many calls that name no tenant had to ask shards that have none of their rows, counted by what each shard got."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import event

from tidegate.benchmarks.data.population import random_uuid
from tidegate.benchmarks.sharding.stock import engines_of
from tidegate.errors import BenchmarkError
from tidegate.repositories.entities.workflow_execution import WorkflowExecution
from tidegate.repositories.enums import WorkflowExecutionStatus, WorkflowType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tidegate.benchmarks.progress import Advance
    from tidegate.benchmarks.sharding.stock import Stock
    from tidegate.proxy.gate import Gate

COLD_CALLS: Final = 50
_RUNS_EACH: Final = 4
"""How many runs of each tenant the calls are about."""
_NEW: Final = 0.05
_WEIGHTS: Final = {"run": 6, "node": 3, "pause": 1, "delete": 0.1}
_DELETED_AT_ONCE: Final = 3
_ALL: Final = datetime(2100, 1, 1)  # noqa: DTZ001  # columns are naive UTC
_LATE: Final = datetime(2099, 1, 1)  # noqa: DTZ001


@dataclass(frozen=True, slots=True)
class Scattered:
    """Calls without a tenant, and how many of them sent a statement to a shard that has none of their rows.

    Args:
        ids: what kind of ids the calls have.
        calls: how many calls there were.
        scattered: how many of them asked another shard.
        warm: whether the gate had seen all of the ids before, in what it wrote, or read by other methods.
    """

    ids: str
    calls: int
    scattered: int
    warm: bool = False

    @property
    def percent(self) -> float:
        """Return the percentage of the calls that asked another shard."""
        return 100 * self.scattered / self.calls


class Scatters:
    """Count such calls through a gate of several shards without a cache, so that every call asks a shard.

    Args:
        stock: the databases.
        calls: how many calls of the warm gate.
        seed: decides who is asked for.
    """

    def __init__(self, stock: Stock, calls: int, seed: int) -> None:
        self._stock = stock
        self._calls = calls
        self._rng = Random(f"{seed}:scatters")  # noqa: S311  # a load, no secret
        runs = min(_RUNS_EACH, stock.each)
        self._runs = [(tenant, stock.run(tenant, n)) for tenant in stock.tenants for n in range(1, runs + 1)]
        self._nodes = list(self._runs)  # the runs that have one
        self._gone: list[tuple[str, str]] = []
        self._asked: set[str] = set()

    def count(self, advance: Advance) -> list[Scattered]:
        """Count for ids that the gate has never seen, for ids that it has seen, and for ids whose rows are gone."""
        with self._stock.several() as gate, ExitStack() as stack:
            for name, engine in engines_of(gate).items():
                self._listen(name, engine, stack)
            cold = self._rng.sample(self._runs, min(COLD_CALLS, len(self._runs)))
            first = self._counted("never seen", [self._run(gate, *each) for each in cold])
            self._warm(gate)
            warm = self._warm_calls(gate, advance)
            gone = [self._run(gate, *each) for each in self._gone]
            return [first, warm, *([self._counted("of rows that are gone", gone)] if gone else [])]

    def _listen(self, name: str, engine: Any, stack: ExitStack) -> None:
        def sent(*_: Any) -> None:
            self._asked.add(name)

        event.listen(engine, "before_cursor_execute", sent)
        stack.callback(event.remove, engine, "before_cursor_execute", sent)

    def _warm(self, gate: Gate) -> None:
        """Let the gate see every id that will be asked for in a list, as pages and loops do."""
        for tenant in self._stock.tenants:
            gate.workflow_runs.get_expired_runs_batch(tenant, _ALL, _RUNS_EACH)
            gate.node_executions.get_expired_executions_batch(tenant, _ALL, _RUNS_EACH)

    def _warm_calls(self, gate: Gate, advance: Advance) -> Scattered:
        counted, scattered = 0, 0
        kinds, weights = list(_WEIGHTS), list(_WEIGHTS.values())
        while counted < self._calls:
            if self._rng.random() < _NEW:
                self._runs.append(self._saved(gate))
                call = self._run(gate, *self._runs[-1])
            else:
                call = self._call(gate, self._rng.choices(kinds, weights)[0])
            scattered += self._scattered(call)
            counted += 1
            advance(1)
        return Scattered("written or read before", counted, scattered, warm=True)

    def _call(self, gate: Gate, kind: str) -> _Call:
        if kind == "node":
            tenant, run_id = self._rng.choice(self._nodes)
            return _Call({tenant}, partial(gate.node_executions.get_execution_by_id, self._stock.node(run_id)))
        if kind == "delete":
            gone = [self._runs.pop(self._rng.randrange(len(self._runs))) for _ in range(_DELETED_AT_ONCE)]
            self._gone += gone
            self._nodes = [each for each in self._nodes if each not in gone]
            ids = [run_id for _, run_id in gone]
            return _Call({tenant for tenant, _ in gone}, partial(gate.workflow_runs.delete_runs_by_ids, ids))
        tenant, run_id = self._rng.choice(self._runs)
        if kind == "pause":
            return _Call({tenant}, partial(gate.workflow_runs.get_workflow_pause, run_id))
        return self._run(gate, tenant, run_id)

    @staticmethod
    def _run(gate: Gate, tenant: str, run_id: str) -> _Call:
        return _Call({tenant}, partial(gate.workflow_runs.get_workflow_run_by_id_without_tenant, run_id))

    def _saved(self, gate: Gate) -> tuple[str, str]:
        tenant, run_id = self._rng.choice(self._stock.tenants), random_uuid(self._rng)
        app = self._stock.app(tenant)
        gate.workflow_executions(SimpleNamespace(id=app, tenant_id=tenant), app, "app-run").save(
            WorkflowExecution(
                id_=run_id,
                workflow_id=app,
                workflow_version="1",
                workflow_type=WorkflowType.WORKFLOW,
                graph={},
                inputs={},
                started_at=_LATE,
                status=WorkflowExecutionStatus.SUCCEEDED,
            )
        )
        return tenant, run_id

    def _counted(self, ids: str, calls: Sequence[_Call]) -> Scattered:
        return Scattered(ids, len(calls), sum(self._scattered(call) for call in calls))

    def _scattered(self, call: _Call) -> bool:
        """Make *call*, and tell whether it asked a shard that has none of the tenants.

        Raises:
            BenchmarkError: it did not ask a shard that has one of them, so that nothing could be counted.
        """
        self._asked.clear()
        call.ask()
        homes = {self._stock.home[tenant] for tenant in call.tenants}
        if not homes <= self._asked:
            raise BenchmarkError(f"a call about rows on {sorted(homes)} asked {sorted(self._asked)}: it answers unseen")
        return bool(self._asked - homes)


class _Call(NamedTuple):
    """A call that names no tenant, and the tenants whose rows it is about."""

    tenants: set[str]
    ask: Callable[[], object]
