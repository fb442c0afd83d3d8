"""Calls about rows of several tenants, on three shards, answer as on one database with all the rows: ties and limits.

Whole sequences of all methods are compared elsewhere; these are the calls of which parts go to several shards.
"""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
from real_servers.gate_vs_plain_random import DAYS, SOURCES, STATUSES
from real_servers.sharded_vs_plain import OnShards, Oracle, Side
from sqlalchemy import delete, event

from tidegate.errors import TenantSwitch
from tidegate.repositories.entities.pause_reason import SchedulingPause
from tidegate.repositories.models import (
    WorkflowAppLog,
    WorkflowArchiveLog,
    WorkflowNodeExecutionModel,
    WorkflowNodeExecutionOffload,
    WorkflowPause,
    WorkflowPauseReason,
    WorkflowRun,
)
from tidegate.repositories.node_policies import NODE_EXECUTION_POLICIES
from tidegate.repositories.run_policies import WORKFLOW_RUN_POLICIES
from tidegate.repositories.scopes import CallerSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RUNS: Final = 24
POLICIES: Final = {**WORKFLOW_RUN_POLICIES, **NODE_EXECUTION_POLICIES}
LATE: Final = DAYS[5] + timedelta(days=1)
NOBODYS: Final = str(uuid4())


class World:
    """Rows of four tenants, two of them on one shard; each run shares its time with runs of the others."""

    def __init__(self, tenants: list[str]) -> None:
        self.tenants = tenants
        self.app, self.workflow = str(uuid4()), str(uuid4())
        self.runs = sorted(str(uuid4()) for _ in range(RUNS))
        self.nodes = [str(uuid4()) for _ in range(RUNS)]
        self.pauses = [str(uuid4()) for _ in range(RUNS)]

    def tenant(self, n: int) -> str:
        return self.tenants[n % 4]

    def rows(self, n: int) -> list[Any]:
        """What there is of the n-th run."""
        made = {"app_id": self.app, "tenant_id": self.tenant(n), "workflow_id": self.workflow}
        by = {"created_by_role": "account", "created_by": self.app}
        at = DAYS[n % 5]
        run = WorkflowRun(
            **made, **by, id=self.runs[n], type="workflow", version="1", graph="{}", inputs="{}", created_at=at,
            triggered_from=SOURCES[n % 2], total_tokens=n, status=STATUSES[n % len(STATUSES)].value,
        )  # fmt: skip
        node = WorkflowNodeExecutionModel(
            **made, **by, id=self.nodes[n], workflow_run_id=self.runs[n], index=n, node_id="node", node_type="llm",
            title="t", status="succeeded", created_at=at, triggered_from="workflow-run",
        )  # fmt: skip
        offload = WorkflowNodeExecutionOffload(
            id=str(uuid4()), tenant_id=self.tenant(n), app_id=self.app, node_execution_id=self.nodes[n],
            type_="outputs", file_id=self.app, created_at=at,
        )  # fmt: skip
        log = WorkflowAppLog(
            **made, **by, id=str(uuid4()), workflow_run_id=self.runs[n], created_from="service-api", created_at=at
        )
        archived = WorkflowArchiveLog(
            **made, **by, id=str(uuid4()), workflow_run_id=self.runs[n], run_version="1", run_status="succeeded",
            run_triggered_from="app-run", run_created_at=at, archived_at=at,
        )  # fmt: skip
        pause = WorkflowPause(
            id=self.pauses[n], workflow_id=self.workflow, workflow_run_id=self.runs[n], created_at=at, updated_at=at,
            state_object_key=f"key {n}",
        )  # fmt: skip
        reason = WorkflowPauseReason(
            id=str(uuid4()), pause_id=self.pauses[n], type_="scheduled_pause", message="m", created_at=at, updated_at=at
        )
        return [run, node, offload, log, *([archived] if n % 3 else []), *([pause, reason] if n % 2 else [])]


def _columns(row: Any) -> dict[str, Any]:
    found = {each.key: getattr(row, each.key) for each in row.__mapper__.column_attrs}
    return {key: value for key, value in found.items() if value is not None}


@pytest.fixture
def world(oracle: Oracle) -> World:
    """All rows, on both sides; the gate does not know whose they are."""
    made = World(OnShards().tenants)
    values = {n: [(type(row), _columns(row)) for row in made.rows(n)] for n in range(RUNS)}

    def add(side: Side) -> None:
        for n in range(RUNS):
            side.storage.save(f"key {n}", b"{}")
        for i in range(len(made.tenants)):
            with side.session(made.tenant(i)) as session:
                session.add_all(
                    model(**columns) for n in values if n % len(made.tenants) == i for model, columns in values[n]
                )
                session.commit()

    oracle.same("rows", add)
    oracle.forget()
    return made


def call(side: Side, method: str, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(POLICIES[method].scope, CallerSession):
        return side.method(method)(*arguments)
    with side.sessions(expire_on_commit=False) as session:
        answer = side.method(method)(session, *arguments)
        session.commit()
        session.expunge_all()
        return answer


def objects(w: World, *numbers: int) -> list[WorkflowRun]:
    """Runs with their tenants and without."""
    return [WorkflowRun(id=w.runs[n], **({"tenant_id": w.tenant(n)} if n % 2 else {})) for n in numbers]


def reads(w: World) -> Iterator[tuple[str, tuple[Any, ...]]]:
    mixed, span = [*w.runs[1:20:3], NOBODYS], (DAYS[0], LATE)
    some: list[list[str] | None] = [None, [], w.tenants[:1], [w.tenants[0], w.tenants[3]], w.tenants[1:]]
    for tenants in some:
        for last in (None, (DAYS[1], w.runs[8])):
            for size in (1, 7, 100):
                yield "get_runs_batch_by_time_range", (None, LATE, last, size, None, tenants)
        for limit in (1, 5, 99):
            yield "get_archived_logs_by_time_range", (tenants, *span, limit)
            yield "get_archived_runs_by_time_range", (tenants, *span, limit)
    for key in (*w.runs[:5], w.runs[3].upper(), NOBODYS, "no id"):
        yield "get_workflow_run_by_id_without_tenant", (key,)
        yield "get_archived_log_by_run_id", (key,)
        yield "get_workflow_pause", (key,)
        yield "get_app_logs_by_run_id", (key,)
    for key in (*w.nodes[:5], NOBODYS, "no id"):
        yield "get_execution_by_id", (key,)
    yield "count_runs_with_related", ([*objects(w, *range(1, 20, 3)), WorkflowRun(id=NOBODYS)],)
    yield "count_by_runs", (mixed,)
    yield "get_archived_run_ids", (mixed,)
    yield "get_pause_reason_records_by_run_id", ([*reversed(w.pauses), NOBODYS],)
    yield "get_pause_reason_records_by_run_id", (_in_two_batches(w.pauses),)


def _in_two_batches(keys: list[str]) -> list[str]:
    return [*keys[12:], *(str(uuid4()) for _ in range(1000)), *keys[:12]]


def refused(w: World) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """With one thing that cannot be: as on one database, nothing is done of the rest."""
    mixed = [*w.runs[:4], "no id"]
    yield "get_runs_batch_by_time_range", (None, LATE, None, 0, None, None)
    yield "get_runs_batch_by_time_range", (None, LATE, None, 5, None, [*w.tenants, "no id"])
    yield "get_archived_logs_by_time_range", ([*w.tenants, "no id"], DAYS[0], LATE, 5)
    yield "count_runs_with_related", ([*objects(w, 1, 2, 3), WorkflowRun(id="no id")],)
    yield "prune_pauses", (LATE, LATE, -1)
    for method in ("delete_runs_by_ids", "count_by_runs", "get_archived_run_ids", "delete_executions_by_ids"):
        yield method, (mixed,)


def test_reads(oracle: Oracle, world: World) -> None:
    for method, arguments in reads(world):
        oracle.same((method, arguments), lambda side: call(side, method, arguments), times=2)  # noqa: B023  # at once
        if len(str(arguments)) % 3 == 0:
            oracle.forget()


def test_what_is_refused_changes_nothing(oracle: Oracle, world: World) -> None:
    for method, arguments in refused(world):
        found = oracle.same((method, arguments), lambda side: call(side, method, arguments))  # noqa: B023  # at once
        assert found[0] == "raised", method
    oracle.same_rows()


def _fail(_session: Any, _ids: Any) -> int:
    raise LookupError("on purpose")


WRITES: Final[dict[str, Callable[[Side, World], Any]]] = {
    "delete_runs_by_ids": lambda s, w: s.runs.delete_runs_by_ids([*w.runs[1:15:2], NOBODYS]),
    "delete_runs_with_related": lambda s, w: s.runs.delete_runs_with_related(
        [*objects(w, *range(15, 20)), WorkflowRun(id=NOBODYS)],
        lambda session, runs: s.nodes.delete_by_runs(session, [run.id for run in runs]),
    ),
    "a callback that fails": lambda s, w: s.runs.delete_runs_with_related(objects(w, 20, 21), None, _fail),
    "create_workflow_pause": lambda s, w: [
        s.runs.create_workflow_pause(w.runs[n], w.app, "s", [SchedulingPause(message="m")]) for n in (0, 7)
    ],
    "prune_pauses": lambda s, _w: s.runs.prune_pauses(DAYS[4], DAYS[4], 3),
    "prune_pauses, all": lambda s, _w: s.runs.prune_pauses(DAYS[4], DAYS[4]),
    "delete_executions_by_ids": lambda s, w: s.nodes.delete_executions_by_ids([*w.nodes[2:9], NOBODYS]),
}


def test_writes(oracle: Oracle, world: World) -> None:
    for name, write in WRITES.items():
        for key in world.runs[::2]:  # cached, and wrong from now on
            oracle.same(key, lambda side: side.runs.get_workflow_run_by_id_without_tenant(key))  # noqa: B023
        oracle.forget()
        oracle.alike.step += 1
        oracle.same(name, lambda side: write(side, world))  # noqa: B023  # called at once
        oracle.same_rows()
        for key in world.runs:
            oracle.same(key, lambda side: side.runs.get_workflow_run_by_id_without_tenant(key))  # noqa: B023


def test_what_belongs_to_runs_that_are_gone(oracle: Oracle, world: World) -> None:
    """Pauses name no tenant: with their run gone, nobody can tell whose they were."""
    of_runs = (WorkflowAppLog, WorkflowArchiveLog, WorkflowNodeExecutionModel)
    for engine in (oracle.engine, *oracle.across.engines.values()):
        with engine.begin() as connection:
            connection.execute(delete(WorkflowRun))
            for model in of_runs:
                connection.execute(delete(model))
    oracle.forget()
    paused = range(1, 16, 2)
    for n in paused:
        for method, argument in (
            ("get_pause_records_by_run_id", world.runs[n]),
            ("get_pause_reason_records_by_run_id", [world.pauses[n]]),
        ):
            oracle.same((method, n), lambda side: call(side, method, (argument,)))  # noqa: B023  # called at once
    oracle.same("all reasons", lambda side: call(side, "get_pause_reason_records_by_run_id", (world.pauses,)))
    oracle.same("count", lambda side: side.runs.count_runs_with_related(objects(world, *paused)))
    oracle.same("by ids", lambda side: side.runs.delete_runs_by_ids(world.runs[:8]))
    oracle.same_rows()
    for n in (9, 11):
        entity: Any = _Pause(world.pauses[n], world.runs[n])
        oracle.same(f"pause {n}", lambda side: side.runs.delete_workflow_pause(entity))  # noqa: B023  # called at once
    oracle.same_rows()
    with oracle.plain.sessions() as session:
        assert session.get(WorkflowPause, world.pauses[11]) is None


class _Pause:
    def __init__(self, key: str, run_id: str) -> None:
        self.id = key
        self.workflow_execution_id = run_id


LIMITED: Final[dict[str, Callable[[Side, World], Any]]] = {
    "get_runs_batch_by_time_range": lambda s, _w: s.runs.get_runs_batch_by_time_range(None, LATE, None, 2),
    "get_archived_logs_by_time_range": lambda s, _w: call(
        s, "get_archived_logs_by_time_range", (None, DAYS[0], LATE, 2)
    ),
    "get_archived_runs_by_time_range": lambda s, _w: call(
        s, "get_archived_runs_by_time_range", (None, DAYS[0], LATE, 2)
    ),
    "prune_pauses": lambda s, _w: s.runs.prune_pauses(DAYS[4], DAYS[4], 2),
}


@pytest.mark.parametrize("name", LIMITED)
def test_a_shard_sends_no_more_rows_than_the_limit_and_one(oracle: Oracle, world: World, name: str) -> None:
    received: dict[str, int] = {}
    with ExitStack() as heard:
        for shard, engine in oracle.across.watched.items():

            def count(_connection: Any, cursor: Any, sql: str, *_rest: Any, shard: str = shard) -> None:
                if sql.startswith("SELECT") and " LIMIT " in sql and "tidegate_outbox" not in sql:
                    received[shard] = received.get(shard, 0) + cursor.rowcount

            event.listen(engine, "after_cursor_execute", count)
            heard.callback(event.remove, engine, "after_cursor_execute", count)
        answer = LIMITED[name](oracle.gated, world)
    assert len(answer) == 2
    assert received.keys() == oracle.across.watched.keys()
    assert max(received.values()) <= 3


def test_a_session_of_one_tenant_answers_about_no_other(oracle: Oracle, world: World) -> None:
    """Nor about one on the same shard: what a flip could part is parted already."""
    mine, other = 0, 3  # both on one shard
    with oracle.gated.session(world.tenant(mine)) as session:
        (log,) = oracle.gated.runs.get_app_logs_by_run_id(session, world.runs[other])
        assert log not in session
        (log,) = oracle.gated.runs.get_app_logs_by_run_id(session, world.runs[mine])
        assert log in session
        with pytest.raises(TenantSwitch, match="use gate"):
            oracle.gated.runs.get_app_logs_by_run_id(session, world.runs[other])
        assert oracle.gated.runs.get_app_logs_by_run_id(session, NOBODYS) == []
    with oracle.gated.session(world.tenant(mine)) as session, pytest.raises(TenantSwitch):
        oracle.gated.runs.delete_archive_log_by_run_id(session, world.runs[other])
    with oracle.gated.sessions.begin() as session:  # begun by hand, and has done nothing
        assert len(oracle.gated.nodes.get_offloads_by_execution_ids(session, world.nodes)) == RUNS
    with oracle.gated.sessions() as session, pytest.raises(TenantSwitch):
        oracle.gated.nodes.delete_by_runs(session, world.runs[:3])


def test_a_write_about_nobody_in_a_session_of_nobody_finds_nothing(oracle: Oracle) -> None:
    oracle.same("archive", lambda side: call(side, "delete_archive_log_by_run_id", (NOBODYS,)))
    oracle.same("nodes", lambda side: call(side, "delete_by_runs", ([NOBODYS],)))
