"""Whoever writes a tenant's row where its slot is not owned is refused, by the triggers alone."""

from __future__ import annotations

import threading
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from real_servers.deadlines import patient
from real_servers.sharded import run_row, save_run, settings_of, shards_with, tenant_on
from sqlalchemy import insert, text

import tidegate
from tidegate.proxy.database.ownership_functions import NOT_OWNED
from tidegate.repositories.models import WorkflowPause, WorkflowRun
from tidegate.routing.sharding.slots import slot_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from real_servers.shards import Shards

NOW: Final = datetime.fromisoformat("2024-03-05T12:00:00")
APP: Final = str(uuid4())
COLUMNS: Final = sorted({column.name for column in WorkflowRun.__table__.columns if column.name != "id"})


@pytest.fixture
def gate(stocked: Shards) -> Iterator[tidegate.Gate]:
    with tidegate.connect(settings_of(stocked, catalogue="s0")) as made:
        yield made


@pytest.fixture
def plain(gate: tidegate.Gate, stocked: Shards) -> Iterator[psycopg.Connection[Any]]:  # noqa: ARG001  # made the triggers
    """A program on s0 that has never heard of a gate, without a transaction."""
    with connected(stocked) as made:
        yield made


def connected(shards: Shards, shard: str = "s0") -> psycopg.Connection[Any]:
    url = shards.engines[shard].url.set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(url, autocommit=True)


def values(tenant: str, run_id: str | None = None) -> dict[str, Any]:
    row = run_row(tenant)
    return {
        "id": run_id or str(uuid4()),
        "tenant_id": row.tenant_id,
        "app_id": APP,
        "workflow_id": APP,
        "created_by": APP,
        "type": row.type,
        "triggered_from": row.triggered_from,
        "version": "1",
        "status": row.status,
        "created_by_role": row.created_by_role,
    }


def add(connection: psycopg.Connection[Any], *rows: dict[str, Any]) -> None:
    names = list(rows[0])
    given = sql.SQL(", ").join(
        sql.SQL("({})").format(sql.SQL(", ").join(sql.Literal(row[name]) for name in names)) for row in rows
    )
    into = sql.SQL(", ").join(map(sql.Identifier, names))
    connection.execute(sql.SQL("INSERT INTO workflow_runs ({}) VALUES {}").format(into, given))


def left_over(shards: Shards, tenant: str, shard: str = "s0") -> str:
    """Have a run lie where its tenant is not owned, as rows do that were copied; give its id."""
    row = values(tenant)
    with connected(shards, shard) as connection:
        connection.execute("SET session_replication_role = replica")
        add(connection, row)
    return str(row["id"])


def refused(connection: psycopg.Connection[Any], statement: str, *given: Any) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as raised:
        connection.execute(statement.encode(), given)
    assert raised.value.sqlstate == NOT_OWNED
    return raised.value


def test_an_insert_is_refused_and_says_what_to_do(plain: psycopg.Connection[Any]) -> None:
    mine, other = tenant_on("s0"), tenant_on("s1")
    add(plain, values(mine))
    with pytest.raises(psycopg.Error) as raised:
        add(plain, values(other))
    said = raised.value.diag
    assert said.sqlstate == NOT_OWNED
    assert said.message_primary is not None
    assert said.message_hint is not None
    assert f"the shard s0 does not own slot:{slot_of(other)} (the tenant {other})" in said.message_primary
    assert "nothing was written" in said.message_primary
    assert "tidegate shards" in said.message_hint
    with pytest.raises(psycopg.Error, match=other):  # of several, one is enough
        add(plain, values(mine), values(other), values(mine))
    assert plain.execute("SELECT tenant_id::text FROM workflow_runs").fetchall() == [(mine,)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE workflow_runs SET error = 'x' WHERE id = %s",
        "DELETE FROM workflow_runs WHERE id = %s",
        "WITH gone AS (DELETE FROM workflow_runs WHERE id = %s RETURNING 1) SELECT count(*) FROM gone",
        "INSERT INTO workflow_runs SELECT * FROM workflow_runs WHERE id = %s ON CONFLICT (id) DO UPDATE SET error = 2",
    ],
    ids=["update", "delete", "with", "upsert"],
)
def test_rows_that_were_left_behind_cannot_be_changed(
    plain: psycopg.Connection[Any], stocked: Shards, statement: str
) -> None:
    run_id = left_over(stocked, tenant_on("s2"))
    refused(plain, statement, run_id)
    assert plain.execute("SELECT version, error FROM workflow_runs").fetchall() == [("1", None)]


def test_copy_is_refused(plain: psycopg.Connection[Any]) -> None:
    mine, other = values(tenant_on("s0")), values(tenant_on("s1"))
    names = list(mine)

    def copied(*rows: dict[str, Any]) -> None:
        with plain.cursor().copy(f"COPY workflow_runs ({', '.join(names)}) FROM STDIN".encode()) as copy:
            for row in rows:
                copy.write_row([row[name] for name in names])

    with pytest.raises(psycopg.Error, match=other["tenant_id"]):
        copied(mine, other)
    copied(mine)
    assert plain.execute("SELECT count(*) FROM workflow_runs").fetchone() == (1,)


def test_a_row_cannot_be_given_to_a_tenant_of_another_shard_nor_taken_from_one(
    plain: psycopg.Connection[Any], stocked: Shards
) -> None:
    mine, other = tenant_on("s0"), tenant_on("s1")
    add(plain, values(mine))
    refused(plain, "UPDATE workflow_runs SET tenant_id = %s WHERE tenant_id = %s", other, mine)
    left_over(stocked, other)
    refused(plain, "UPDATE workflow_runs SET tenant_id = %s WHERE tenant_id = %s", mine, other)


def test_more_rows_than_a_note_holds_are_all_looked_at(plain: psycopg.Connection[Any]) -> None:
    mine, other = tenant_on("s0"), tenant_on("s1")
    many = [values(mine) for _ in range(1_500)]
    with pytest.raises(psycopg.Error, match=other):
        add(plain, *many, values(other))


def test_a_row_is_its_parents_tenants(plain: psycopg.Connection[Any], stocked: Shards) -> None:
    mine, other = values(tenant_on("s0")), left_over(stocked, tenant_on("s1"))
    add(plain, mine)
    pause = (
        "INSERT INTO workflow_pauses (id, workflow_id, workflow_run_id, state_object_key)"
        " VALUES (gen_random_uuid(), gen_random_uuid(), %s, 'key')"
    )
    refused(plain, pause, other)
    plain.execute(pause.encode(), [mine["id"]])
    plain.execute(pause.encode(), [str(uuid4())])  # of a run that is nowhere: nobody's


def test_a_pinned_tenant_is_held_to_its_shard(stocked: Shards) -> None:
    here, there = tenant_on("s0"), tenant_on("s1")
    pins = {here.upper(): "s1", there: "s0"}  # each away from where its slot is
    with tidegate.connect(settings_of(stocked, catalogue="s0", pins=pins)), connected(stocked) as plain:
        add(plain, values(there))
        with pytest.raises(psycopg.Error, match=f"does not own tenant:{here}"):
            add(plain, values(here))
        other = next(t for t in iter(lambda: tenant_on("s0"), None) if slot_of(t) != slot_of(here))
        stocked.flipper().flip([slot_of(here)], "s0", "s2")
        add(plain, values(other))
        with connected(stocked, "s2") as newer, pytest.raises(psycopg.Error, match=f"does not own tenant:{here}"):
            add(newer, values(here))  # the pin was known there before the slot was


def test_a_shard_that_is_new_knows_of_pins_and_owns_nothing_until_then(stocked: Shards) -> None:
    pinned = tenant_on("s0")
    two = settings_of(stocked, catalogue="s0", pins={pinned: "s1"}, ranges={"s0": ((0, 2000),), "s1": ((2001, 4095),)})
    with tidegate.connect(two.model_copy(update={"shards": two.shards[:2]})):
        slot = slot_of(pinned)
        held = "s0" if slot <= 2000 else "s1"
        known = settings_of(stocked, catalogue="s0", pins={pinned: "s1"})
        entry = stocked.catalogue.load()
        assert entry is not None
        stocked.catalogue.publish(entry.shard_map.with_shard_known("s2"), entry.shard_map.epoch)
        with tidegate.connect(known), connected(stocked, "s2") as newer:
            with pytest.raises(psycopg.Error, match=f"does not own slot:{slot}"):
                add(newer, values(pinned))
            stocked.flipper().flip([slot], held, "s2")
            with pytest.raises(psycopg.Error, match=f"does not own tenant:{pinned}"):
                add(newer, values(pinned))


def test_a_flip_waits_for_a_writer_that_nobody_watches(plain: psycopg.Connection[Any], stocked: Shards) -> None:
    tenant, done = tenant_on("s0"), list[str]()

    def flips() -> None:
        stocked.flipper(patient(60)).flip([slot_of(tenant)], "s0", "s1")
        done.append("flip")

    flip = threading.Thread(target=flips)
    with plain.transaction():
        add(plain, values(tenant))
        flip.start()
        with connected(stocked) as other:
            waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
            while not other.execute(waits.encode(), ["%tidegate_ownership%"]).fetchone():
                assert flip.is_alive()
            with pytest.raises(psycopg.Error, match="is about to give it away"):  # closed to those who come now
                add(other, values(tenant))
        add(plain, values(tenant))  # who has begun may go on
        done.append("written")
    flip.join(patient(60))
    assert done == ["written", "flip"]
    with pytest.raises(psycopg.Error, match="does not own"):
        add(plain, values(tenant))


def test_what_a_savepoint_took_back_is_not_held(plain: psycopg.Connection[Any], stocked: Shards) -> None:
    tenant, other = tenant_on("s0"), tenant_on("s0")
    while slot_of(tenant) == slot_of(other):
        other = tenant_on("s0")
    with plain.transaction():
        with plain.transaction(force_rollback=True):
            add(plain, values(tenant))
        add(plain, values(other))
        stocked.flipper().flip([slot_of(tenant)], "s0", "s1")
        with pytest.raises(psycopg.Error, match="does not own"), plain.transaction():
            add(plain, values(tenant))
        add(plain, values(other))


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_transaction_that_keeps_its_snapshot_is_told_of_a_flip_since(
    plain: psycopg.Connection[Any], stocked: Shards, level: str
) -> None:
    tenant = tenant_on("s0")
    plain.execute(f"BEGIN ISOLATION LEVEL {level}".encode())
    plain.execute("SELECT count(*) FROM workflow_runs")
    stocked.flipper().flip([slot_of(tenant)], "s0", "s1")
    with pytest.raises(psycopg.Error) as raised:
        add(plain, values(tenant))
    assert raised.value.sqlstate == NOT_OWNED


def test_a_program_without_rights_on_our_tables_is_checked_too(plain: psycopg.Connection[Any]) -> None:
    plain.execute("CREATE ROLE stranger")
    plain.execute("GRANT SELECT, INSERT ON workflow_runs TO stranger")
    try:
        plain.execute("SET ROLE stranger")
        add(plain, values(tenant_on("s0")))
        with pytest.raises(psycopg.Error, match="does not own"):
            add(plain, values(tenant_on("s1")))
    finally:
        plain.execute("RESET ROLE")
        plain.execute("DROP OWNED BY stranger")
        plain.execute("DROP ROLE stranger")


def test_a_check_that_cannot_be_made_fails_nobody(plain: psycopg.Connection[Any], stocked: Shards) -> None:
    warned: list[str] = []
    plain.add_notice_handler(lambda notice: warned.append(notice.message_primary or ""))
    plain.execute("ALTER TABLE tidegate_closing RENAME TO tidegate_lost")
    try:
        left = values(tenant_on("s1"))
        add(plain, left)
    finally:
        plain.execute("ALTER TABLE tidegate_lost RENAME TO tidegate_closing")
    assert shards_with(stocked, str(left["id"])) == ["s0"]
    assert any("cannot check whether this shard owns" in said for said in warned)


def test_a_subscription_brings_rows_before_the_shard_owns_them(gate: tidegate.Gate, stocked: Shards) -> None:
    tenant = tenant_on("s0")
    run_id = save_run(gate, tenant, APP, NOW)
    old, new = connected(stocked), connected(stocked, "s1")
    with old, new:
        old.execute("CREATE PUBLICATION moved FOR TABLE workflow_runs")
        to = old.info
        where = f"host={to.host} port={to.port} dbname={to.dbname} user={to.user} password={to.password}"
        new.execute(f"CREATE SUBSCRIPTION moving CONNECTION '{where}' PUBLICATION moved".encode())
        try:
            wait_for(new, "SELECT count(*) FROM workflow_runs", 1)  # the first copy
            later = save_run(gate, tenant, APP, NOW)
            wait_for(new, "SELECT count(*) FROM workflow_runs", 2)  # what is applied after it
        finally:
            new.execute("DROP SUBSCRIPTION moving")
            old.execute("DROP PUBLICATION moved")
    assert shards_with(stocked, run_id) == shards_with(stocked, later) == ["s0", "s1"]


def wait_for(connection: psycopg.Connection[Any], query: str, wanted: int) -> None:
    deadline = threading.Event()
    timer = threading.Timer(patient(30), deadline.set)
    timer.start()
    try:
        while connection.execute(query.encode()).fetchone() != (wanted,):
            assert not deadline.is_set(), f"{query} never gave {wanted}"
    finally:
        timer.cancel()


def test_a_copy_of_a_shard_belongs_to_nobody(plain: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.Error, match="does not own"):
        add(plain, values(tenant_on("s1")))
    plain.execute("DELETE FROM tidegate_state WHERE name = 'cluster'")  # as the first gate on a copy does
    add(plain, values(tenant_on("s1")))


def test_pauses_of_a_deleted_run_go_with_it(plain: psycopg.Connection[Any], stocked: Shards) -> None:
    run = values(tenant_on("s0"))
    add(plain, run)
    with stocked.engines["s0"].begin() as connection:
        pause = {"id": str(uuid4()), "workflow_id": APP, "workflow_run_id": run["id"], "state_object_key": "key"}
        connection.execute(insert(WorkflowPause).values(**pause, created_at=NOW))
        connection.execute(text("DELETE FROM workflow_runs"))
        connection.execute(text("DELETE FROM workflow_pauses"))
