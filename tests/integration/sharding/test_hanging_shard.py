"""One shard that answers nothing: the others see no error, wait for no connection of it, and lose none of theirs."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
from real_servers.deadlines import patient
from real_servers.sharded import NOW, OfThree, run_row, save_run, settings_of, shards_with, tenant_on
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

import tidegate
from tidegate.errors import PartialResult
from tidegate.proxy.embedded.process import wait_for
from tidegate.proxy.settings import PoolSettings, RoutingSettings
from tidegate.proxy.writes.commit_connection import CommittingConnection
from tidegate.repositories.models import WorkflowRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from real_servers.shards import Shards

    from tidegate.proxy.tracking.notes import Note

APP: Final = str(uuid4())
EVER: Final = datetime.max  # noqa: DTZ901  # columns are naive
THREADS: Final = 4
"""Of a scatter, for each shard."""
SCATTER_S: Final = 900
"""Much longer than any call takes."""


class Pools:
    """How many connections of each shard are in use."""

    def __init__(self, gate: tidegate.Gate) -> None:
        self._pools: dict[str, Any] = {parts.name: parts.engine.pool for parts in gate._shards.every}

    def used(self, *shards: str) -> list[int]:
        return [self._pools[name].checkedout() for name in shards]

    def come_back(self, *shards: str) -> None:
        """Wait until none is: the outbox is looked through now and then."""
        wait_for(lambda: not any(self.used(*shards)), f"no connection of {', '.join(shards)} is in use")


@contextmanager
def locked(shards: Shards) -> Iterator[None]:
    """Statements about runs wait on the last shard."""
    with shards.engines["s2"].connect() as holder:
        holder.execute(text("LOCK TABLE workflow_runs, workflow_archive_logs IN ACCESS EXCLUSIVE MODE"))
        yield
        holder.rollback()


@contextmanager
def stopped(shards: Shards) -> Iterator[None]:
    """The last shard's server says nothing at all."""
    server = shards.cluster.shards[2].primary
    server.pause()
    try:
        yield
    finally:
        server.resume()


def test_a_shard_that_hangs_takes_no_connection_of_the_others(stocked: Shards) -> None:
    pool = PoolSettings(size=2, overflow=1, timeout_s=patient(60))
    settings = settings_of(stocked, catalogue="s0").model_copy(update={"pool": pool})
    with tidegate.connect(settings) as gate, ThreadPoolExecutor(12) as threads:
        three, pools = OfThree(gate, APP), Pools(gate)
        with locked(stocked):
            hanging = [threads.submit(three.use, "s2") for _ in range(8)]
            wait_for(lambda: pools.used("s2") == [3], "all connections of the shard are in use")
            pools.come_back("s0", "s1")
            for turn in [threads.submit(three.use, name) for _ in range(15) for name in ("s0", "s1")]:
                turn.result(timeout=patient(30))
            assert not any(each.done() for each in hanging)
        for each in hanging:
            each.result(timeout=patient(30))


def test_a_server_that_is_stopped_holds_up_scatters_for_their_time_and_nobody_else(stocked: Shards) -> None:
    settings = settings_of(stocked, catalogue="s0", scatter_s=0.5)
    with tidegate.connect(settings) as gate, ThreadPoolExecutor(12) as threads:
        three, pools = OfThree(gate, APP), Pools(gate)
        with stopped(stocked):
            began_s = time.monotonic()
            asking = [
                threads.submit(gate.workflow_runs.get_runs_batch_by_time_range, None, EVER, None, 10) for _ in range(10)
            ]
            for turn in [threads.submit(three.use, name) for _ in range(15) for name in ("s0", "s1")]:
                turn.result(timeout=patient(30))
            for each in asking:
                with pytest.raises(PartialResult, match="the shard s2 did not answer in time"):
                    each.result(timeout=patient(30))
            assert time.monotonic() - began_s < patient(10)
            assert pools.used("s2")[0] <= THREADS + 1  # and the outbox's
            pools.come_back("s0", "s1")
        pools.come_back("s2")
        assert len(gate.workflow_runs.get_runs_batch_by_time_range(None, EVER, None, 100)) == 33


def test_a_gate_is_made_while_a_shard_is_stopped_and_joins_it_later(stocked: Shards) -> None:
    settings = settings_of(stocked, catalogue="s0")
    with tidegate.connect(settings) as gate:
        three = OfThree(gate, APP)
    soon = settings.shards[2].model_copy(update={"primary": f"{settings.shards[2].primary}?connect_timeout=2"})
    settings = settings.model_copy(update={"shards": (*settings.shards[:2], soon)})
    with stopped(stocked):
        late = tidegate.connect(settings)
        three.gate = late
        three.use("s0")
        with pytest.raises(OperationalError, match="timeout"):
            three.use("s2")
        three.use("s1")
    with late:
        three.use("s2")


def batch(gate: tidegate.Gate) -> object:
    return gate.workflow_runs.get_runs_batch_by_time_range(None, EVER, None, 10)


def find(gate: tidegate.Gate) -> object:
    return gate.workflow_runs.delete_runs_by_ids([str(uuid4())])


def in_session(gate: tidegate.Gate) -> object:
    with gate.session_maker() as session:
        return gate.workflow_runs.get_archived_logs_by_time_range(session, None, datetime.min, EVER, 10)  # noqa: DTZ901


@pytest.mark.parametrize("ask", [batch, find, in_session])
def test_what_outlives_its_scatter_ends_on_the_server(stocked: Shards, ask: Callable[[tidegate.Gate], object]) -> None:
    with tidegate.connect(settings_of(stocked, catalogue="s0", scatter_s=0.5)) as gate:
        pools = Pools(gate)
        with locked(stocked):
            with pytest.raises(PartialResult, match="s2"):
                ask(gate)
            pools.come_back("s2")


def test_what_is_said_to_have_failed_is_not_done_later(stocked: Shards) -> None:
    with tidegate.connect(settings_of(stocked, catalogue="s0", scatter_s=0.5)) as gate:
        three, pools = OfThree(gate, APP), Pools(gate)
        runs = [WorkflowRun(id=run_id, tenant_id=three.tenants[name]) for name, run_id in three.runs.items()]
        with locked(stocked):
            with pytest.raises(PartialResult) as failed:
                gate.workflow_runs.delete_runs_with_related(runs)
            pools.come_back("s2")
        assert set(failed.value.failed) == {"s2"}
        assert [shards_with(stocked, three.runs[name]) for name in three.runs] == [[], [], ["s2"]]


@pytest.mark.parametrize("slow", ["statement", "notes"])
def test_what_takes_too_long_in_all_is_not_committed_either(
    stocked: Shards, slow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, refused = threading.Event(), threading.Event()
    with tidegate.connect(settings_of(stocked, catalogue="s0")) as gate:
        parts: Any = gate._shards.every[1]
        asked: Any = gate._parts.caller_sessions

        def executed(_connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
            assert "INSERT INTO writes" not in sql or ended.wait(patient(30))

        def taken(committing: CommittingConnection, tenant: str | None) -> list[Note]:
            notes = take_notes(committing, tenant)
            assert ended.wait(patient(30))
            return notes

        take_notes = CommittingConnection.take_notes
        if slow == "notes":
            monkeypatch.setattr(CommittingConnection, "take_notes", taken)
        else:
            event.listen(parts.engine, "after_cursor_execute", executed)

        def write() -> None:
            with parts.sessions() as session:
                session.execute(text("INSERT INTO writes VALUES (1, 1)"))
                if slow == "notes":  # at the COMMIT of what is tracked
                    session.add(run_row(tenant_on("s1")))
                with pytest.raises(TimeoutError):
                    session.commit()
                refused.set()

        with pytest.raises(PartialResult):
            asked._scatter("writing", {"s1": write}, timeout_s=0.3)
        ended.set()
        assert refused.wait(patient(30))
    with stocked.engines["s1"].connect() as connection:
        assert connection.execute(text("SELECT * FROM writes")).all() == []


@pytest.mark.parametrize(("given_ms", "most_ms"), [(0, 60_000), (1_500, 1_500), (90_000, 60_000)])
def test_a_shorter_time_that_was_set_stays(stocked: Shards, given_ms: int, most_ms: int) -> None:
    routing = RoutingSettings(primary_statement_timeout_ms=given_ms)
    settings = settings_of(stocked, catalogue="s0", scatter_s=60).model_copy(update={"routing": routing})
    sql = text("SELECT setting::int FROM pg_settings WHERE name = 'statement_timeout'")
    with tidegate.connect(settings) as gate:
        parts: Any = gate._shards.every[1]
        asked: Any = gate._parts.caller_sessions

        def ask() -> Any:
            with parts.sessions.begin() as session:
                return session.scalar(sql)

        within = asked._scatter("how long", {"s1": ask})["s1"]
        assert 0 < within <= most_ms
        assert within > most_ms - patient(5) * 1000
        assert ask() == given_ms  # the next transaction of that connection


def test_a_scatter_that_hangs_does_not_hold_up_the_end_of_the_program(stocked: Shards) -> None:
    settings = settings_of(stocked, catalogue="s0", scatter_s=0.2).model_dump_json()
    program = (
        "import sys, tidegate\n"
        "from datetime import datetime\n"
        "gate = tidegate.connect(tidegate.Settings.model_validate_json(sys.argv[1]))\n"
        "print('ready', flush=True)\n"
        "input()\n"
        "gate.workflow_runs.get_runs_batch_by_time_range(None, datetime.max, None, 10)\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program, settings], text=True, **pipes) as child:  # type: ignore[call-overload]
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            with stopped(stocked):
                _, said = child.communicate("\n", timeout=patient(20))
        finally:
            child.kill()
    assert "the shard s2 did not answer in time" in said
    assert child.returncode == 1


def test_what_was_found_waits_for_no_shard(stocked: Shards) -> None:
    settings = settings_of(stocked, cache=False, catalogue="s0", scatter_s=SCATTER_S)
    with tidegate.connect(settings) as writer, tidegate.connect(settings) as gate, locked(stocked):
        tenant = tenant_on("s0")
        run_id = save_run(writer, tenant, APP, NOW)
        began_s = time.monotonic()
        assert gate.workflow_runs.get_workflow_pause(run_id) is None
        assert gate.workflow_runs.get_workflow_run_by_id_without_tenant(save_run(writer, tenant, APP, NOW)) is not None
        assert time.monotonic() - began_s < SCATTER_S


def test_a_session_asks_on_the_connection_that_it_has(stocked: Shards) -> None:
    pool = PoolSettings(size=1, overflow=0, timeout_s=patient(1))
    settings = settings_of(stocked, cache=False, catalogue="s0").model_copy(update={"pool": pool})
    with tidegate.connect(settings) as writer, tidegate.connect(settings) as gate:
        tenant = tenant_on("s0")
        run_id = save_run(writer, tenant, APP, NOW)
        with gate.session(tenant) as session:
            session.execute(text("SELECT 1"))
            assert gate.workflow_runs.get_app_logs_by_run_id(session, run_id) == []
