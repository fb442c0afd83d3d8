"""The gate on real servers: what is cached, what it costs, and what invalidation, switches and the outbox do."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from real_servers.deadlines import patient
from real_servers.driver_statements import note_taking
from real_servers.sent_packets import packets_sent
from sqlalchemy import create_engine, event, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker
from typer.testing import CliRunner

import tidegate
from tidegate.cache.events import Filled, Served
from tidegate.cache.redis.store import RedisStore
from tidegate.cache.store import StoreUnavailable
from tidegate.errors import CacheUnavailable, PolicyError, SettingsError
from tidegate.proxy.cli.app import app
from tidegate.proxy.database.histories import Histories
from tidegate.proxy.database.primary import PostgresPrimary
from tidegate.proxy.database.schema import OUTBOX
from tidegate.proxy.database.serving import served
from tidegate.proxy.layers.gated_repositories import NodeExecutions, WorkflowRuns
from tidegate.proxy.settings import CacheSettings, Settings, ShardSettings
from tidegate.repositories.models import WorkflowRun, new_id
from tidegate.repositories.node_policies import NODE_EXECUTION_POLICIES
from tidegate.repositories.policies import PolicyTable, Read, Tracked, Write
from tidegate.repositories.run_policies import WORKFLOW_RUN_POLICIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

    from tidegate.proxy.embedded import Cluster

TENANT, APP = "7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10", "1b0a1e8e-90c6-4f0e-8a52-5d1f0c7a2b20"


class Watched:
    """A gate, and what was seen of it."""

    def __init__(self, engine: Engine, cache: CacheSettings) -> None:
        self.events: list[Any] = []
        self.statements: list[str] = []
        self.settings = Settings(cache=cache)
        self.gate = tidegate.gate_on(engine, sessionmaker(engine), Settings(cache=cache), observe=self.events.append)
        self.runs = self.gate.workflow_runs
        event.listen(engine, "before_cursor_execute", self._note)

    def _note(self, *args: Any) -> None:
        if threading.current_thread() is threading.main_thread():  # and not the outbox's
            self.statements.append(args[2])

    def make_run(self, **overrides: Any) -> WorkflowRun:
        values: dict[str, Any] = {"tenant_id": TENANT, "app_id": APP, "workflow_id": new_id(), "created_by": new_id()}
        values |= {"type": "workflow", "triggered_from": "app-run", "version": "1", "created_by_role": "account"}
        values |= {"graph": '{"nodes": []}', "inputs": "{}", "status": "succeeded"}
        with self.gate.session_maker(expire_on_commit=False) as session:
            run = WorkflowRun(**(values | overrides))
            session.add(run)
            session.commit()
            return run

    def came_from(self, call: Callable[[], Any]) -> str:
        """ "store", "near" or "database"."""
        self.events.clear()
        call()
        return next((e.where for e in self.events if isinstance(e, Served)), "database")

    def warm(self, call: Callable[[], Any]) -> None:
        """Call until the answer comes from the cache: a fresh tenant's marks take a few steps."""
        for _ in range(10):
            if self.came_from(call) == "store":
                return
        pytest.fail(f"never cached: {self.events}")


@pytest.fixture
def engine(tables_url: str) -> Iterator[Engine]:
    made = create_engine(tables_url)
    yield made
    made.dispose()


@pytest.fixture
def cache_settings(cluster: Cluster) -> CacheSettings:
    return CacheSettings(url=cluster.cache.url, connect_timeout_ms=5_000, read_timeout_ms=5_000, near=False)


@pytest.fixture
def watched(engine: Engine, cache_settings: CacheSettings) -> Iterator[Watched]:
    made = Watched(engine, cache_settings)
    yield made
    made.gate.close()


def test_which_methods_are_cached_is_pinned() -> None:
    def cached(policies: PolicyTable) -> set[str]:
        return {name for name, row in policies.items() if isinstance(row, Read) and row.guard is not None}

    assert cached(WORKFLOW_RUN_POLICIES) == {
        "get_paginated_workflow_runs",
        "get_workflow_run_by_id",
        "get_workflow_run_by_id_without_tenant",
        "get_workflow_runs_count",
        "get_daily_runs_statistics",
        "get_daily_terminals_statistics",
        "get_daily_token_cost_statistics",
        "get_average_app_interaction_statistics",
    }
    assert cached(NODE_EXECUTION_POLICIES) == {
        "get_node_last_execution",
        "get_executions_by_workflow_run",
        "get_execution_by_id",
    }


def test_every_cached_method_is_served_from_the_cache_and_void_after_a_change(watched: Watched) -> None:
    run = watched.make_run()
    nodes = watched.gate.node_executions
    calls: list[Callable[[], Any]] = [
        lambda: watched.runs.get_paginated_workflow_runs(TENANT, APP, "app-run"),  # type: ignore[arg-type]
        lambda: watched.runs.get_workflow_run_by_id(TENANT, APP, run.id),
        lambda: watched.runs.get_workflow_runs_count(TENANT, APP, "app-run"),
        lambda: watched.runs.get_daily_runs_statistics(TENANT, APP, "app-run"),
        lambda: watched.runs.get_daily_terminals_statistics(TENANT, APP, "app-run"),
        lambda: watched.runs.get_daily_token_cost_statistics(TENANT, APP, "app-run"),
        lambda: watched.runs.get_average_app_interaction_statistics(TENANT, APP, "app-run"),
    ]
    for call in calls:
        watched.warm(call)
    with watched.gate.session(TENANT) as session:
        session.execute(update(WorkflowRun).where(WorkflowRun.id == run.id).values(total_tokens=5))
        session.commit()
    assert [watched.came_from(call) for call in calls] == ["database"] * len(calls)
    of_nodes: list[Callable[[], Any]] = [
        lambda: nodes.get_node_last_execution(TENANT, APP, run.workflow_id, "n"),
        lambda: nodes.get_executions_by_workflow_run(TENANT, APP, run.id),
        lambda: nodes.get_execution_by_id(run.id, TENANT),
    ]
    for call in of_nodes:
        watched.warm(call)
    assert watched.came_from(lambda: nodes.get_execution_by_id(run.id)) == "database"
    assert watched.came_from(lambda: watched.runs.get_workflow_runs_count(TENANT, APP, "app-run", time_range="1d")) == (
        "database"
    )


def test_every_spelling_of_an_id_is_the_same_entry(watched: Watched) -> None:
    run = watched.make_run()
    watched.warm(lambda: watched.runs.get_workflow_run_by_id(TENANT, APP, run.id))
    for spelling in (run.id.upper(), run.id.replace("-", ""), "{" + run.id + "}"):
        assert watched.came_from(lambda s=spelling: watched.runs.get_workflow_run_by_id(TENANT.upper(), APP, s)) == (  # type: ignore[misc]
            "store"
        )


def test_a_hit_asks_the_database_nothing_and_a_write_adds_one_statement(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_taking(monkeypatch, watched.statements.append)
    sent = packets_sent(monkeypatch)
    run = watched.make_run()
    watched.warm(lambda: watched.runs.get_workflow_run_by_id(TENANT, APP, run.id))
    watched.statements.clear()
    sent.clear()
    watched.runs.get_workflow_run_by_id(TENANT, APP, run.id)
    assert (watched.statements, len(sent)) == ([], 1)
    sent.clear()
    watched.make_run()
    assert [statement.split()[0] for statement in watched.statements] == ["INSERT", "SELECT"]
    assert len(sent) == 2
    watched.runs.get_paginated_workflow_runs(TENANT, new_id(), "app-run")  # type: ignore[arg-type]  # finds the indexes
    watched.statements.clear()
    sent.clear()
    watched.runs.get_paginated_workflow_runs(TENANT, APP, "app-run")  # type: ignore[arg-type]
    assert (len(watched.statements), len(sent)) == (1, 3)
    with watched.gate.session(TENANT) as session:
        sent.clear()
        session.execute(text("SELECT 1"))
        session.commit()
    assert not sent


def test_invalidation_voids_a_tenant_an_app_or_a_run_and_nothing_else(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = packets_sent(monkeypatch)
    other_app, other_tenant = new_id(), new_id()
    runs = [watched.make_run(), watched.make_run(app_id=other_app), watched.make_run(tenant_id=other_tenant)]
    calls: list[Callable[[], Any]] = [
        lambda r=run: watched.runs.get_workflow_run_by_id(r.tenant_id, r.app_id, r.id)  # type: ignore[misc]
        for run in runs
    ]

    watched.gate.invalidate(new_id())  # from now on the server has the script

    def named(packets: list[bytes]) -> int:
        """How many ask now and then which server it is."""
        return len([packet for packet in packets if b"tg:id:" in packet])

    def cold_after(**which: Any) -> list[bool]:
        for call in calls:
            watched.warm(call)
        sent.clear()
        watched.gate.invalidate(TENANT, **which)
        assert len(sent) - named(sent) == 1
        return [watched.came_from(call) == "database" for call in calls]

    assert cold_after() == [True, True, False]
    assert cold_after(app_id=APP) == [True, False, False]
    assert cold_after(run_id=runs[1].id.upper()) == [False, True, False]


def test_an_invalidation_inside_a_transaction_takes_effect_with_its_commit(watched: Watched) -> None:
    run = watched.make_run()

    def read() -> Any:
        return watched.runs.get_workflow_run_by_id(TENANT, APP, run.id)

    watched.warm(read)
    with watched.gate.session(TENANT) as session:
        watched.gate.invalidate(TENANT, app_id=APP, session=session)
        assert watched.came_from(read) == "store"
        session.rollback()
        watched.gate.invalidate(TENANT, app_id=APP, session=session)
        session.commit()
    assert watched.came_from(read) == "database"


@pytest.mark.parametrize("name", ["all", "method:get_workflow_run_by_id", f"tenant:{TENANT}"])
def test_a_switch_in_the_settings_turns_the_cache_off(engine: Engine, cache_settings: CacheSettings, name: str) -> None:
    fixed = Watched(engine, cache_settings.model_copy(update={"off": (name,)}))
    run = fixed.make_run()
    for _ in range(5):
        assert fixed.came_from(lambda: fixed.runs.get_workflow_run_by_id(TENANT, APP, run.id)) == "database"
    fixed.gate.close()


def test_a_switch_in_the_cache_reaches_a_running_gate_and_writes_go_on_marking(watched: Watched) -> None:
    run = watched.make_run()

    def read() -> Any:
        return watched.runs.get_workflow_run_by_id(TENANT, APP, run.id)

    for name in ("all", "method:get_workflow_run_by_id", f"tenant:{TENANT}"):
        watched.warm(read)
        watched.gate.switch(name, off=True)
        _until(lambda: watched.came_from(read) == "database")
        with watched.gate.session(TENANT) as session:
            session.execute(update(WorkflowRun).where(WorkflowRun.id == run.id).values(total_tokens=len(name)))
            session.commit()
        watched.gate.switch(name, off=False)
        _until(lambda: watched.came_from(read) == "store")
        assert read().total_tokens == len(name)
    with pytest.raises(SettingsError, match="'everything' is no switch: expected 'all'"):
        watched.gate.switch("everything", off=True)


def _until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + patient(timeout_s)
    while not condition():
        assert time.monotonic() < deadline, "the event did not come"
        time.sleep(0.01)


def test_without_the_cache_a_write_uses_the_outbox_and_a_gate_with_it_applies_that(
    watched: Watched, tables_url: str
) -> None:
    run = watched.make_run()

    def read() -> Any:
        return watched.runs.get_workflow_run_by_id(TENANT, APP, run.id)

    watched.warm(read)
    blind = create_engine(tables_url)  # a worker with half the settings
    gate = tidegate.gate_on(blind, sessionmaker(blind), Settings())
    with gate.session(TENANT) as session:
        session.execute(update(WorkflowRun).where(WorkflowRun.id == run.id).values(total_tokens=77))
        session.commit()
    assert gate.workflow_runs.get_workflow_run_by_id(TENANT, APP, run.id).total_tokens == 77  # type: ignore[union-attr]
    _until(lambda: read().total_tokens == 77)
    with watched.gate.session(TENANT) as session:
        _until(lambda: session.scalars(select(OUTBOX.c.id)).all() == [])
    gate.close()
    blind.dispose()


def test_a_gate_with_another_cache_does_not_use_it(watched: Watched, tables_url: str, cluster: Cluster) -> None:
    by = served(watched.gate.engine).by
    assert by is not None
    assert by.url == f"redis://127.0.0.1:{cluster.cache.port}/0"
    other = create_engine(tables_url)
    gate = tidegate.gate_on(other, sessionmaker(other), Settings(cache=CacheSettings(url="redis://127.0.0.1:1/0")))
    with pytest.raises(SettingsError, match="no cache that could be switched"):
        gate.switch("all", off=True)
    gate.close()
    other.dispose()


def test_where_no_cache_serves_the_database_the_outbox_stays_empty(engine: Engine) -> None:
    alone = Watched(engine, CacheSettings())
    alone.make_run()
    with alone.gate.session(TENANT) as session:
        assert session.scalars(select(OUTBOX.c.id)).all() == []
    alone.gate.close()


def test_an_in_memory_sqlite_is_refused_a_cache(cache_settings: CacheSettings) -> None:
    memory = create_engine("sqlite://")
    with pytest.raises(SettingsError, match="in-memory SQLite"):
        tidegate.gate_on(memory, sessionmaker(memory), Settings(cache=cache_settings))
    memory.dispose()


def test_consistency_refuses_a_write_and_commits_nothing(engine: Engine) -> None:
    away = CacheSettings(url="redis://127.0.0.1:1/0", when_away="refuse")
    refusing = Watched(engine, away)
    with pytest.raises(CacheUnavailable, match="nothing was committed"):
        refusing.make_run()
    assert refusing.runs.get_workflow_runs_count(TENANT, APP, "app-run")["total"] == 0
    refusing.gate.close()


def test_a_failing_store_after_the_commit_does_not_reach_the_writer(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = watched.gate._parts.store
    assert store is not None

    def fail(*_args: object) -> None:
        raise StoreUnavailable("on purpose")

    monkeypatch.setattr(store, "stamp_soon", fail)
    run = watched.make_run()
    found = watched.runs.get_workflow_run_by_id(TENANT, APP, run.id)
    assert found is not None
    assert found.id == run.id


def test_the_first_gate_makes_its_tables_and_a_user_who_may_not_is_told_what_to_run(
    database_url: str, cluster: Cluster
) -> None:
    primary = cluster.shards[0].primary
    name = database_url.rsplit("/", 1)[1]
    primary.execute("DROP ROLE IF EXISTS poor", database="postgres")
    primary.execute("CREATE ROLE poor LOGIN", database="postgres")
    poor = create_engine(database_url.replace("postgres@", "poor@"))
    with pytest.raises(SettingsError, match="run 'tidegate init' as a user who may"):
        tidegate.gate_on(poor, sessionmaker(poor), Settings())
    rich = create_engine(database_url)
    tidegate.gate_on(rich, sessionmaker(rich), Settings()).close()
    primary.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO poor", database=name)
    tidegate.gate_on(poor, sessionmaker(poor), Settings()).close()
    poor.dispose()
    rich.dispose()


class Own(DeclarativeBase):
    """Tables of an application that is not Dify."""


class Note(Own):
    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    words: Mapped[str]


class Notes:
    """A repository of somebody else."""

    def __init__(self, session_maker: sessionmaker[Session]) -> None:
        self._maker = session_maker

    def of_customer(self, customer: str) -> list[Note]:
        with self._maker() as session:
            return list(session.scalars(select(Note).where(Note.customer == customer).order_by(Note.id)))

    def write(self, customer: str, words: str) -> None:
        with self._maker.begin() as session:
            session.add(Note(customer=customer, words=words))


NOTE_POLICIES = PolicyTable({"of_customer": Read(guard="notes"), "write": Write()}, tenant="customer", ids=frozenset())


def test_a_repository_of_one_s_own_is_cached_too(watched: Watched) -> None:
    Own.metadata.create_all(watched.gate.engine)
    tracked = [Tracked(Note, tenant="customer", tags=("notes",))]
    notes = watched.gate.wrap(Notes, NOTE_POLICIES, tracked)(watched.gate.session_maker)
    assert isinstance(notes, Notes)
    notes.write("ann", "one")
    watched.warm(lambda: notes.of_customer("ann"))
    notes.write("bob", "elsewhere")
    assert watched.came_from(lambda: notes.of_customer("ann")) == "store"
    notes.write("ann", "two")
    assert watched.came_from(lambda: notes.of_customer("ann")) == "database"
    assert [note.words for note in notes.of_customer("ann")] == ["one", "two"]
    first, second = notes.of_customer("ann"), notes.of_customer("ann")
    assert first[0] is not second[0]
    with pytest.raises(PolicyError, match="methods without a policy: write"):
        watched.gate.wrap(Notes, PolicyTable({"of_customer": Read()}), tracked)


def test_large_values_are_stored_once_and_entries_have_bounds(watched: Watched, cluster: Cluster) -> None:
    graph = '{"text": "' + "x" * 50_000 + '"}'
    runs = [watched.make_run(graph=graph) for _ in range(4)]
    for run in runs:
        watched.warm(lambda r=run: watched.runs.get_workflow_run_by_id(TENANT, APP, r.id))  # type: ignore[misc]
        found = watched.runs.get_workflow_run_by_id(TENANT, APP, run.id)
        assert found is not None
        assert found.graph == graph
    client = cluster.cache._client()
    blobs: Any = client.keys(f"tg:b:*{TENANT}*")
    client.close()
    assert len(blobs) == 1


def test_a_fill_is_seen_and_its_size_is_told(watched: Watched) -> None:
    watched.make_run()
    watched.warm(lambda: watched.runs.get_paginated_workflow_runs(TENANT, APP, "app-run"))  # type: ignore[arg-type]
    watched.make_run()
    for _ in range(2):  # the second call hears what came of the first one's fill
        watched.came_from(lambda: watched.runs.get_paginated_workflow_runs(TENANT, APP, "app-run"))  # type: ignore[arg-type]
    assert [event for event in watched.events if isinstance(event, Filled) and event.size > 100]


def test_facades_are_their_plain_classes_and_plain_without_a_gate(watched: Watched) -> None:
    plain_runs, plain_nodes = WorkflowRuns.__mro__[1], NodeExecutions.__mro__[1]
    assert isinstance(watched.runs, plain_runs)
    assert isinstance(watched.gate.node_executions, plain_nodes)
    run = watched.make_run()
    alone = WorkflowRuns(session_maker=watched.gate.session_maker)
    assert watched.came_from(lambda: alone.get_workflow_run_by_id(TENANT, APP, run.id)) == "database"
    assert watched.events == []


def test_a_transaction_that_runs_is_in_progress_though_none_younger_has_ended(watched: Watched) -> None:
    """pg_snapshot_xmax is one above the last that completed: of a quiet database it says nothing."""
    engine = watched.gate.engine
    primary = PostgresPrimary(engine, "", Histories(engine.dialect, ""))
    with engine.connect() as writer:
        xid = str(writer.scalar(text("SELECT pg_current_xact_id()::text")))
        assert primary.ended("t", [xid])[0] == []
        assert primary.oldest_running("t")[0] <= int(xid)
        writer.rollback()
    assert primary.ended("t", [xid])[0] == [xid]
    far = str(int(xid) + 1_000_000)
    assert primary.ended("t", [far])[0] == [far]


def test_gates_that_call_the_shard_differently_mark_the_same(watched: Watched, tables_url: str) -> None:
    run = watched.make_run()

    def read() -> Any:
        return watched.runs.get_workflow_run_by_id(TENANT, APP, run.id)

    watched.warm(read)
    other = create_engine(tables_url)
    cache = watched.settings.cache
    named = Settings(shards=(ShardSettings(name="elsewhere", primary=tables_url),), cache=cache)
    gate = tidegate.gate_on(other, sessionmaker(other), named)
    with gate.session(TENANT) as session:
        session.execute(update(WorkflowRun).where(WorkflowRun.id == run.id).values(total_tokens=9))
        session.commit()
    assert read().total_tokens == 9
    gate.close()
    other.dispose()


def test_repositories_made_with_other_things_are_not_each_other_s(watched: Watched) -> None:
    Own.metadata.create_all(watched.gate.engine)

    class Named:
        def __init__(self, session_maker: sessionmaker[Session], words: str) -> None:
            self._maker = session_maker
            self._words = words

        def of_customer(self, customer: str) -> str:
            with self._maker() as session:  # an answer is stored if it is known where it was read
                return f"{session.scalar(text('SELECT :c'), {'c': customer})} {self._words}"

    table = PolicyTable({"of_customer": Read(guard="notes")}, tenant="customer")
    made = watched.gate.wrap(Named, table, [Tracked(Note, tenant="customer", tags=("notes",))])
    for words in ("one", "two", "one"):
        for _ in range(6):
            assert made(watched.gate.session_maker, words).of_customer("ann") == f"ann {words}"
    assert made.__qualname__ == Named.__qualname__


def test_classes_of_a_factory_and_attributes_that_are_set_later_are_told_apart(watched: Watched) -> None:
    Own.metadata.create_all(watched.gate.engine)
    table = PolicyTable({"of_customer": Read(guard="notes")}, tenant="customer")
    tracked = [Tracked(Note, tenant="customer", tags=("notes",))]

    def wrapped(word: str) -> Any:
        class Worded:
            only_open = False

            def __init__(self, session_maker: sessionmaker[Session]) -> None:
                self._maker = session_maker

            @classmethod
            def of(cls, session_maker: sessionmaker[Session]) -> Worded:
                return cls(session_maker)

            @staticmethod
            def upper(text: str) -> str:
                return text.upper()

            def of_customer(self, customer: str) -> str:
                with self._maker() as session:  # an answer is stored if it is known where it was read
                    return f"{session.scalar(text('SELECT upper(:c)'), {'c': customer})} {word} {self.only_open}"

        return watched.gate.wrap(Worded, table, tracked)

    for word in ("one", "two"):
        made = wrapped(word)
        assert made.upper("a") == "A"
        repository = made.of(watched.gate.session_maker)
        assert {repository.of_customer("ann") for _ in range(6)} == {f"ANN {word} False"}
        repository.only_open = True
        assert {repository.of_customer("ann") for _ in range(6)} == {f"ANN {word} True"}


def test_only_session_makers_of_the_gate_s_engine_are_adopted(watched: Watched, tables_url: str) -> None:
    stranger = create_engine(tables_url)
    translated = watched.gate.engine.execution_options(schema_translate_map={None: "other"})
    for maker in (sessionmaker(stranger), sessionmaker(), scoped_session(watched.gate.session_maker)):
        with pytest.raises(PolicyError, match="bound to its engine"):
            watched.gate.adopt(WorkflowRuns(watched.gate.session_maker), maker)  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="must not translate schemas"):
        watched.gate.adopt(WorkflowRuns(watched.gate.session_maker), sessionmaker(translated))
    stranger.dispose()


def test_garbage_in_the_switches_is_no_exception(watched: Watched, cluster: Cluster) -> None:
    run = watched.make_run()
    store = watched.gate._parts.store
    assert isinstance(store, RedisStore)
    client = cluster.cache._client()
    client.set(store._keys.switches(), b"\xff\xfe\n\x00")
    client.close()
    with pytest.raises(StoreUnavailable):
        store.switched_off()
    assert watched.runs.get_workflow_run_by_id(TENANT, APP, run.id) is not None


def test_what_a_process_needs_for_itself_is_started_by_its_first_miss(watched: Watched) -> None:
    run = watched.make_run()
    applier = watched.gate._shards.every[0].applier
    assert applier is not None
    background = applier._notified._working
    parents = background._stop
    background._forget()  # as after a fork: the thread is the parent's
    watched.runs.get_workflow_run_by_id(TENANT, APP, run.id)
    thread = background._thread
    parents.set()
    assert thread is not None
    assert thread.is_alive()


def test_another_cache_can_be_named_and_serves_gates_that_come_after(
    engine: Engine, tables_url: str, cache_settings: CacheSettings
) -> None:
    Watched(engine, CacheSettings(url="redis://127.0.0.1:1/0")).gate.close()
    named = CliRunner().invoke(app, ["init", "--url", tables_url, "--cache-url", cache_settings.url or ""])
    assert named.exit_code == 0, named.output
    wrong = CliRunner().invoke(app, ["init", "--url", tables_url, "--cache-url", "http://x"])
    assert (wrong.exit_code, "redis://host:port/db" in wrong.output) == (2, True)
    other = create_engine(tables_url)
    gate = tidegate.gate_on(other, sessionmaker(other), Settings(cache=cache_settings))
    gate.switch("all", off=False)
    gate.close()
    other.dispose()
