"""What would answer a call, and why: compared with who then does, on real servers; and that asking changes nothing."""

from __future__ import annotations

import threading
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import pytest
import redis
from sqlalchemy import create_engine, event, text, update
from sqlalchemy.orm import sessionmaker
from typer.testing import CliRunner

import tidegate
from tidegate.cache.store import Change
from tidegate.errors import PolicyError
from tidegate.proxy.cli.app import app
from tidegate.proxy.embedded.process import wait_for
from tidegate.proxy.layers.gated_repositories import WorkflowRuns
from tidegate.proxy.settings import CacheSettings, Settings
from tidegate.repositories.models import WorkflowRun, new_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Engine

    from tidegate.proxy.explanation import Explanation

TENANT: Final = "7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10"
APP: Final = "1b0a1e8e-90c6-4f0e-8a52-5d1f0c7a2b20"
LATER: Final = datetime.fromisoformat("2024-03-05T12:00:00")


@pytest.fixture
def engine(tables_url: str) -> Iterator[Engine]:
    made = create_engine(tables_url)
    yield made
    made.dispose()


@pytest.fixture
def connect(engine: Engine, valkey_url: str) -> Iterator[Callable[..., tidegate.Gate]]:
    gates: list[tidegate.Gate] = []

    def made(**cache: Any) -> tidegate.Gate:
        times = {"connect_timeout_ms": 5_000, "read_timeout_ms": 5_000}
        patient: dict[str, Any] = {"url": valkey_url, "near": False} | times | cache
        gates.append(tidegate.gate_on(engine, sessionmaker(engine), Settings(cache=CacheSettings(**patient))))
        return gates[-1]

    yield made
    for gate in gates:
        gate.close()


@pytest.fixture
def gate(connect: Callable[..., tidegate.Gate]) -> tidegate.Gate:
    return connect()


def make_run(gate: tidegate.Gate, **overrides: Any) -> str:
    values: dict[str, Any] = {"tenant_id": TENANT, "app_id": APP, "workflow_id": new_id(), "created_by": new_id()}
    values |= {"type": "workflow", "triggered_from": "app-run", "version": "1", "created_by_role": "account"}
    values |= {"graph": '{"nodes": []}', "inputs": "{}", "status": "succeeded", "id": new_id()}
    with gate.session_maker() as session:
        session.add(WorkflowRun(**(values | overrides)))
        session.commit()
    return str((values | overrides)["id"])


def change(gate: tidegate.Gate, run: str) -> None:
    with gate.session(TENANT) as session:
        more = update(WorkflowRun).where(WorkflowRun.id == run).values(total_tokens=WorkflowRun.total_tokens + 1)
        session.execute(more)
        session.commit()


def who_answers(gate: tidegate.Gate, run: str) -> str:
    """Who really answers, as it is counted; "store" where the reading of the entry is all there was."""
    name = f"{WorkflowRuns.__module__}.WorkflowRuns.get_workflow_run_by_id"

    def counted() -> dict[Any, int]:
        method = gate.stats().methods.get(name)
        return dict(method.answered) if method else {}

    before = counted()
    gate.workflow_runs.get_workflow_run_by_id(TENANT, APP, run)
    (who,) = [who for who, count in counted().items() if count != before.get(who, 0)]
    return str(who)


def explained(gate: tidegate.Gate, run: str) -> Explanation:
    return gate.explain(gate.workflow_runs.get_workflow_run_by_id, TENANT, APP, run)


def foretold(gate: tidegate.Gate, run: str) -> Explanation:
    """The explanation of a call, which then is answered as it says."""
    found = explained(gate, run)
    assert who_answers(gate, run) == found.answered, str(found)
    return found


def warm(gate: tidegate.Gate, run: str) -> None:
    wait_for(lambda: who_answers(gate, run) in {"store", "near"}, "the run is cached")


def test_a_call_from_the_first_miss_to_the_next(gate: tidegate.Gate, valkey_url: str) -> None:
    run = make_run(gate)
    with redis.Redis.from_url(valkey_url) as client:
        client.flushall()
    first = foretold(gate, run)
    assert first.answered == "node"
    assert first.cache.why.startswith("the tenant has no marks")
    assert not first.stores
    warm(gate, run)
    fresh = foretold(gate, run)
    assert (fresh.answered, fresh.cache.answers) == ("store", True)
    assert fresh.cache.why.startswith(f"fresh while nothing changes of run:{run}, app:{APP}, and for another 3")
    change(gate, run)
    stale = foretold(gate, run)
    assert (stale.answered, stale.stores) == ("node", True)
    assert stale.cache.why == "what is stored is older than a change of something that it depends on"
    assert foretold(gate, run).answered == "store"
    gate.invalidate(TENANT)
    assert foretold(gate, run).cache.why == "what is stored is older than a change of the whole tenant"
    other = foretold(gate, new_id())
    assert (other.cache.why, other.stores) == ("nothing is stored for this call", True)


def test_what_is_said_to_people(gate: tidegate.Gate) -> None:
    run = make_run(gate)
    warm(gate, run)
    shouted = gate.explain(gate.workflow_runs.get_workflow_run_by_id, TENANT.upper(), APP, run_id=f"{{{run}}}")
    call, near, cache, node = str(shouted).splitlines()
    assert call == f"WorkflowRuns.get_workflow_run_by_id(tenant_id='{TENANT}', app_id='{APP}', run_id='{run}')"
    assert near == "  near cache does not answer: cache.near is false"
    assert cache.startswith("  cache answers: fresh while nothing changes of run:")
    assert node == "  the primary is the only node"
    change(gate, run)
    assert "  a node's answer is stored\n" in str(explained(gate, run))


def test_transactions_that_hold_the_cache_up(gate: tidegate.Gate, engine: Engine, valkey_url: str) -> None:
    run = make_run(gate)
    with engine.connect() as elder, redis.Redis.from_url(valkey_url) as client:
        xid = elder.scalar(text("SELECT pg_current_xact_id()::text"))
        client.flushall()
        gate.workflow_runs.get_workflow_run_by_id(TENANT, APP, run)
        held = foretold(gate, run)
        assert (held.answered, held.stores) == ("node", False)
        (awaited,) = [int(word) for word in held.cache.why.split() if word.isdecimal()]
        assert held.cache.why.startswith("quarantine: a transaction older than ")
        assert awaited > int(str(xid))
        elder.rollback()
        warm(gate, run)
        store = gate._parts.store
        assert store is not None
        running = elder.scalar(text("SELECT pg_current_xact_id()::text"))
        origin = gate._shards.every[0].primary.origin(TENANT)
        assert origin is not None
        store.open([Change(TENANT, frozenset({f"run:{run}"}))], str(running), origin, ["n"])
        intent = foretold(gate, run)
        assert (intent.answered, intent.stores) == ("node", False)
        assert f"a transaction may be committing a change of what it depends on ({running} for " in intent.cache.why
        elder.rollback()
    warm(gate, run)


def test_the_near_cache_when_it_checks(connect: Callable[..., tidegate.Gate]) -> None:
    gate = connect(near=True, near_modes={"get_paginated_workflow_runs": "off"})
    run = make_run(gate)
    assert foretold(gate, run).near.why == "this process has not kept its answer"
    wait_for(lambda: who_answers(gate, run) == "near", "the run is near")
    kept = foretold(gate, run)
    assert (kept.answered, kept.near.answers, kept.cache.answers) == ("near", True, True)
    assert kept.near.why.startswith(f"kept in this process, and fresh while nothing changes of run:{run}")
    change(gate, run)
    void = foretold(gate, run)
    assert void.answered == "node"
    assert void.near.why == "kept in this process, but something that it depends on has changed"
    page: Any = gate.explain(gate.workflow_runs.get_paginated_workflow_runs, TENANT, APP, "app-run")
    assert page.near.why == "its policy or cache.near_modes says that no answer is kept"


def test_the_near_cache_when_it_is_pushed_to(connect: Callable[..., tidegate.Gate]) -> None:
    gate = connect(near=True, near_modes={"all": "bounded"})
    run = make_run(gate)
    wait_for(lambda: who_answers(gate, run) == "near", "the run is near")
    pushes = gate._parts.pushes
    assert pushes is not None
    assert pushes.caught_up(10)
    wait_for(lambda: "stream of pushes" in explained(gate, run).near.why, "the stream vouches for it")
    assert foretold(gate, run).answered == "near"
    change(gate, run)
    assert pushes.caught_up(10)
    assert foretold(gate, run).near.why == "kept in this process, but something that it depends on has changed"


def test_why_a_call_is_none_of_the_caches_business(connect: Callable[..., tidegate.Gate]) -> None:
    gate = connect(off=("method:get_daily_runs_statistics",))
    runs: Any = gate.workflow_runs
    nodes: Any = gate.node_executions
    calls: dict[str, tuple[Any, ...]] = {
        "it is declared Write": (runs.delete_runs_by_app, TENANT, APP),
        "its policy names no guard, so it is never cached": (
            runs.get_expired_runs_batch,
            TENANT,
            LATER,
            1,
        ),
        "it names no tenant": (nodes.get_execution_by_id, new_id()),
        "one of its ids is none, which is the database's to refuse": (runs.get_workflow_run_by_id, TENANT, APP, "x"),
        "its policy does not let these arguments be cached": (
            runs.get_workflow_runs_count,
            TENANT,
            APP,
            "app-run",
            None,
            "7d",
        ),
        "it is switched off (method:get_daily_runs_statistics)": (
            runs.get_daily_runs_statistics,
            TENANT,
            APP,
            "app-run",
        ),
        "its arguments do not say what lastnode:{workflow_id}:{node_id} is": (
            nodes.get_node_last_execution,
            TENANT,
            APP,
            new_id(),
            None,
        ),
        "an argument is of a kind that cannot be told apart for sure": (
            runs.get_paginated_workflow_runs,
            TENANT,
            APP,
            object(),
        ),
        "it runs in the caller's own session, or takes any arguments": (runs.get_archived_run_ids, None, []),
    }
    for why, (method, *arguments) in calls.items():
        found = gate.explain(method, *arguments)
        assert (found.answered, found.cache.why, found.near.why, found.stores) == ("plain", why, why, False)


def test_a_switch_that_is_turned_at_run_time(gate: tidegate.Gate) -> None:
    run = make_run(gate)
    warm(gate, run)
    gate.switch(f"tenant:{TENANT}", off=True)
    wait_for(lambda: explained(gate, run).cache.why == f"it is switched off (tenant:{TENANT})", "the switch is seen")
    assert foretold(gate, run).answered == "plain"


def test_a_gate_without_a_cache(engine: Engine) -> None:
    with tidegate.gate_on(engine, sessionmaker(engine), Settings()) as gate:
        run = make_run(gate)
        found = foretold(gate, run)
        assert (found.answered, found.cache.why) == ("plain", found.near.why)
        assert found.cache.why.startswith("this gate has none: cache.url is not set")


def test_a_cache_that_does_not_answer(connect: Callable[..., tidegate.Gate], start_valkey: Callable[..., Any]) -> None:
    node = start_valkey()
    gate = connect(url=node.url, near=True)
    run = make_run(gate)
    wait_for(lambda: who_answers(gate, run) == "near", "the run is near")
    node.kill()
    caching: Any = gate._layers._below._below._below  # type: ignore[attr-defined]
    caching.switches._next = 0.0  # due to be asked again, which is when it is found out
    found = explained(gate, run)
    assert (found.answered, found.stores) == ("node", False)
    assert found.near.why.startswith("kept in this process, but the cache cannot be asked whether it is fresh (")
    assert found.cache.why.startswith("it cannot be asked (")
    assert gate.workflow_runs.get_workflow_run_by_id(TENANT, APP, run) is not None


def test_an_entry_that_cannot_be_read(gate: tidegate.Gate, valkey_url: str) -> None:
    run = make_run(gate, graph="x" * 10_000)
    warm(gate, run)
    with redis.Redis.from_url(valkey_url) as client:
        (blob,) = client.scan_iter(match="tg:b:*")
        client.delete(blob)
        assert explained(gate, run).answered == "store", "this process has the large value"
        caching: Any = gate._layers._below._below._below  # type: ignore[attr-defined]
        caching.blobs.clear()
        gone = foretold(gate, run)
        assert gone.cache.why == "what is stored cannot be read (a large value of it is gone)"
        (entry,) = client.scan_iter(match="tg:e:*")
        whole = client.get(entry)
        assert isinstance(whole, bytes)
        client.set(entry, whole[:-1] + bytes([whole[-1] ^ 1]))
        damaged = foretold(gate, run)
        assert "damaged" in damaged.cache.why
        assert (damaged.answered, damaged.stores) == ("node", True)
        client.set(entry, whole.partition(b"\n")[0] + b"\n")
        assert foretold(gate, run).cache.why.startswith("what is stored cannot be read (")
    assert foretold(gate, run).answered == "store"


def test_only_methods_behind_a_gate_and_their_arguments_are_explained(gate: tidegate.Gate) -> None:
    class Overridden(WorkflowRuns):
        def get_workflow_run_by_id(self, tenant_id: str, app_id: str, run_id: str) -> WorkflowRun | None:
            raise AssertionError((tenant_id, app_id, run_id))

    plain = WorkflowRuns(gate.session_maker)
    overridden = gate.adopt(Overridden(gate.session_maker), gate.session_maker)
    for method in (plain.get_workflow_run_by_id, overridden.get_workflow_run_by_id, make_run):
        with pytest.raises(PolicyError, match=r"expected one like gate\.workflow_runs\.get_workflow_run_by_id"):
            gate.explain(method, TENANT, APP, new_id())
    with pytest.raises(TypeError, match="missing a required argument: 'run_id'"):
        gate.explain(gate.workflow_runs.get_workflow_run_by_id, TENANT, APP)


def test_asking_changes_nothing(connect: Callable[..., tidegate.Gate], engine: Engine, valkey_url: str) -> None:
    gate = connect(near=True)
    runs: Any = gate.workflow_runs
    kept, changed = make_run(gate), make_run(gate)
    for run in (kept, changed):
        wait_for(lambda run=run: who_answers(gate, run) == "near", "the run is near")  # type: ignore[misc]
    change(gate, changed)
    statements: list[str] = []

    def note(*args: Any) -> None:
        if threading.current_thread() is threading.main_thread():  # and not the outbox's
            statements.append(args[2])

    caching: Any = gate._layers._below._below._below  # type: ignore[attr-defined]
    with redis.Redis.from_url(valkey_url) as client:

        def all_there_is() -> Any:
            keys = sorted(client.scan_iter())
            near = {key: value for key, (value, _) in caching.near._kept.items()}
            return [client.dump(key) for key in keys], list(near.items()), gate.stats(), threading.enumerate()

        before = all_there_is()
        event.listen(engine, "before_cursor_execute", note)
        for run in (changed, kept, new_id()):
            assert str(explained(gate, run))
        str(gate.explain(runs.get_workflow_run_by_id, new_id(), APP, kept))  # a tenant without marks
        str(gate.explain(runs.delete_runs_by_ids, [kept]))
        with gate.session_maker() as session:
            str(gate.explain(runs.delete_archive_log_by_run_id, session, kept))
        event.remove(engine, "before_cursor_execute", note)
        assert statements == []
        assert all_there_is() == before
    assert runs.get_workflow_run_by_id(TENANT, APP, kept) is not None


def test_on_the_command_line(gate: tidegate.Gate, engine: Engine, valkey_url: str, tmp_path: Path) -> None:
    config = tmp_path / "tidegate.toml"
    url = engine.url.render_as_string(hide_password=False)
    config.write_text(
        f'[cache]\nurl = "{valkey_url}"\nread_timeout_ms = 5000\n[[shards]]\nname = "s0"\nprimary = "{url}"\n'
    )

    def said(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["explain", "--config", str(config), *arguments])

    run = make_run(gate)
    warm(gate, run)
    done = said("get_workflow_run_by_id", TENANT, APP, run)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "cache answers: fresh while nothing changes of" in done.stdout

    def page() -> object:
        return gate.workflow_runs.get_paginated_workflow_runs(TENANT, APP, ["app-run", "webhook"], limit=5)  # type: ignore[list-item]

    for _ in range(3):
        page()
    as_called = said("workflow_runs.get_paginated_workflow_runs", TENANT, APP, '["app-run", "webhook"]', "limit=5")
    assert "cache answers: fresh" in as_called.stdout
    another = said("get_paginated_workflow_runs", TENANT, APP, '["app-run", "webhook"]', "6")
    assert "cache does not answer: nothing is stored for this call" in another.stdout
    dated = said("get_daily_runs_statistics", TENANT, APP, "app-run", "2025-01-01", "end_date=2025-01-31T12:00+00:00")
    assert "start_date=datetime.datetime(2025, 1, 1, 0, 0), end_date=datetime.datetime(2025, 1, 31" in dated.stdout
    for wrong, why in {
        ("get_nothing",): "'get_nothing' is no method of",
        ("gate.get_workflow_run_by_id",): "is no method of workflow_runs or node_executions",
        ("get_workflow_run_by_id", TENANT): "missing a required argument: 'app_id'",
        ("get_workflow_run_by_id", TENANT, APP, run, "x", "y"): "too many positional arguments",
        ("get_paginated_workflow_runs", TENANT, APP, "app-run", "many"): "'many': invalid literal for int()",
    }.items():
        refused = said(*wrong)
        assert refused.exit_code == 2
        assert why in " ".join(refused.stderr.replace("│", " ").split())
