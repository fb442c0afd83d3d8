"""What a shard has refused: tried again where nothing was committed, and never let through."""

from __future__ import annotations

import time
from contextlib import nullcontext
from datetime import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
from real_servers.deadlines import patient
from real_servers.driver_statements import note_taking
from real_servers.sharded import hold_back, run_of, run_row, save_run, settings_of, shards_with, tenant_on
from sqlalchemy import event, func, insert, select, text
from sqlalchemy.dialects.postgresql import insert as pg_insert

import tidegate
from tidegate.errors import StaleShardMap
from tidegate.proxy.layers.gated_repositories import WorkflowRuns
from tidegate.repositories.base import SQLAlchemyRepository
from tidegate.repositories.enums import WorkflowRunTriggeredFrom
from tidegate.repositories.models import WorkflowPause, WorkflowRun
from tidegate.repositories.policies import PolicyTable, Write
from tidegate.repositories.runs.pause_storage import MemoryStorage
from tidegate.routing.sharding.slots import slot_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from real_servers.shards import Shards

NOW: Final = datetime.fromisoformat("2024-03-05T12:00:00")
APP: Final = str(uuid4())
FLIP_WAIT_S: Final = patient(0.2)
"""Some times what one look at the catalogue takes."""


@pytest.fixture
def gate(stocked: Shards) -> Iterator[tidegate.Gate]:
    with tidegate.connect(settings_of(stocked, cache=False, catalogue="s0", flip_wait_s=FLIP_WAIT_S)) as made:
        yield made


def user_of(tenant: str) -> SimpleNamespace:
    return SimpleNamespace(id=APP, tenant_id=tenant)


def there_and_back(shards: Shards, tenant: str) -> None:
    """Have the shard that has the rows own them since another epoch."""
    shards.flipper().flip([slot_of(tenant)], "s0", "s1")
    shards.flipper().flip([slot_of(tenant)], "s1", "s0")


def test_each_write_of_a_repository_has_its_own_patience(gate: tidegate.Gate, stocked: Shards) -> None:
    tenant, flip = tenant_on("s0"), stocked.flipper().flip
    runs = gate.workflow_executions(user_of(tenant), APP, "app-run")
    hold_back(gate)
    flip([slot_of(tenant)], "s0", "s1")
    runs.save(run_of(APP, NOW))
    time.sleep(1.1 * FLIP_WAIT_S)  # longer than the first one would have waited
    flip([slot_of(tenant)], "s1", "s2")
    last = run_of(APP, NOW)
    runs.save(last)
    assert shards_with(stocked, last.id_) == ["s2"]


def test_a_session_commits_nothing_where_its_tenant_is_not_any_more(gate: tidegate.Gate, stocked: Shards) -> None:
    tenant = tenant_on("s0")
    with gate.session(tenant) as session:
        session.execute(text("INSERT INTO writes VALUES (1, 2)"))  # of a table that is not tracked
        stocked.flipper().flip([slot_of(tenant)], "s0", "s1")
        with pytest.raises(StaleShardMap):
            session.commit()
    with stocked.engines["s0"].connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM writes")) == 0


@pytest.mark.parametrize("how", ["text", "unit of work", "insert"])
def test_a_statement_is_refused_where_its_tenant_is_not_any_more(
    gate: tidegate.Gate, stocked: Shards, how: str
) -> None:
    tenant = tenant_on("s0")
    run_id = save_run(gate, tenant, APP, NOW)
    with gate.session(tenant) as session:
        if how == "text":
            session.execute(text("SELECT 1"))
        elif how == "unit of work":
            session.get_one(WorkflowRun, run_id).error = "late"
        else:
            session.add(run_row(tenant))
        if how == "insert":
            hold_back(gate)
        stocked.flipper().flip([slot_of(tenant)], "s0", "s1")
        failed = text("UPDATE workflow_runs SET status = 'failed' WHERE id = :run")
        with pytest.raises(StaleShardMap, match="the shard s0 does not own slot:"):
            session.execute(failed, {"run": run_id}) if how == "text" else session.flush()
        session.rollback()
    with stocked.engines["s0"].connect() as connection:
        assert connection.scalars(select(WorkflowRun.status)).all() == ["succeeded"]
        assert connection.scalars(select(WorkflowRun.error)).all() == [None]


def test_a_session_is_checked_at_commit_in_the_one_statement_that_takes_its_notes(
    gate: tidegate.Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, sent = tenant_on("s0"), list[str]()
    run_id = save_run(gate, tenant, APP, NOW)
    engine = gate._shards.every[0].engine
    event.listen(engine, "before_cursor_execute", lambda _c, _cursor, sql, *_: sent.append(sql))
    note_taking(monkeypatch, sent.append)
    with gate.session(tenant) as session:
        for statement, most in (("SELECT 1", 0), ("INSERT INTO writes VALUES (1, 2)", 1)):
            session.execute(text(statement))
            sent.clear()
            session.commit()
            assert len(sent) == most
        session.get_one(WorkflowRun, run_id).error = "none"
        session.flush()
        sent.clear()
        session.commit()
        assert not any("tidegate_ownership" in sql for sql in sent)


def test_a_session_that_inserted_nothing_looks_at_commit(gate: tidegate.Gate, stocked: Shards) -> None:
    tenant = tenant_on("s0")
    run_id = save_run(gate, tenant, APP, NOW)
    hold_back(gate)
    there_and_back(stocked, tenant)
    row = run_row(tenant)
    given = {"id": run_id} | {c.key: v for c in WorkflowRun.__table__.columns if (v := getattr(row, c.key)) is not None}
    with gate.session(tenant) as session:
        none = pg_insert(WorkflowRun).values(given).on_conflict_do_nothing().returning(WorkflowRun.id)
        assert session.scalars(none).all() == []
        with pytest.raises(StaleShardMap):
            session.commit()


def test_what_comes_after_an_insert_is_looked_at_first(gate: tidegate.Gate, stocked: Shards) -> None:
    tenant = tenant_on("s0")
    hold_back(gate)
    there_and_back(stocked, tenant)
    with gate.session(tenant) as session:
        session.add(run_row(tenant))
        session.flush()  # the shard owns the tenant, since another epoch
        with pytest.raises(StaleShardMap, match="since epoch 1"):
            session.execute(text("SELECT 1"))


def test_reads_beside_the_pipeline_follow_their_tenant(gate: tidegate.Gate, stocked: Shards) -> None:
    tenant = tenant_on("s0")
    save_run(gate, tenant, APP, NOW)
    nodes = gate.workflow_node_executions(user_of(tenant), APP, "workflow-run")
    hold_back(gate)
    there_and_back(stocked, tenant)
    assert nodes.get_by_workflow_run(APP) == []
    page = gate.workflow_runs.get_paginated_workflow_runs(tenant, APP, WorkflowRunTriggeredFrom.APP_RUN)
    there_and_back(stocked, tenant)
    assert [run.graph_dict for run in page.data] == [{"nodes": []}]


def test_pauses_are_pruned_where_their_tenant_is(
    gate: tidegate.Gate, stocked: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = tenant_on("s0")
    pause = {"id": str(uuid4()), "workflow_id": APP, "workflow_run_id": save_run(gate, tenant, APP, NOW)}
    with stocked.engines["s0"].begin() as connection:
        connection.execute(insert(WorkflowPause).values(**pause, state_object_key="none", created_at=NOW))
    runs = gate.adopt(WorkflowRuns(gate.session_maker, storage=MemoryStorage()), gate.session_maker)
    find = WorkflowRuns._pauses_to_prune

    def found(self: WorkflowRuns, *given: Any) -> Any:
        due = find(self, *given)
        if due:
            there_and_back(stocked, tenant)
        return due

    hold_back(gate)
    monkeypatch.setattr(WorkflowRuns, "_pauses_to_prune", found)
    assert runs.prune_pauses(datetime.max, datetime.max) == [pause["id"]]  # noqa: DTZ901  # columns are naive


class Own(SQLAlchemyRepository):
    def in_transact(self, tenant_id: str) -> None:
        self._transact(lambda session: session.add(run_row(tenant_id)))

    def by_itself(self, tenant_id: str) -> None:
        with self._session_maker() as session, session.begin():
            session.add(run_row(tenant_id))


def test_of_a_repository_of_ones_own_transact_alone_tries_again(gate: tidegate.Gate, stocked: Shards) -> None:
    tenant = tenant_on("s0")
    own = gate.wrap(Own, PolicyTable({"in_transact": Write(), "by_itself": Write()}), [])(gate.session_maker)
    hold_back(gate)
    there_and_back(stocked, tenant)
    own.in_transact(tenant)
    there_and_back(stocked, tenant)
    with pytest.raises(StaleShardMap):
        own.by_itself(tenant)
    with gate.session(tenant) as session:
        assert session.scalar(select(func.count()).select_from(WorkflowRun)) == 1


@pytest.mark.parametrize("away", [False, True])
def test_a_session_that_was_refused_does_nothing_more(gate: tidegate.Gate, stocked: Shards, *, away: bool) -> None:
    tenant = tenant_on("s0")
    behind = hold_back(gate, away=away)
    there_and_back(stocked, tenant)
    with gate.session(tenant) as session:
        for _ in range(2):
            with pytest.raises(StaleShardMap):
                session.execute(text("INSERT INTO writes VALUES (1, 1)"))
        session.rollback()
        behind.away = False
        with pytest.raises(StaleShardMap) if away else nullcontext():
            session.scalar(text("SELECT 1"))
        session.rollback()
        assert session.scalar(text("SELECT count(*) FROM writes")) == 0
