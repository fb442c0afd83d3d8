"""The oldest PostgreSQL that the distribution has, as a database of the user's own: each thing that a gate does, once.

Embedded servers need a newer one, and say so: its ``initdb`` has no locale provider of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Integer, Text, create_engine, select, update
from sqlalchemy.orm import DeclarativeBase, mapped_column
from typer.testing import CliRunner

import tidegate
from tidegate.errors import EmbeddedServerError, SettingsError
from tidegate.proxy.cli.app import app
from tidegate.proxy.embedded import Cluster, PostgresNode
from tidegate.proxy.embedded.binaries import is_too_old, postgres_version
from tidegate.proxy.embedded.process import give_to_server, run, wait_for
from tidegate.proxy.settings import CacheSettings, ReplicaSettings, RoutingSettings, ShardSettings
from tidegate.proxy.tracking.tracked_tables import Tables
from tidegate.proxy.writes.comparable_types import check_comparable
from tidegate.repositories.enums import WorkflowRunTriggeredFrom as Source
from tidegate.repositories.models import Base, WorkflowRun, new_id
from tidegate.repositories.policies import Tracked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidegate.proxy.embedded.valkey import ValkeyNode


TENANT, APP = new_id(), new_id()


@pytest.fixture(scope="module")
def programs_15() -> Path:
    """The folder of an older PostgreSQL's programs."""
    found = [folder for folder in Path("/usr/lib/postgresql").glob("*/bin") if is_too_old(folder)]
    if not found:
        pytest.skip("no PostgreSQL before 17 is installed; on Debian 12: apt-get install postgresql-15")
    return min(found, key=lambda folder: int(postgres_version(folder).partition(".")[0]))


@pytest.fixture(scope="module")
def old(programs_15: Path, servers_folder: Path) -> Iterator[tuple[PostgresNode, PostgresNode]]:
    """A primary with a replica."""
    nodes = []
    for name in ("old_primary", "old_replica"):
        home = servers_folder / "old" / name
        home.mkdir(parents=True, mode=0o700)
        nodes.append(PostgresNode(name, home, programs_15))
    give_to_server(servers_folder / "old")
    primary, replica = nodes
    options = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C")
    run([str(programs_15 / "initdb"), "-D", str(primary._folder), *options], cwd=primary._folder)
    primary._configure({})
    primary.create_replica(replica, {})
    try:
        primary.launch()
        primary.make_database()
        replica.launch()
        replica.wait_database()
        yield primary, replica
    finally:
        for node in nodes:
            node.end()


@pytest.fixture(scope="module")
def settings(
    old: tuple[PostgresNode, PostgresNode], start_shared_valkey: Callable[..., ValkeyNode]
) -> Iterator[tidegate.Settings]:
    primary, replica = old
    engine = create_engine(primary.url)
    Base.metadata.create_all(engine)
    engine.dispose()
    made = CliRunner().invoke(app, ["init", "--url", primary.url])
    assert (made.exit_code, "tidegate_runs_page_idx" in made.output) == (0, True), made.output
    shard = ShardSettings(name="s0", primary=primary.url, replicas=(ReplicaSettings(url=replica.url),))
    cache = CacheSettings(url=start_shared_valkey().url, connect_timeout_ms=5_000, read_timeout_ms=5_000)
    routing = RoutingSettings(silent_ms=60_000, answer_ms=30_000)  # however busy the machine is
    yield tidegate.Settings(shards=(shard,), cache=cache, routing=routing)
    undone = CliRunner().invoke(app, ["init", "--undo", "--url", primary.url])
    assert (undone.exit_code, "tidegate_runs_page_idx" in undone.output) == (0, True), undone.output


@pytest.fixture
def gate(settings: tidegate.Settings) -> Iterator[tidegate.Gate]:
    with tidegate.connect(settings) as made:
        yield made


def a_run(**values: Any) -> WorkflowRun:
    given = {"id": new_id(), "tenant_id": TENANT, "app_id": APP, "workflow_id": new_id(), "type": "workflow"}
    more = {"triggered_from": "app-run", "version": "1", "status": "running", "created_by_role": "account"}
    return WorkflowRun(**(given | more | {"created_by": new_id()} | values))


def test_pages_writes_hits_and_invalidation_are_what_they_are_elsewhere(
    gate: tidegate.Gate, old: tuple[PostgresNode, PostgresNode]
) -> None:
    app_id, runs = new_id(), gate.workflow_runs

    def page() -> list[str]:
        return [run.status for run in runs.get_paginated_workflow_runs(TENANT, app_id, Source.APP_RUN).data]

    assert page() == []
    with gate.session(TENANT) as session:
        session.add_all(made := [a_run(app_id=app_id), a_run(app_id=app_id)])
        keys = [run.id for run in made]
        session.commit()
    assert page() == ["running", "running"]
    assert page() == ["running", "running"]
    assert gate.explain(runs.get_paginated_workflow_runs, TENANT, app_id, Source.APP_RUN).answered in ("near", "store")
    with gate.session(TENANT) as session:  # rows that are locked first
        session.execute(update(WorkflowRun).where(WorkflowRun.app_id == app_id).values(status="failed"))
        session.commit()
    assert page() == ["failed", "failed"]
    deep = runs.get_paginated_workflow_runs(TENANT, app_id, [Source.APP_RUN, Source.WEBHOOK], 1, max(keys))
    assert len(deep.data) <= 1
    old[0].execute("UPDATE workflow_runs SET status = 'stopped' WHERE app_id = %s", app_id)  # past the gate
    shown = "SELECT count(*) FROM workflow_runs WHERE status = 'stopped' AND app_id = %s"
    wait_for(lambda: old[1].execute(shown, app_id)[0][0] == len(keys), "the replica shows it too")
    gate.invalidate(TENANT, app_id=app_id)
    assert page() == ["stopped", "stopped"]
    assert runs.delete_runs_by_app(TENANT, app_id) == len(keys)
    assert page() == []


def test_reads_go_to_a_replica_that_has_reached_what_they_need(gate: tidegate.Gate) -> None:
    with gate.session(TENANT) as session:
        session.add(a_run())
        session.commit()
    assert gate._shards.every[0].nodes is not None
    replica = gate._shards.every[0].nodes.topology.replicas[0].name

    def read() -> bool:
        found = gate.workflow_runs.get_workflow_runs_count(TENANT, APP, "app-run", time_range="7d")
        assert found["total"] == 1
        return gate.stats().nodes.get(replica, 0) > 0

    wait_for(read, f"{replica} answers a read")


def test_doctor_finds_nothing_that_the_version_lacks(
    settings: tidegate.Settings, old: tuple[PostgresNode, PostgresNode], gate: tidegate.Gate
) -> None:
    assert gate.workflow_runs.get_workflow_run_by_id(TENANT, APP, new_id()) is None  # the gate has met its cache
    assert settings.cache.url is not None
    said = CliRunner().invoke(app, ["doctor", "--url", old[0].url, "--cache-url", settings.cache.url])
    assert said.exit_code == 0, said.output
    with gate.session(TENANT) as session:
        assert session.scalars(select(WorkflowRun.id).where(WorkflowRun.app_id == new_id())).all() == []


def test_embedded_servers_refuse_it_with_its_version_and_what_they_need(
    programs_15: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = postgres_version(programs_15)
    monkeypatch.setenv("TIDEGATE_POSTGRES_BIN", str(programs_15))
    with pytest.raises(EmbeddedServerError, match=rf"{programs_15}.* PostgreSQL {version} is;.* need PostgreSQL 17 or"):
        Cluster(cache=False).start()


def test_a_tenant_whose_collation_takes_two_texts_for_one_is_refused(old: tuple[PostgresNode, PostgresNode]) -> None:
    """Here, since Debian's PostgreSQL has ICU, and that of the wheels has not."""
    collation = "CREATE COLLATION any_case (provider=icu, locale='und-u-ks-level2', deterministic=false)"
    for statement in (collation, "CREATE TABLE notes (id int PRIMARY KEY, tenant_id text COLLATE any_case)"):
        old[0].execute(statement)
    own: Any = type("Own", (DeclarativeBase,), {})
    columns = {"id": mapped_column(Integer, primary_key=True), "tenant_id": mapped_column(Text)}
    note = type("Note", (own,), {"__tablename__": "notes", **columns})
    engine = create_engine(old[0].url)
    with pytest.raises(SettingsError, match=r'notes\.tenant_id is text with the collation "any_case"'):
        check_comparable(engine, Tables([Tracked(note, tenant="tenant_id", tags=("notes",))]))
    engine.dispose()
