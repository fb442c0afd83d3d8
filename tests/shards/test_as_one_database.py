"""Every method on three shards answers as the plain repositories do on one database that holds all the rows."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
from real_servers.sameness import outcome, shown
from real_servers.sharded import settings_of, tenant_on
from real_servers.twins import DAYS, SOURCES, STATUSES
from sqlalchemy import create_engine, select
from sqlalchemy.orm import sessionmaker

import tidegate
from tidegate.errors import TenantSwitch
from tidegate.proxy.gated import NodeExecutions, WorkflowRuns
from tidegate.repositories import (
    DifyAPISQLAlchemyWorkflowNodeExecutionRepository,
    DifyAPISQLAlchemyWorkflowRunRepository,
)
from tidegate.repositories.entities.pause_reason import SchedulingPause
from tidegate.repositories.models import (
    Base,
    WorkflowAppLog,
    WorkflowArchiveLog,
    WorkflowNodeExecutionModel,
    WorkflowNodeExecutionOffload,
    WorkflowPause,
    WorkflowPauseReason,
    WorkflowRun,
)
from tidegate.repositories.node_policies import NODE_EXECUTION_POLICIES
from tidegate.repositories.places import InSession
from tidegate.repositories.run_policies import WORKFLOW_RUN_POLICIES
from tidegate.repositories.storage import MemoryStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from real_servers.shards import Shards

RUNS: Final = 24
POLICIES: Final = {**WORKFLOW_RUN_POLICIES, **NODE_EXECUTION_POLICIES}
LATE: Final = DAYS[5] + timedelta(days=1)
NOBODYS: Final = str(uuid4())


class World:
    """Rows of four tenants, two of them on one shard; each run shares its time with runs of the others."""

    def __init__(self) -> None:
        self.tenants: list[str] = []
        for shard in ("s0", "s1", "s2", "s0"):
            self.tenants.append(tenant_on(shard, frozenset(self.tenants)))
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


class Sides:
    """The gate's repositories and the plain ones."""

    def __init__(self, gate: tidegate.Gate, oracle: sessionmaker[Any], world: World) -> None:
        self.gate, self.oracle, self.world = gate, oracle, world
        self.storage = [MemoryStorage(), MemoryStorage()]
        maker = gate.session_maker
        self.gated = (
            gate.adopt(WorkflowRuns(maker, storage=self.storage[0]), maker),
            gate.adopt(NodeExecutions(maker), maker),
        )
        self.plain = (
            DifyAPISQLAlchemyWorkflowRunRepository(oracle, storage=self.storage[1]),
            DifyAPISQLAlchemyWorkflowNodeExecutionRepository(oracle),
        )

    def fill(self) -> None:
        for n in range(RUNS):
            for storage in self.storage:
                storage.save(f"key {n}", b"{}")
            rows = self.world.rows(n)
            columns = [{a.key: getattr(row, a.key) for a in row.__mapper__.column_attrs} for row in rows]
            for session in (self.gate.session(self.world.tenant(n)), self.oracle()):
                with session as opened:
                    for row, values in zip(rows, columns, strict=True):
                        given = {key: value for key, value in values.items() if value is not None}
                        opened.add(type(row)(**given))
                        opened.flush()
                    opened.commit()

    def call(self, side: tuple[Any, Any], method: str, arguments: tuple[Any, ...]) -> Any:
        repository = side[0] if hasattr(side[0], method) else side[1]
        if not isinstance(POLICIES[method].where, InSession):
            return outcome(lambda: getattr(repository, method)(*arguments))
        maker = self.gate.session_maker if side is self.gated else self.oracle
        with maker(expire_on_commit=False) as session:

            def run() -> Any:
                answer = getattr(repository, method)(session, *arguments)
                session.commit()
                session.expunge_all()
                return answer

            return outcome(run)

    def same(self, method: str, *arguments: Any) -> Any:
        expected = self.call(self.plain, method, arguments)
        for _ in range(3):
            found = self.call(self.gated, method, arguments)
            assert found == expected, (method, arguments)
        return expected

    def tables(self, session: Any) -> list[Any]:
        """All rows, but for what is made anew on each side."""
        models = (m.class_ for m in Base.registry.mappers)
        return [
            sorted(
                str({key: value for key, value in row._mapping.items() if key not in ("updated_at", "resumed_at")})
                for row in session.execute(select(model.__table__))
            )
            for model in models
        ]

    def same_rows(self, shards: Shards) -> None:
        with self.oracle() as session:
            expected = self.tables(session)
        parts = []
        for engine in shards.engines.values():
            with engine.connect() as connection:
                parts.append(self.tables(connection))
        assert [sorted(row for rows in of_model for row in rows) for of_model in zip(*parts, strict=True)] == expected


@pytest.fixture
def sides(stocked: Shards, made_oracle: sessionmaker[Any]) -> Iterator[Sides]:
    with tidegate.connect(settings_of(stocked, catalogue="s0")) as gate:
        made = Sides(gate, made_oracle, World())
        made.fill()
        yield made


@pytest.fixture(scope="session")
def oracle_engine(made_shards: Shards) -> Iterator[Any]:
    primary = made_shards.cluster.shards[0].primary
    primary.execute("CREATE DATABASE oracle", database="postgres")
    engine = create_engine(primary.url.rsplit("/", 1)[0] + "/oracle")
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def made_oracle(oracle_engine: Any) -> sessionmaker[Any]:
    with oracle_engine.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())
    return sessionmaker(oracle_engine)


def reads(w: World) -> dict[str, list[tuple[Any, ...]]]:
    some, mixed = w.runs[3], [*w.runs[1:20:3], NOBODYS]
    span = (DAYS[0], LATE)
    statistics = [(t, w.app, SOURCES[0], *span, "UTC") for t in w.tenants]
    objects = [WorkflowRun(id=key) for key in mixed]
    return {
        "get_workflow_run_by_id": [(w.tenant(n), w.app, w.runs[n]) for n in range(5)] + [(w.tenant(0), w.app, NOBODYS)],
        "get_workflow_run_by_id_without_tenant": [(key,) for key in (*w.runs[:6], some.upper(), NOBODYS, "no id")],
        "get_paginated_workflow_runs": [
            (t, w.app, list(SOURCES), limit, last) for t in w.tenants for limit, last in ((2, None), (20, w.runs[9]))
        ],
        "get_workflow_runs_count": [(t, w.app, SOURCES[0]) for t in w.tenants],
        "get_expired_runs_batch": [(t, LATE, 4) for t in w.tenants],
        "get_runs_batch_by_time_range": [
            (start, LATE, last, size, None, tenants)
            for start, last in ((None, None), (DAYS[1], (DAYS[1], w.runs[8])))
            for size in (1, 3, 7, 100, 0)
            for tenants in (None, [], w.tenants[:1], [w.tenants[0], w.tenants[3]], w.tenants[1:])
        ],
        "get_archived_log_by_run_id": [(key,) for key in (*w.runs[:6], NOBODYS)],
        "count_runs_with_related": [(objects,), ([],), (w.rows(2)[:1],)],
        "get_workflow_pause": [(key,) for key in (*w.runs[:4], NOBODYS)],
        "get_daily_runs_statistics": statistics,
        "get_daily_terminals_statistics": statistics,
        "get_daily_token_cost_statistics": statistics,
        "get_average_app_interaction_statistics": statistics,
        "get_archived_run_ids": [(mixed,), ([some],), ([],)],
        "get_archived_logs_by_time_range": [
            (t, *span, n) for t in (None, w.tenants[:1], w.tenants) for n in (1, 5, 99)
        ],
        "get_archived_runs_by_time_range": [
            (t, *span, n) for t in (None, w.tenants[:1], w.tenants) for n in (1, 5, 99)
        ],
        "get_pause_records_by_run_id": [(w.runs[1],), (w.runs[2],), (NOBODYS,)],
        "get_pause_reason_records_by_run_id": [([w.pauses[1]],), ([w.pauses[3], NOBODYS],)],
        "get_app_logs_by_run_id": [(some,), (NOBODYS,)],
        "get_node_last_execution": [(t, w.app, w.workflow, "node") for t in w.tenants],
        "get_executions_by_workflow_run": [(w.tenant(n), w.app, w.runs[n]) for n in range(5)],
        "get_execution_by_id": [(w.nodes[n], t) for n in range(5) for t in (None, w.tenant(n), w.tenant(0))]
        + [(NOBODYS,)],
        "get_expired_executions_batch": [(t, LATE, 4) for t in w.tenants],
        "count_by_runs": [(mixed,), ([some],)],
        "get_offloads_by_execution_ids": [([w.nodes[4]],)],
        "get_by_workflow_run": [(some,)],
    }


def test_reads(sides: Sides) -> None:
    for method, calls in reads(sides.world).items():
        for arguments in calls:
            sides.same(method, *arguments)


def _pause(side: Any, w: World, n: int) -> Any:
    return side[0].get_workflow_pause(w.runs[n])


WRITES: Final[dict[str, Callable[[Any, World], Any]]] = {
    "delete_runs_by_ids": lambda r, w: r[0].delete_runs_by_ids([*w.runs[1:15:2], NOBODYS]),
    "delete_runs_by_app": lambda r, w: r[0].delete_runs_by_app(w.tenant(1), w.app, 2),
    "delete_runs_with_related": lambda r, w: r[0].delete_runs_with_related(
        [WorkflowRun(id=key) for key in (*w.runs[4:12], NOBODYS)],
        lambda session, runs: r[1].delete_by_runs(session, [run.id for run in runs]),
    ),
    "create_workflow_pause": lambda r, w: [
        r[0].create_workflow_pause(w.runs[n], w.app, "s", [SchedulingPause(message="m")]).get_state() for n in (8, 15)
    ],
    "create_workflow_pause of nobody": lambda r, w: r[0].create_workflow_pause(NOBODYS, w.app, "s", []),
    "resume_workflow_pause": lambda r, w: (
        r[0].resume_workflow_pause(w.runs[13], r[0].get_workflow_pause(w.runs[13])).id
    ),
    "resume_workflow_pause of another": lambda r, w: r[0].resume_workflow_pause(w.runs[6], _pause(r, w, 13)),
    "delete_workflow_pause": lambda r, w: r[0].delete_workflow_pause(r[0].get_workflow_pause(w.runs[5])),
    "delete_workflow_pause, twice": lambda r, w: [
        r[0].delete_workflow_pause(each) for each in [r[0].get_workflow_pause(w.runs[5])] * 2
    ],
    "prune_pauses": lambda r, _w: r[0].prune_pauses(LATE, LATE, 7),
    "prune_pauses, all": lambda r, _w: r[0].prune_pauses(LATE, LATE),
    "prune_pauses, none": lambda r, _w: r[0].prune_pauses(LATE, LATE, -1),
    "delete_expired_executions": lambda r, w: r[1].delete_expired_executions(w.tenant(2), LATE, 2),
    "delete_executions_by_app": lambda r, w: r[1].delete_executions_by_app(w.tenant(3), w.app, 2),
    "delete_executions_by_ids": lambda r, w: r[1].delete_executions_by_ids([*w.nodes[2:9], NOBODYS]),
    "save": lambda r, _w: r[0].save(None),
    "save_execution_data": lambda r, _w: r[1].save_execution_data(None),
}


REFUSED: Final = (" of nobody", " of another", "twice", "none", "save", "save_execution_data")


@pytest.mark.parametrize("name", WRITES)
def test_writes(sides: Sides, stocked: Shards, name: str) -> None:
    w = sides.world
    for key in w.runs[::2]:
        sides.same("get_workflow_run_by_id_without_tenant", key)  # cached, and wrong from now on
    answers = [outcome(lambda: WRITES[name](side, w)) for side in (sides.plain, sides.gated)]  # noqa: B023
    assert answers[0] == answers[1]
    assert (answers[0][0] == "raised") == name.endswith(REFUSED)
    if name != "create_workflow_pause":  # which makes ids of its own
        sides.same_rows(stocked)
    assert sorted(sides.storage[0]._objects) == sorted(sides.storage[1]._objects) or name == "create_workflow_pause"
    for method in ("get_workflow_run_by_id_without_tenant", "get_archived_log_by_run_id"):
        for key in w.runs:
            sides.same(method, key)
    for key in w.nodes:
        sides.same("get_execution_by_id", key)


def test_writes_in_sessions(sides: Sides, stocked: Shards) -> None:
    w = sides.world
    sides.call(sides.plain, "delete_archive_log_by_run_id", (w.runs[4],))
    assert shown(1) == sides.call(sides.gated, "delete_archive_log_by_run_id", (w.runs[4],))
    sides.call(sides.plain, "delete_by_runs", ([w.runs[8], w.runs[12]],))
    assert shown((2, 2)) == sides.call(sides.gated, "delete_by_runs", ([w.runs[8], w.runs[12]],))
    sides.same_rows(stocked)
    run, logs = w.rows(5)[0], w.rows(5)[3:4]
    assert sides.call(sides.gated, "create_archive_logs", (run, logs, None)) == shown(1)
    kind, error, _ = sides.call(sides.gated, "delete_by_runs", (w.runs[:3],))
    assert (kind, error) == ("raised", TenantSwitch)
    with sides.gate.session(w.tenant(0)) as session, pytest.raises(TenantSwitch):
        sides.gated[0].delete_archive_log_by_run_id(session, w.runs[1])


def test_every_method_is_compared() -> None:
    in_sessions = {"delete_archive_log_by_run_id", "delete_by_runs", "create_archive_logs"}
    assert {*reads(World()), *(name.split(" of ")[0].split(",")[0] for name in WRITES), *in_sessions} == set(POLICIES)


def test_ids_that_are_known_are_not_searched_for(sides: Sides) -> None:
    w = sides.world
    gate, storage = sides.gate, sides.gated[0]
    before = gate.stats().events.get("Filled", 0)
    for _ in range(100):
        for key in w.runs[:4]:
            storage.get_workflow_run_by_id_without_tenant(key)
    method = gate.stats().methods["tidegate.proxy.gated.WorkflowRuns.get_workflow_run_by_id_without_tenant"]
    assert gate.stats().events["Filled"] > before
    assert method.served > 300
