"""A gate on three shards: where rows go, sessions, and maps that are old."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from real_servers.sharded import hold_back, save_run, settings_of, shards_with, tenant_on
from sqlalchemy import select, text
from sqlalchemy.orm import sessionmaker

import tidegate
from tidegate.cache.request import ONLY_PRIMARY, Answer
from tidegate.errors import PolicyError, SettingsError, StaleShardMap, TenantSwitch, UnknownTenant
from tidegate.proxy.database.schema import OUTBOX
from tidegate.proxy.layers.caching import CachedCall
from tidegate.proxy.layers.gated_repositories import WorkflowRuns
from tidegate.repositories.enums import WorkflowRunTriggeredFrom
from tidegate.repositories.models import WorkflowRun
from tidegate.routing.replicas.token import Token
from tidegate.routing.sharding.slots import slot_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from real_servers.shards import Shards

    from tidegate.cache.request import ReadRequirement

NOW = datetime.fromisoformat("2024-03-05T12:00:00")
APP = str(uuid4())
SOURCE = WorkflowRunTriggeredFrom.APP_RUN
NAMES = ("s0", "s1", "s2")


@pytest.fixture
def gate(stocked: Shards) -> Iterator[tidegate.Gate]:
    with tidegate.connect(settings_of(stocked, catalogue="s0")) as made:
        yield made


def warm(gate: tidegate.Gate, tenant: str, run_id: str) -> None:
    """Read until the cache answers."""
    stored = gate.stats().events.get("Filled", 0)
    for _ in range(200):
        gate.workflow_runs.get_workflow_run_by_id(tenant, APP, run_id)
        if gate.stats().events.get("Filled", 0) > stored:
            return
    raise AssertionError("nothing was filled")


@pytest.mark.parametrize("shard", NAMES)
def test_rows_lie_on_their_tenants_shard_and_are_found_there(gate: tidegate.Gate, stocked: Shards, shard: str) -> None:
    tenant = tenant_on(shard)
    run_id = save_run(gate, tenant, APP, NOW)
    assert shards_with(stocked, run_id) == [shard]
    for spelt in (tenant, tenant.upper(), tenant.replace("-", "")):
        found = gate.workflow_runs.get_workflow_run_by_id(spelt, APP, run_id)
        assert found is not None
        assert found.id == run_id
    page = gate.workflow_runs.get_paginated_workflow_runs(tenant, APP, SOURCE)
    assert [run.graph for run in page.data] == ['{"nodes": []}']  # lazy: read from the shard
    with gate.session(tenant) as session:
        assert session.scalars(select(WorkflowRun.id)).all() == [run_id]


def test_a_hit_has_lazy_columns_from_the_tenants_shard(gate: tidegate.Gate) -> None:
    tenant = tenant_on("s2")
    save_run(gate, tenant, APP, NOW)
    answered = [gate.workflow_runs.get_paginated_workflow_runs(tenant, APP, SOURCE).data[0] for _ in range(200)]
    assert gate.stats().methods["tidegate.WorkflowRuns.get_paginated_workflow_runs"].served
    assert answered[-1].graph == '{"nodes": []}'


def test_a_session_takes_rows_of_its_tenant_alone(gate: tidegate.Gate, stocked: Shards) -> None:
    mine, other = tenant_on("s0"), tenant_on("s0")
    run_id = save_run(gate, mine, APP, NOW)
    with gate.session(mine) as session:
        run = session.get_one(WorkflowRun, run_id)
        run.tenant_id = other  # on the same shard: a flip could part them all the same
        with pytest.raises(TenantSwitch, match=f"{other} changes in a session of the tenant {mine}"):
            session.commit()
    with stocked.engines["s0"].connect() as connection:
        assert connection.scalar(select(WorkflowRun.tenant_id).where(WorkflowRun.id == run_id)) == mine
    save_run(gate, other, APP, NOW)
    with gate.session(mine) as session:
        session.execute(text("DELETE FROM workflow_runs WHERE tenant_id = :tenant_id"), {"tenant_id": other})
        with pytest.raises(TenantSwitch):
            session.commit()


def test_without_a_tenant_there_is_no_session_and_no_engine(gate: tidegate.Gate) -> None:
    with gate.session_maker() as session, pytest.raises(UnknownTenant, match=r"gate\.session\(tenant_id\)"):
        session.execute(text("SELECT 1"))
    with pytest.raises(PolicyError, match="an engine for each"):
        _ = gate.engine
    with pytest.raises(ValueError, match=r"gate\.token\(tenant_id\)"):
        gate.token()


def test_only_a_session_maker_of_the_gate_will_do(gate: tidegate.Gate, stocked: Shards) -> None:
    gate.adopt(WorkflowRuns(gate.session_maker), gate.session_maker)
    with (
        tidegate.connect(settings_of(stocked, catalogue="s0")) as other,
        pytest.raises(PolicyError, match="needs its session_maker"),
    ):
        gate.adopt(WorkflowRuns(other.session_maker), other.session_maker)


def test_a_token_names_its_shard(gate: tidegate.Gate) -> None:
    tenant = tenant_on("s1")
    assert Token.of_text(gate.token(tenant)).shard == "s1"
    with gate.session(tenant, token=gate.token(tenant)) as session:
        assert session.scalar(text("SELECT 1")) == 1


def test_a_write_by_an_old_map_is_made_where_the_tenant_is_now(gate: tidegate.Gate, stocked: Shards) -> None:
    tenant = tenant_on("s0")
    behind = hold_back(gate)
    stocked.flipper().flip([slot_of(tenant)], "s0", "s1")
    run_id = save_run(gate, tenant, APP, NOW)
    assert shards_with(stocked, run_id) == ["s1"]
    assert behind.asked


def test_with_the_catalogue_away_an_old_map_writes_nothing(gate: tidegate.Gate, stocked: Shards) -> None:
    tenant, other = tenant_on("s0"), tenant_on("s1")
    behind = hold_back(gate, away=True)
    stocked.flipper().flip([slot_of(tenant)], "s0", "s1")
    with pytest.raises(StaleShardMap, match="does not own"):
        save_run(gate, tenant, APP, NOW)
    with pytest.raises(StaleShardMap, match="does not own"):
        gate.workflow_runs.get_workflow_runs_count(tenant, APP, "app-run")
    assert shards_with(stocked, save_run(gate, other, APP, NOW)) == ["s1"]
    behind.away = False
    assert shards_with(stocked, save_run(gate, tenant, APP, NOW)) == ["s1"]


def test_a_commit_by_an_old_map_leaves_nothing_behind(gate: tidegate.Gate, stocked: Shards) -> None:
    tenant = tenant_on("s0")
    run_id = save_run(gate, tenant, APP, NOW)
    warm(gate, tenant, run_id)
    hold_back(gate, away=True)
    with gate.session(tenant) as session:
        session.get_one(WorkflowRun, run_id).error = "late"
        stocked.flipper().flip([slot_of(tenant)], "s0", "s1")  # what was read in the session holds nobody up
        with pytest.raises(StaleShardMap):
            session.commit()
    with stocked.engines["s0"].connect() as connection:
        assert connection.scalar(select(WorkflowRun.error).where(WorkflowRun.id == run_id)) is None
        assert connection.execute(select(OUTBOX)).all() == []
    root = gate._parts.store.lookup(tenant, "-", f"run:{run_id}", gate._shards.asked(tenant))  # type: ignore[union-attr]
    assert not root.intents  # type: ignore[union-attr]


def test_a_reader_with_an_old_map_is_not_led_astray_by_a_flip(gate: tidegate.Gate, stocked: Shards) -> None:
    tenant = tenant_on("s0")
    run_id = str(uuid4())
    with tidegate.connect(settings_of(stocked, catalogue="s0")) as late:
        assert late.workflow_runs.get_workflow_run_by_id(tenant, APP, run_id) is None
        behind = hold_back(late)
        gate.workflow_runs.get_workflow_runs_count(tenant, APP, "app-run")
        stocked.flipper().flip([slot_of(tenant)], "s0", "s2")
        gate._shards._maps.refresh()
        save_run(gate, tenant, APP, NOW, run_id)
        found = late.workflow_runs.get_workflow_run_by_id(tenant, APP, run_id)
        assert found is not None
        assert behind.asked
        warm(late, tenant, run_id)


def test_without_a_cache_a_reader_with_an_old_map_asks_the_shard_first(stocked: Shards) -> None:
    tenant = tenant_on("s0")
    run_id = str(uuid4())
    settings = settings_of(stocked, cache=False, catalogue="s0")
    with tidegate.connect(settings) as writer, tidegate.connect(settings) as late:
        hold_back(late)
        stocked.flipper().flip([slot_of(tenant)], "s0", "s2")
        save_run(writer, tenant, APP, NOW, run_id)
        assert late.workflow_runs.get_workflow_run_by_id(tenant, APP, run_id) is not None
        assert late.workflow_runs.delete_runs_by_app(tenant, APP) == 1


def test_in_the_middle_of_a_flip_reads_go_on_where_the_rows_are(gate: tidegate.Gate, stocked: Shards) -> None:
    tenant = tenant_on("s0")
    run_id = save_run(gate, tenant, APP, NOW)
    with stocked.engines["s0"].begin() as connection:  # fenced, and nothing published
        update = text("UPDATE tidegate_ownership SET owned = false WHERE unit = :unit")
        connection.execute(update, {"unit": f"slot:{slot_of(tenant)}"})
    for _ in range(3):
        assert gate.workflow_runs.get_workflow_run_by_id(tenant, APP, run_id) is not None
    with gate.session(tenant) as session:
        assert session.get(WorkflowRun, run_id) is not None


def test_what_a_shard_answers_that_does_not_say_it_owns_it_is_not_stored(
    gate: tidegate.Gate, stocked: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, query, origins = tenant_on("s0"), CachedCall.query, []

    def without_root(request: CachedCall, _need: ReadRequirement) -> Answer:
        answer = query(request, ONLY_PRIMARY)
        origins.append(answer.origin)
        return answer

    monkeypatch.setattr(CachedCall, "query", without_root)
    gate.workflow_runs.get_workflow_runs_count(tenant, APP, "app-run")
    with stocked.engines["s0"].begin() as connection:
        connection.execute(text("DELETE FROM tidegate_ownership"))
    gate.workflow_runs.get_workflow_runs_count(tenant, APP, "app-run", "failed")
    assert [origin is None for origin in origins] == [False, True]


def test_shards_of_two_clusters_are_no_cluster(gate: tidegate.Gate, stocked: Shards) -> None:
    gate.close()
    with stocked.engines["s2"].begin() as connection:
        connection.execute(text("UPDATE tidegate_state SET value = 'other' WHERE name = 'cluster'"))
    with pytest.raises(SettingsError, match=r"shards\.s2: its database belongs to another cluster"):
        tidegate.connect(settings_of(stocked, catalogue="s0"))


def test_one_cache_serves_all_shards(gate: tidegate.Gate, stocked: Shards) -> None:
    gate.close()
    with stocked.engines["s1"].begin() as connection:
        connection.execute(text("UPDATE tidegate_state SET value = 'redis://other/0' WHERE name = 'cache'"))
    with pytest.raises(SettingsError, match=r"shards\.s1: its database is served by the cache redis://other/0"):
        tidegate.connect(settings_of(stocked, catalogue="s0"))


def test_swapped_urls_are_refused_by_a_later_map_too(gate: tidegate.Gate, stocked: Shards) -> None:
    gate.close()
    stocked.flipper().flip([0], "s0", "s1")
    settings = settings_of(stocked, catalogue="s0")
    first, second, third = settings.shards
    second, third = (
        second.model_copy(update={"primary": third.primary}),
        third.model_copy(update={"primary": second.primary}),
    )
    swapped = settings.model_copy(update={"shards": (first, second, third)})
    with pytest.raises(SettingsError, match=r"shards\.s1: its URL leads to the database of the shard s2"):
        tidegate.connect(swapped)
    for engine in stocked.engines.values():  # as one that no gate has named yet
        with engine.begin() as connection:
            connection.execute(text("DELETE FROM tidegate_state WHERE name = 'shard'"))
    with pytest.raises(SettingsError, match=r"shards\.s1: .*by its own table it does not own it"):
        tidegate.connect(swapped)
    tidegate.connect(settings).close()  # and no wrong name was left


def test_static_settings_are_the_map_and_must_stay_as_they_are(stocked: Shards) -> None:
    tenant = tenant_on("s0")
    with tidegate.connect(settings_of(stocked, pins={tenant: "s2"})) as gate:
        assert shards_with(stocked, save_run(gate, tenant, APP, NOW)) == ["s2"]
    with pytest.raises(SettingsError, match="cannot be changed by the settings"):
        tidegate.connect(settings_of(stocked))


def test_pins_and_ranges_that_a_catalogue_does_not_have_are_named(
    stocked: Shards, caplog: pytest.LogCaptureFixture
) -> None:
    ranges = {"s0": ((0, 999),), "s1": ((1000, 1999),), "s2": ((2000, 4095),)}
    given = settings_of(stocked, catalogue="s0", ranges=ranges, pins={"one": "s1"})
    tidegate.connect(given).close()
    stocked.flipper().flip(range(500), "s0", "s1")
    tidegate.connect(given).close()
    assert "sharding.ranges" not in caplog.text  # slots that were handed over since are where they belong
    ranges |= {"s0": ((0, 1000),), "s1": ((1001, 1999),)}
    tidegate.connect(settings_of(stocked, catalogue="s0", ranges=ranges, pins={"one": "s1", "two": "s2"})).close()
    assert "does not have the pins of two to s2, nor the ranges of s0 with [0, 1000];" in caplog.text


def test_a_gate_on_one_of_the_shards_alone_is_refused(gate: tidegate.Gate, stocked: Shards) -> None:
    gate.close()
    settings = settings_of(stocked)
    alone = settings.model_copy(update={"shards": settings.shards[1:2]})
    with pytest.raises(SettingsError, match="is one of several"):
        tidegate.connect(alone)
    with pytest.raises(SettingsError, match=r"there are 3.*use connect\(\)"):
        tidegate.gate_on(stocked.engines["s0"], sessionmaker(stocked.engines["s0"]), settings)
