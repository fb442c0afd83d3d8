"""Random sequences of every public method, on a gate on three shards and on plain repositories on one database.

Both have the same rows at each step: everything is done to both, and must answer, raise and leave behind the same.
Tenants are on different shards, and share the times of their runs.
"""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from real_servers.every_method import CACHED, READS, SESSION_READS, SESSION_WRITES, WRITES, every_method
from real_servers.gate_vs_plain_random import DAYS, OUTSIDE, POOL, REASONS, save_node, save_run
from real_servers.printed_numbers import show
from real_servers.sharded_vs_plain import OnShards
from sqlalchemy import select

from tidegate.repositories.models import WorkflowPause, WorkflowRun, WorkflowTriggerLog, new_id
from tidegate.repositories.runs.related_rows import count_where, delete_where

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from real_servers.sharded_vs_plain import Oracle, Side
    from sqlalchemy.orm import Session

    Arguments = Callable[[Side, OnShards, int, int], tuple[Any, ...]]

STEPS_A_SEQUENCE: Final = 40
IN_CI: Final = 5
IN_TURN: Final = 10
"""So many steps of a sequence come first, and are not random: a few sequences make every call."""
UNORDERED: Final = "get_offloads_by_execution_ids"


def _some(make: Callable[[int], str], n: int, m: int) -> list[str]:
    """Up to five ids of several tenants; now and then with one of nobody, or none."""
    found = [make(n + i * m) for i in range(1 + (n + m) % 5)]
    if m == POOL - 1:
        found.append("no id" if n % 2 else new_id())
    return found


def _tenants(ids: OnShards, n: int, m: int) -> list[str] | None:
    return None if m == 0 else ids.tenants[n % 4 : n % 4 + m % 5]


def _rows(ids: OnShards, n: int, m: int) -> list[WorkflowRun]:
    """Runs as a caller has them, with their tenant or without."""
    keys = dict.fromkeys([ids.run(n), ids.run(m), ids.run(n + m)])
    tenants = {ids.run(i): ids.tenant(i) for i in range(POOL)}
    return [WorkflowRun(id=key, tenant_id=tenants[key]) if m % 2 else WorkflowRun(id=key) for key in keys]


def _related(side: Side, ids: OnShards, n: int, m: int, *, delete: bool) -> tuple[Any, ...]:
    def nodes(session: Session, runs: Sequence[WorkflowRun]) -> tuple[int, int]:
        method = side.nodes.delete_by_runs if delete else side.nodes.count_by_runs
        return method(session, [run.id for run in runs])

    def logs(session: Session, run_ids: Sequence[str]) -> int:
        if m == 1:
            raise OSError("on purpose")
        return (delete_where if delete else count_where)(session, WorkflowTriggerLog, "workflow_run_id", run_ids)

    return (_rows(ids, n, m), nodes, logs)[: 1 + 2 * (n % 3 > 0)]


# Of several tenants, where the tables of the other test name one.
MIXED: Final[dict[str, Arguments]] = {
    "get_runs_batch_by_time_range": lambda _side, ids, n, m: (
        DAYS[0] if n % 2 else None,
        DAYS[m % 6],
        (DAYS[n % 6], ids.run(n)) if m % 3 == 0 else None,
        (1, 3, 5, 100, 0)[n % 5],
        None,
        _tenants(ids, n, m),
    ),
    "count_runs_with_related": lambda side, ids, n, m: _related(side, ids, n, m, delete=False),
    "delete_runs_with_related": lambda side, ids, n, m: _related(side, ids, n, m, delete=True),
    "delete_runs_by_ids": lambda _side, ids, n, m: (_some(ids.run, n, m),),
    "delete_executions_by_ids": lambda _side, ids, n, m: (_some(ids.node, n, m),),
    "get_archived_run_ids": lambda _side, ids, n, m: (_some(ids.run, n, m),),
    "count_by_runs": lambda _side, ids, n, m: (_some(ids.run, n, m),),
    UNORDERED: lambda _side, ids, n, m: (_some(ids.node, n, m),),
    "get_archived_logs_by_time_range": lambda _side, ids, n, m: (_tenants(ids, n, m), DAYS[0], DAYS[m % 6], 1 + n),
    "get_archived_runs_by_time_range": lambda _side, ids, n, m: (_tenants(ids, n, m), DAYS[0], DAYS[m % 6], 1 + n),
}
ACTIONS: Final = [
    *(f"read {method}" for method in (*READS, *SESSION_READS)),
    *[f"read {method}" for method in MIXED if method in READS or method in SESSION_READS] * 2,
    *(f"write {method}" for method in (*WRITES, *SESSION_WRITES)),
    *(f"outside {name}" for name in OUTSIDE),
    *(f"unpause {method}" for method in ("resume_workflow_pause", "delete_workflow_pause")),
    *(f"invalidate {what}" for what in ("tenant", "app", "run")),
    *["save run", "save node", "outside restore", "outside change", "pause", "archive", "forget"] * 3,
]
INDEX = st.integers(0, POOL - 1)


class Calls(RuleBasedStateMachine):
    """One sequence."""

    oracle: Oracle

    def __init__(self) -> None:
        super().__init__()
        self.oracle.begin()
        self.ids = OnShards()
        self.turn = 0
        for n in range(POOL):
            self._save("run", n, n // 2)
            self._save("node", n, n)
        made = self.oracle.sequences * IN_TURN
        self.oracle.sequences += 1
        actions = list(dict.fromkeys(ACTIONS))
        for i in range(made, made + IN_TURN):
            self.do(actions[i % len(actions)], i % POOL, i // 3 % POOL)

    @rule(action=st.sampled_from(ACTIONS), n=INDEX, m=INDEX)
    def step(self, action: str, n: int, m: int) -> None:
        self.do(action, n, m)

    def do(self, action: str, n: int, m: int) -> None:
        kind, _, name = action.partition(" ")
        self.oracle.alike.step += 1
        self.oracle.counted["steps"] += 1
        self.oracle.counted[f"steps: {kind}"] += 1
        getattr(self, f"_{kind}")(name, n, m)

    @invariant()
    def nothing_cached_differs(self) -> None:
        self.turn += 1
        method, n = CACHED[self.turn % len(CACHED)], self.turn // len(CACHED)
        self._read(method, n, 1)

    def teardown(self) -> None:
        self.oracle.same_rows()

    def _call(self, method: str, arguments: Arguments, n: int, m: int, *, times: int) -> None:
        self.oracle.counted[method] += 1
        name, in_session = f"{method}({n}, {m})", method in SESSION_READS or method in SESSION_WRITES

        def call(side: Side) -> Any:
            given = arguments(side, self.ids, n, m)
            if not in_session:
                return side.method(method)(*given)
            # A session of nobody's becomes its tenant's, or is answered from several shards.
            with side.session(self.ids.tenant(n)) if m % 2 and method not in MIXED else side.sessions() as session:
                answer = side.method(method)(session, *given)
                if times == 1:
                    session.commit()
                session.expunge_all()
                return sorted(answer, key=lambda row: row.id) if method == UNORDERED else answer

        self.oracle.same(name, call, times=times)

    def _arguments(self, method: str, table: dict[str, Any]) -> Arguments:
        if method == "get_pause_reason_records_by_run_id":
            return self._of_pauses()
        return MIXED.get(method) or (lambda _side, ids, n, m: table[method](ids, n, m))

    def _of_pauses(self) -> Arguments:
        with self.oracle.plain.sessions() as session:
            known = session.scalars(select(WorkflowPause.id).order_by(WorkflowPause.id)).all()
        return lambda _side, _ids, n, m: ([*known[n % 3 :][: 1 + m], *[new_id()] * (m % 2)],)

    def _read(self, method: str, n: int, m: int) -> None:
        self._call(method, self._arguments(method, READS | SESSION_READS), n, m, times=2)

    def _write(self, method: str, n: int, m: int) -> None:
        self._call(method, self._arguments(method, WRITES | SESSION_WRITES), n, m, times=1)

    def _save(self, what: str, n: int, m: int) -> None:
        counted = self.oracle.counted if what == "run" else Counter[str]()
        if what == "node":
            m = self.ids.like(n, m)  # its run is of the same tenant
            self.oracle.counted.update(["save node", "save_execution_data", "get_by_workflow_run"])

        def save(side: Side) -> None:
            both: Any = SimpleNamespace(gate=side, counted=counted)
            (save_node if what == "node" else save_run)(both, self.ids, n, m)

        self.oracle.same(f"save {what} {n} {m}", save)

    def _outside(self, name: str, n: int, m: int) -> None:
        def write(side: Side) -> None:
            with side.session(self.ids.tenant(n)) as session:
                OUTSIDE[name](session, self.ids, n, self.ids.like(n, m) if name == "delete_many" else m)
                if m != POOL - 1:  # else rolled back
                    session.commit()

        self.oracle.same(f"{name} {n} {m}", write)

    def _archive(self, _name: str, n: int, _m: int) -> None:
        def archive(side: Side) -> Any:
            with side.session(self.ids.tenant(n)) as session:
                run = session.get(WorkflowRun, self.ids.run(n))
                logs = side.runs.get_app_logs_by_run_id(session, self.ids.run(n))
                done = None if run is None else side.runs.create_archive_logs(session, run, logs, None)
                session.commit()
                return done

        self.oracle.counted["create_archive_logs"] += 1
        self.oracle.same(f"archive {n}", archive)

    def _pause(self, _name: str, n: int, m: int) -> None:
        def pause(side: Side) -> Any:
            with side.session(self.ids.tenant(n)) as session:
                if (run := session.get(WorkflowRun, self.ids.run(n))) is not None and m != POOL - 1:
                    run.status = "running"
                    session.commit()
            return side.runs.create_workflow_pause(self.ids.run(n), self.ids.app(n), f"state {m}", REASONS[: 1 + m % 2])

        self.oracle.counted["create_workflow_pause"] += 1
        self.oracle.same(f"pause {n} {m}", pause)
        self._read("get_workflow_pause", n, m)

    def _unpause(self, method: str, n: int, m: int) -> None:
        self._pause(method, n, 0)

        def unpause(side: Side) -> Any:
            # Where m is 1, with the pause of another run.
            pause = side.runs.get_workflow_pause(self.ids.run(n + (m == 1)))
            if pause is None:
                return None
            arguments = (pause,) if method == "delete_workflow_pause" else (self.ids.run(n), pause)
            return side.method(method)(*arguments)

        self.oracle.counted[method] += 1
        self.oracle.same(f"{method} {n} {m}", unpause)

    def _invalidate(self, what: str, n: int, _m: int) -> None:
        named: dict[str, Any] = {
            "tenant": {},
            "app": {"app_id": self.ids.app(n)},
            "run": {"run_id": self.ids.run(n)},
        }[what]
        self.oracle.gated.invalidate(self.ids.tenant(n), **named)

    def _forget(self, _name: str, _n: int, _m: int) -> None:
        self.oracle.forget()


@pytest.mark.parametrize(
    "sequences", [IN_CI, pytest.param(420, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])], ids=["ci", "soak"]
)
def test_three_shards_answer_as_one_database_does(sequences: int, oracle: Oracle) -> None:
    Calls.oracle = oracle
    run_state_machine_as_test(
        Calls,
        settings=settings(
            max_examples=sequences,
            stateful_step_count=STEPS_A_SEQUENCE,
            deadline=None,
            database=None,
            derandomize=sequences == IN_CI,
            phases=[Phase.generate],  # to shrink takes as many minutes as a sequence takes seconds
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            verbosity=Verbosity.quiet,
        ),
    )
    show("steps", Counter({name: n for name, n in oracle.counted.items() if name.startswith("steps: ")}))
    show("methods", Counter({name: n for name, n in oracle.counted.items() if not name.startswith("steps")}))
    assert every_method() <= set(oracle.counted), every_method() - set(oracle.counted)
    assert oracle.counted["steps"] > sequences * STEPS_A_SEQUENCE / 2
