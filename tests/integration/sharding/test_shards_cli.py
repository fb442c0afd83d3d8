"""``tidegate shards`` on three real shards, as a person calls it."""

from __future__ import annotations

import re
from contextlib import closing
from datetime import timedelta
from itertools import count, islice
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy import insert, text
from typer.testing import CliRunner

from tidegate.error_text import without_passwords
from tidegate.errors import NoNodeAvailable
from tidegate.proxy.cli.app import app
from tidegate.proxy.database.identity import name_shard
from tidegate.proxy.database.ownership import check_ownership
from tidegate.proxy.settings import Settings
from tidegate.proxy.shard_admin import check as shard_check
from tidegate.proxy.shard_admin import check_rows as rows_check
from tidegate.proxy.shard_admin import move_slots as moves
from tidegate.proxy.shard_admin import tenant_rows as shard_rows
from tidegate.proxy.shard_admin.databases import Databases
from tidegate.proxy.shard_admin.flip import Flipper
from tidegate.proxy.shard_admin.move_slots import SlotMoves
from tidegate.proxy.shard_admin.progress import progress
from tidegate.proxy.shard_admin.tenant_rows import WITH_TENANT, busiest_statement, tenants
from tidegate.repositories.columns import naive_utc_now
from tidegate.repositories.models import (
    Base,
    WorkflowNodeExecutionOffload,
    WorkflowPause,
    WorkflowPauseReason,
    WorkflowRun,
    new_id,
)
from tidegate.routing.sharding.shard_map import Ownership, ShardMap, even_map, slot_unit
from tidegate.routing.sharding.slots import slot_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from real_servers.shards import Shards
    from sqlalchemy import Engine
    from typer.testing import Result

TABLES = [table.name for table in Base.metadata.sorted_tables]


@pytest.fixture
def there(stocked: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shards:
    """Three shards without rows, and their settings."""
    monkeypatch.setenv("TIDEGATE_CONFIG", str(settings(stocked, tmp_path)))
    return stocked


def settings(shards: Shards, folder: Path, *, catalogue: str = 'catalogue = "s0"', **urls: str) -> Path:
    path = folder / "tidegate.toml"
    lines = [f"[sharding]\n{catalogue}"]
    for name, engine in shards.engines.items():
        url = urls.get(name, engine.url.render_as_string(hide_password=False))
        lines.append(f'[[shards]]\nname = "{name}"\nprimary = "{url}"')
    path.write_text("\n".join(lines))
    return path


def tidegate(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["shards", *arguments])


def refusal(refused: Result) -> str:
    """What stands on standard error, without what is said of the progress of a command that takes long."""
    return "".join(line for line in refused.stderr.splitlines(keepends=True) if not re.match(r"[a-z ]+, \d+ s", line))


def tenant_in(wanted: Callable[[int], bool], number: int = 0) -> str:
    """The tenant of that number whose slot is wanted."""
    fitting = (tenant for tenant in (str(UUID(int=i)) for i in count(1)) if wanted(slot_of(tenant)))
    return next(islice(fitting, number, None))


def of_shard(shards: Shards, name: str, number: int = 0) -> str:
    slots = set(shards.map().slots_of(name))
    return tenant_in(lambda slot: slot in slots, number)


def add(engine: Engine, model: Any, **values: Any) -> str:
    """A row with the columns that must not be null, and its id."""
    row = {"id": new_id()} | values
    for column in model.__table__.columns:
        if column.name not in row and not column.nullable and column.default is None:
            row[column.key] = {"StringUUID": new_id()}.get(type(column.type).__name__, "x")
    with engine.begin() as connection:
        connection.execute(insert(model.__table__).values(row))
    return str(row["id"])


def add_run(engine: Engine, tenant: str, **values: Any) -> str:
    return add(engine, WorkflowRun, tenant_id=tenant, **values)


def add_offload(engine: Engine, tenant: str) -> None:
    add(engine, WorkflowNodeExecutionOffload, tenant_id=tenant, type="inputs")


def add_pause(engine: Engine, run: str) -> str:
    return add(engine, WorkflowPause, workflow_run_id=run)


def add_reason(engine: Engine, pause: str) -> str:
    return add(engine, WorkflowPauseReason, pause_id=pause, type_="human_input_required")


def execute(engine: Engine, sql: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(sql))


# --- tidegate shards


def test_the_map_and_what_each_shard_has_are_shown(there: Shards) -> None:
    there.begin()
    busy, calm = of_shard(there, "s1"), of_shard(there, "s1", 1)
    for _ in range(3):
        add_run(there.engines["s1"], busy)
    add_run(there.engines["s1"], calm)
    add_run(there.engines["s1"], calm, created_at=naive_utc_now() - timedelta(days=2))
    made = tidegate("--top", "1")
    assert made.exit_code == 0, made.output
    assert made.stdout.splitlines()[:5] == [
        "epoch 1 of the catalogue on s0",
        "slots      shard  since epoch",
        "0-1364        s0            1",
        "1365-2729     s1            1",
        "2730-4095     s2            1",
    ]
    shown_of = {part.split(":")[0].split()[-1]: part for part in made.stdout.split("\n\n")[1:]}
    assert shown_of["s1"].startswith("shard s1: 1,365 slots (33.3%), 0 pinned tenants\n  127.0.0.1:")
    assert re.search(r"workflow_runs +5 +2 +\d\S* kB\n", shown_of["s1"])
    assert re.search(r"workflow_pauses +0 +- ", shown_of["s1"])
    assert re.search(r"busiest, 24 h +runs +share +slot\n", shown_of["s1"])
    assert re.search(rf"{busy} +3 +75.0% +{slot_of(busy)}\b", shown_of["s1"])
    assert calm not in made.stdout
    assert "busiest" not in shown_of["s0"]


def test_a_shard_that_is_away_is_named_and_the_others_are_shown(there: Shards, tmp_path: Path) -> None:
    there.begin()
    there.catalogue.publish(there.map().with_shard_known("s9"), 1)
    url = "postgresql+psycopg://me:hidden%2Fword@127.0.0.1:1/dify"
    path = settings(there, tmp_path, s2=url)
    made = tidegate("--config", str(path))
    assert made.exit_code == 1
    assert "the shard s2 has no primary that answers: 127.0.0.1:1: connection failed" in made.stdout
    assert "the settings have no database for the shard 's9', only for s0, s1, s2" in made.stdout
    assert "shard s1: 1,365 slots" in made.stdout
    checked = tidegate("--config", str(path), "check")
    assert checked.exit_code == 1
    assert "s2 was not checked: the shard s2 has no primary" in checked.stdout
    assert "s9 was not checked" in checked.stdout
    assert "2 wrong: 2 of 4 shards" in checked.stdout
    assert "hidden" not in made.output + checked.output


def test_large_tables_are_estimated_and_the_busiest_are_found_by_the_index(
    there: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.begin()
    engine = there.engines["s0"]
    monkeypatch.setattr(shard_rows, "_COUNTED_BYTES", -1)
    columns = "id, tenant_id, app_id, workflow_id, type, triggered_from, version, status, created_by_role, created_by"
    of_same = "gen_random_uuid(), lpad(to_hex(i % 40), 32, '0')::uuid, gen_random_uuid(), gen_random_uuid()"
    execute(
        engine,
        f"INSERT INTO workflow_runs ({columns}, created_at) SELECT {of_same}, 'x', 'x', 'x', 'x', 'x',"
        " gen_random_uuid(), now() - i * interval '1 hour' FROM generate_series(1, 4000) i",
    )
    add_offload(engine, new_id())
    execute(engine, "ANALYZE workflow_runs")
    try:
        made = tidegate("--hours", "5.5")
        assert re.search(r"workflow_runs +~4,000 +~40 ", made.stdout)
        assert re.search(r"workflow_node_execution_offload +- +- ", made.stdout)
        assert made.stdout.count(" 20.0% ") == 5
        with engine.connect() as connection:
            statement = busiest_statement(5.5, 5).compile(engine, compile_kwargs={"literal_binds": True})
            plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {statement}").scalars())
        assert "using workflow_run_created_at_id_idx" in plan or "on workflow_run_created_at_id_idx" in plan
    finally:
        execute(engine, "DELETE FROM workflow_runs")
        execute(engine, "ANALYZE workflow_runs")


def test_what_takes_long_says_what_it_is_at(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("asking the shards", first_s=0) as tell:
        tell("s1", "workflow_runs [3 of 8]")
        said = ""
        while "asking" not in said:
            said += capsys.readouterr().err
    with progress("nothing", first_s=60) as tell:
        tell("s1", "x")
    assert re.search(r"asking the shards, 0 s", said)
    assert capsys.readouterr().err == ""


# --- tidegate shards check


def test_rows_where_they_belong_are_proven_and_each_that_is_not_is_named(there: Shards) -> None:
    there.begin()
    runs = {}
    for name, engine in there.engines.items():
        tenant = of_shard(there, name)
        runs[name] = add_run(engine, tenant)
        add_offload(engine, tenant)
        add_reason(engine, add_pause(engine, runs[name]))
    add_reason(there.engines["s2"], new_id())
    proven = tidegate("check")
    assert proven.exit_code == 0
    assert proven.stdout == (
        "all agrees: 3 of 3 shards, epoch 1; 6 tenants looked up; 7 rows without a tenant, of which 1 name a row that "
        "is on no shard\n"
    )
    stray, strayed = of_shard(there, "s0", 1), of_shard(there, "s2", 1)
    add_run(there.engines["s1"], stray)
    add_offload(there.engines["s1"], strayed)
    add_offload(there.engines["s1"], strayed)
    execute(there.engines["s0"], "DELETE FROM workflow_pauses")
    pause = add_pause(there.engines["s2"], runs["s0"])
    reason = add_reason(there.engines["s1"], pause)
    wrong = tidegate("check")
    assert wrong.exit_code == 1
    summary = (
        "4 wrong: 3 of 3 shards, epoch 1; 8 tenants looked up; 8 rows without a tenant, of which 2 name a row that "
        "is on no shard"
    )
    assert wrong.stdout.splitlines() == [
        f"s1.workflow_node_execution_offload: 2 rows of tenant {strayed} (slot {slot_of(strayed)}), which s2 owns",
        f"s1.workflow_pause_reasons: the row {reason} belongs to {pause} of workflow_pauses, which lies on s2",
        f"s1.workflow_runs: 1 row of tenant {stray} (slot {slot_of(stray)}), which s0 owns",
        f"s2.workflow_pauses: the row {pause} belongs to {runs['s0']} of workflow_runs, which lies on s0",
        summary,
    ]


@pytest.mark.parametrize("indexed", [True, False])
def test_tenants_are_streamed_and_searched_once_each(
    there: Shards, monkeypatch: pytest.MonkeyPatch, indexed: bool
) -> None:
    monkeypatch.setattr(shard_rows, "_PAGE", 10)
    engine = there.engines["s0"]
    name = "workflow_app_logs" if indexed else "workflow_node_execution_offload"
    one = next(one for one in WITH_TENANT if one.table.name == name)
    rest = {c.name: "'x'" for c in one.table.columns if "char" in str(c.type).lower()}
    rest |= {c.name: "gen_random_uuid()" for c in one.table.columns if type(c.type).__name__ == "StringUUID"}
    rest["tenant_id"] = "lpad(to_hex(i % 95), 32, '0')::uuid"
    rest |= {"type": "i::text"} if not indexed else {}
    execute(
        engine,
        f"INSERT INTO {one.table.name} ({', '.join(rest)}, created_at) SELECT {', '.join(rest.values())}, now()"
        " FROM generate_series(1, 1900) i",
    )
    execute(engine, f"ANALYZE {one.table.name}")
    with engine.connect() as connection:
        assert list(tenants(connection, one)) == [str(UUID(int=i)) for i in range(95)]
        monkeypatch.setattr(shard_rows, "_PAGE", 19)
        assert list(tenants(connection, one)) == [str(UUID(int=i)) for i in range(95)]
        if indexed:
            page = shard_rows._page(one.tenant, str(UUID(int=3)))
            plan = page.compile(engine, compile_kwargs={"literal_binds": True})
            for other in ("seqscan", "bitmapscan", "sort"):  # as they are at more rows than these
                connection.execute(text(f"SET LOCAL enable_{other} = off"))
            shown_plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN (ANALYZE) {plan}").scalars())
            assert len(re.findall("Index (?:Only )?Scan using workflow_app_log_app_idx", shown_plan)) == 2, shown_plan
    execute(engine, f"DELETE FROM {one.table.name}")
    execute(engine, f"ANALYZE {one.table.name}")


def test_of_many_that_are_wrong_some_are_named_and_all_are_counted(
    there: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.begin()
    monkeypatch.setattr(rows_check, "_PAGE", 2)
    monkeypatch.setattr(rows_check, "_COUNTED", 1)
    first = of_shard(there, "s0")
    run = add_run(there.engines["s0"], first)
    for i in range(12):
        add_pause(there.engines["s0"], add_run(there.engines["s1"], of_shard(there, "s0", i)))
    add_run(there.engines["s1"], first)
    add_pause(there.engines["s1"], run)
    lines = tidegate("check").stdout.splitlines()
    assert f"s1.workflow_runs: more than 1 rows of tenant {first} (slot {slot_of(first)}), which s0 owns" in lines
    assert sum(line.startswith("s1.workflow_runs: 1 row of tenant") for line in lines) == 9
    assert "s1.workflow_runs: and 2 more tenants" in lines
    assert "s0.workflow_pauses: and 2 more rows" in lines
    assert sum("which lies on s0" in line for line in lines) == 1


def test_units_that_the_map_and_the_shards_disagree_on_are_named(there: Shards) -> None:
    pinned, stranger = new_id(), new_id()
    there.catalogue.publish(even_map(("s0", "s1", "s2"), {pinned: "s2"}), None)
    first = there.map()
    for name, engine in there.engines.items():
        rows = [{"unit": row.unit, "since": 1, "owned": True} for row in first.owned_units(name)]
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO tidegate_ownership VALUES (:unit, :since, :owned)"), rows)
    assert tidegate("check").exit_code == 0
    execute(there.engines["s0"], "UPDATE tidegate_ownership SET owned = false WHERE unit IN ('slot:4', 'slot:7')")
    execute(there.engines["s0"], "DELETE FROM tidegate_ownership WHERE unit IN ('slot:5')")
    execute(there.engines["s1"], "INSERT INTO tidegate_ownership VALUES ('slot:9', 1, true), ('slot:10', 1, true)")
    execute(there.engines["s1"], f"INSERT INTO tidegate_ownership VALUES ('tenant:{stranger}', 1, true)")
    execute(there.engines["s1"], "INSERT INTO tidegate_closing VALUES ('slot:1400', 3, true), ('slot:1401', 3, false)")
    execute(there.engines["s2"], f"DELETE FROM tidegate_ownership WHERE unit = 'tenant:{pinned}'")
    wrong = tidegate("check")
    assert wrong.exit_code == 1
    owners = [f"tenant {pinned}: the map says s2 since epoch 1; owned by nobody"]
    owners += [f"tenant {stranger}: the map knows no such unit; owned by s1 since epoch 1"]
    assert wrong.stdout.splitlines()[:-2] == [
        "slots 4-5: the map says s0 since epoch 1; owned by nobody",
        "slot 7: the map says s0 since epoch 1; owned by nobody",
        "slots 9-10: the map says s0 since epoch 1; owned by s0 since epoch 1 and s1 since epoch 1",
        *sorted(owners),
        "slot 1400: s1 refuses writes for a flip at epoch 3 that is not under way: flip them again",
    ]


def test_without_settings_it_says_how_to_give_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDEGATE_CONFIG", raising=False)
    monkeypatch.delenv("TIDEGATE_DATABASE_URL", raising=False)
    for command in ([], ["check"], ["finish"]):
        refused = tidegate(*command)
        assert (refused.exit_code, refused.stderr) == (
            2,
            "error: no settings: give --config a TOML file, or set TIDEGATE_CONFIG to the path of one\n",
        )


def test_a_map_that_changes_meanwhile_proves_nothing(there: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    there.begin()
    check_rows = rows_check.check_rows

    def check_and_flip(shard: str, *rest: Any) -> None:
        check_rows(shard, *rest)
        if shard == "s0":
            there.flipper().flip([5], "s0", "s1")

    monkeypatch.setattr(shard_check, "check_rows", check_and_flip)
    changed = tidegate("check")
    assert changed.exit_code == 1
    assert changed.stdout.startswith("the map has changed from epoch 1 to 2 while this ran")


def test_no_password_of_any_server_is_said(there: Shards, tmp_path: Path) -> None:
    url = "postgresql+psycopg://me:hidden%2Fword@127.0.0.1:1/dify"
    databases = Databases(Settings.from_toml(settings(there, tmp_path, s1=url)))
    with pytest.raises(NoNodeAvailable):
        databases.engine("s1")
    assert without_passwords("FATAL: hidden/word for me") == "FATAL: *** for me"


def test_two_urls_of_one_database_are_not_two_shards(there: Shards, tmp_path: Path) -> None:
    there.begin()
    url = there.engines["s1"].url.render_as_string(hide_password=False)
    wrong = tidegate("check", "--config", str(settings(there, tmp_path, s2=url)))
    assert wrong.exit_code == 1
    assert "the URLs of s1 and s2 lead to the same database; each shard needs a database of its own" in wrong.stdout


def test_swapped_urls_are_told_of_and_get_no_slots(there: Shards, tmp_path: Path) -> None:
    there.begin()
    for name, engine in there.engines.items():
        name_shard(engine, name)
    urls = {name: there.engines[name].url.render_as_string(hide_password=False) for name in ("s1", "s2")}
    swapped = str(settings(there, tmp_path, s1=urls["s2"], s2=urls["s1"]))
    wrong = tidegate("check", "--config", swapped)
    assert wrong.exit_code == 1
    assert "s1 was not checked: shards.s1: its URL leads to the database of the shard s2" in wrong.stdout
    refused = tidegate("flip", "--slots", "0", "--to", "s1", "--config", swapped)
    assert (refused.exit_code, there.accepting(0)) == (2, ["s0"])
    assert "its URL leads to the database of the shard s2" in refused.stderr


def broken_off(shards: Shards, step: str, slots: list[int], source: str, target: str) -> None:
    """A flip whose owner is gone before a step."""
    flipper = Flipper(shards.catalogue, shards.engines)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    setattr(flipper, step, die)
    with pytest.raises(KeyboardInterrupt):
        flipper.flip(slots, source, target)


@pytest.mark.parametrize("step", ["_close", "_fence", "_grant", "_publish"])
def test_a_flip_that_was_broken_off_is_shown_and_finished(there: Shards, step: str) -> None:
    there.begin()
    broken_off(there, step, [5, 6, 9], "s0", "s1")
    assert (
        "flip under way: 3 slots (5-6, 9) from s0 to s1, at epoch 2; if no process works on it any more, run: tidegate "
        "shards finish\n"
    ) in tidegate().stdout
    checked = tidegate("check")
    assert (checked.exit_code, checked.stdout.splitlines()[:2]) == (
        1,
        [
            "3 slots are on their way from s0 to s1, at epoch 2",
            "what to do: if no process works on that flip any more, run: tidegate shards finish",
        ],
    )
    assert "1 wrong: " in checked.stdout
    if step == "_close":
        refused = tidegate("flip", "--slots", "70", "--to", "s2")
        expected = "error: 3 slots are on their way from s0 to s1: finish that flip first\n"
        assert (refused.exit_code, refusal(refused)) == (2, expected)
    assert tidegate("finish").stdout == "finished: slots 5-6, 9 from s0 to s1\nthe map is at epoch 3\n"
    if step == "_close":
        assert tidegate("finish").stdout == "no flip is under way; the map is at epoch 3\n"
    assert tidegate("check").exit_code == 0
    assert there.accepting(6) == ["s1"]


def lose_newest_map(shards: Shards, lost: ShardMap) -> None:
    execute(shards.engines["s0"], "DELETE FROM tidegate_catalogue")
    shards.catalogue.publish(lost, None)


def test_a_catalogue_that_lost_its_newest_map_is_told_of_and_repaired(there: Shards) -> None:
    first = there.begin()
    there.flipper().flip([5, 6], "s0", "s1")
    assert tidegate("repair").stdout == "the catalogue has lost nothing; nothing was changed\n"
    with closing(there.follower(poll_s=0.05)) as follower:
        follower.current()
        lose_newest_map(there, first)
        lost = tidegate("check")
        assert lost.exit_code == 1
        assert lost.stdout.startswith(
            "slots 5-6: the map says s0 since epoch 1; owned by s1 since epoch 2\n"
            "what to do: shards know of epoch 2, and the last epoch of the catalogue on s0 is 1: it has lost its newest"
        )
        assert "run: tidegate shards repair; and replicate that shard synchronously" in lost.stdout
        assert there.accepting(5) == []
        made = tidegate("repair")
        assert made.stdout == "published what the shards own as the map of epoch 1002; run: tidegate shards check\n"
        assert tidegate("check").exit_code == 0
        assert (there.accepting(5), there.accepting(7)) == (["s1"], ["s0"])
        follower.refresh()
        assert follower.current() == there.map()
    assert tidegate("repair").stdout == "the catalogue has lost nothing; nothing was changed\n"
    assert there.flipper().flip([5], "s1", "s2").slots[5] == ("s2", 1003)


def test_a_shard_that_the_lost_map_had_added_is_in_the_repaired_one(there: Shards) -> None:
    first = there.begin("s0", "s1")
    assert tidegate("add", "s2").exit_code == 0
    added = there.map()
    lose_newest_map(there, first)
    tenant = tenant_in(lambda slot: slot in added.slots_of("s2"))
    add_run(there.engines["s2"], tenant)
    lost = tidegate("check")
    assert "slots 1365-2047: the map says s0 since epoch 1; owned by s2 since epoch 3\n" in lost.stdout
    assert f"s2.workflow_runs: 1 row of tenant {tenant} (slot {slot_of(tenant)}), which s" in lost.stdout
    assert tidegate("repair").exit_code == 0
    assert (there.map().slots, there.map().shards) == (added.slots, added.shards)
    assert tidegate("check").exit_code == 0


def test_a_plan_that_came_back_with_a_lost_map_is_finished_first(there: Shards) -> None:
    first = there.begin()
    broken_off(there, "_publish", [5], "s0", "s1")
    there.flipper().finish()
    there.flipper().flip([8], "s0", "s2")
    lose_newest_map(there, first)
    broken_off(there, "_close", [5], "s0", "s1")
    assert "run: tidegate shards finish, then check and repair" in tidegate("check").stdout
    assert refusal(tidegate("repair")) == (
        "error: a flip is under way in the catalogue; run: tidegate shards finish, then run this again\n"
    )


def test_what_nobody_or_two_own_is_not_repaired(there: Shards) -> None:
    there.begin()
    there.flipper().flip([5], "s0", "s1")
    lose_newest_map(there, even_map(("s0", "s1", "s2")))
    execute(there.engines["s2"], "INSERT INTO tidegate_ownership VALUES ('slot:5', 2, true)")
    assert "no map can be made of what the shards own: slot:5 is owned by s1 since epoch 2 and s2 since epoch 2" in (
        tidegate("repair").stderr
    )
    execute(there.engines["s2"], "DELETE FROM tidegate_ownership WHERE unit = 'slot:5'")
    execute(there.engines["s1"], "DELETE FROM tidegate_ownership WHERE unit = 'slot:5'")
    assert "slot:5 is owned by nobody" in tidegate("repair").stderr
    assert there.map().epoch == 1


def test_without_a_catalogue_the_settings_are_the_map_and_nothing_is_handed_over(there: Shards, tmp_path: Path) -> None:
    path = str(settings(there, tmp_path, catalogue=""))
    unclaimed = tidegate("--config", path, "check")
    assert unclaimed.exit_code == 1
    assert "slots 0-1364: the map says s0 since epoch 1; owned by nobody" in unclaimed.stdout
    assert "what to do: s0 owns nothing: a gate that starts makes it own" in unclaimed.stdout
    there.begin()
    assert tidegate("check", "--config", path).exit_code == 0
    assert tidegate("--config", path).stdout.startswith("epoch 1 of the settings: sharding.catalogue is not set\n")
    for command in (["flip", "--slots", "5", "--to", "s1"], ["finish"], ["add", "s2"], ["repair"]):
        refused = tidegate("--config", path, *command)
        assert (refused.exit_code, "sharding.catalogue is not set" in refused.stderr) == (2, True)
    there.flipper().flip([5], "s0", "s1")
    assert "shards know of epoch 2, so there is a catalogue for them" in tidegate("check", "--config", path).stdout


# --- tidegate shards flip


def test_slots_without_rows_are_handed_over_once(there: Shards) -> None:
    there.begin()
    add_run(there.engines["s0"], tenant_in(lambda slot: slot < 1000))
    moved = tidegate("flip", "--slots", "1364-1366, 4095", "--to", "s1")
    assert (moved.exit_code, moved.stdout) == (
        0,
        "moved: 1 slots from s0 to s1: 1364\nmoved: 1 slots from s2 to s1: 4095\nthe map is at epoch 3\n",
    )
    assert (there.accepting(1364), there.accepting(1366), there.accepting(4095)) == (["s1"], ["s1"], ["s1"])
    again = tidegate("flip", "--slots", "1364-1366,4095", "--to", "s1")
    assert (again.exit_code, again.stdout) == (0, "s1 owns these slots already; nothing was changed\n")
    assert there.map().epoch == 3


def test_slots_whose_tenants_have_rows_are_not_handed_over(there: Shards) -> None:
    there.begin()
    tenant = of_shard(there, "s0")
    slot = slot_of(tenant)
    add_offload(there.engines["s0"], tenant)
    for command in (["flip", "--slots", f"{slot}", "--to", "s1"], ["flip", "--slots", "0-4095", "--to", "s1"]):
        refused = tidegate(*command)
        assert refused.exit_code == 2
        expected = f"s0 has rows of tenants in these slots: {tenant} (slot {slot}, workflow_node_execution_offload)."
        assert expected in refused.stderr
        assert "moving rows is not built" in refused.stderr
    assert there.map() == even_map(("s0", "s1", "s2"))
    assert tidegate("flip", "--slots", f"{slot}", "--to", "s1", "--rows-copied").exit_code == 0
    assert there.accepting(slot) == ["s1"]
    # And not where rows lie that were left behind.
    back = tidegate("flip", "--slots", f"{slot}", "--to", "s0")
    assert (back.exit_code, "s0 has rows of tenants in these slots" in back.stderr) == (2, True)


def test_a_row_that_comes_before_the_fence_keeps_its_slot(there: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    there.begin()
    tenant = of_shard(there, "s0")
    slot = slot_of(tenant)
    ownership = Ownership(slot_unit(slot), *there.map().slots[slot])
    looked = SlotMoves.verify_empty

    def look_and_then(self: SlotMoves, planned: Any) -> None:
        looked(self, planned)
        with there.engines["s0"].begin() as connection:
            check_ownership(connection, [ownership])
        add_run(there.engines["s0"], tenant)

    monkeypatch.setattr(moves.SlotMoves, "verify_empty", look_and_then)
    refused = tidegate("flip", "--slots", f"{slot}", "--to", "s1")
    assert refused.exit_code == 2
    assert f"{tenant} (slot {slot}, workflow_runs)" in refused.stderr
    assert "nothing was flipped" in refused.stderr
    assert (there.accepting(slot), there.accepts(ownership)) == (["s0"], True)
    assert tidegate("check").exit_code == 0


def test_rows_of_a_pinned_tenant_do_not_keep_the_slot_of_its_id(there: Shards) -> None:
    tenant = tenant_in(lambda slot: slot < 1000)
    first = even_map(("s0", "s1", "s2"), {tenant: "s0"})
    there.catalogue.publish(first, None)
    for name, engine in there.engines.items():
        with engine.begin() as connection:
            rows = [{"unit": row.unit, "since": 1} for row in first.owned_units(name)]
            connection.execute(text("INSERT INTO tidegate_ownership VALUES (:unit, :since, true)"), rows)
    add_run(there.engines["s0"], tenant)
    assert tidegate("flip", "--slots", f"{slot_of(tenant)}", "--to", "s1").exit_code == 0
    assert f"pinned: tenant {tenant} to s0, since epoch 1" in tidegate().stdout
    assert tidegate("check").exit_code == 0


@pytest.mark.parametrize("wrong", ["7-5", "4096", "five", "", "5-", "1,,2", "-3"])
def test_slots_that_are_none_are_named(wrong: str) -> None:
    refused = tidegate("flip", f"--slots={wrong}", "--to", "s1")
    assert refused.exit_code == 2
    assert f"--slots {wrong!r}" in refused.stderr


def test_a_shard_that_is_not_known_is_named(there: Shards) -> None:
    assert "no shard map yet" in tidegate("finish").stderr
    there.begin("s0", "s1")
    assert "names the shard 's2'; known are s0, s1" in tidegate("flip", "--slots", "5", "--to", "s2").stderr


# --- tidegate shards add


def test_a_shard_is_added_with_its_share_and_taken_up_where_it_was_broken_off(
    there: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.begin("s0", "s1")
    add_run(there.engines["s0"], tenant_in(lambda slot: slot < 1000))
    assert "the shard s2 has a database, but is not in the map; run: tidegate shards add s2\n" in tidegate().stdout
    would = tidegate("add", "s2", "--dry-run").stdout
    assert would == ("would move: 683 slots from s0 to s2: 1365-2047\nwould move: 682 slots from s1 to s2: 3414-4095\n")
    assert there.map().shards == ("s0", "s1")
    flip = Flipper.flip

    def flip_one(self: Flipper, slots: Any, source: str, target: str) -> ShardMap:
        if source == "s1":
            raise KeyboardInterrupt
        return flip(self, slots, source, target)

    with monkeypatch.context() as patched:
        patched.setattr(Flipper, "flip", flip_one)
        stopped = tidegate("add", "s2")
    assert (stopped.exit_code, stopped.stdout) == (130, "moved: 683 slots from s0 to s2: 1365-2047\n")
    assert "to see whether a flip is still under way, run: tidegate shards" in stopped.stderr
    again = tidegate("add", "s2")
    assert again.stdout == "moved: 682 slots from s1 to s2: 3414-4095\nthe map is at epoch 4\n"
    assert tidegate("add", "s2").stdout == "s2 has its share already; nothing was changed\n"
    assert [len(there.map().slots_of(name)) for name in there.engines] == [1365, 1366, 1365]
    assert tidegate("check").exit_code == 0
    assert there.accepting(2047) == ["s2"]


def test_a_shard_is_not_added_while_its_slots_have_rows_or_it_is_not_ready(there: Shards, tmp_path: Path) -> None:
    there.begin("s0", "s1")
    add_run(there.engines["s1"], tenant_in(lambda slot: slot > 4000))
    refused = tidegate("add", "s2")
    assert (refused.exit_code, "s1 has rows of tenants in these slots" in refused.stderr) == (2, True)
    assert there.map().shards == ("s0", "s1")
    assert "no database for the shard 's3', only for s0, s1, s2" in tidegate("add", "s3").stderr
    url = there.engines["s1"].url
    same = settings(there, tmp_path, s2=url.render_as_string(hide_password=False))
    assert "the URLs of s1 and s2 lead to the same database" in tidegate("add", "s2", "--config", str(same)).stderr
    empty = settings(there, tmp_path, s2=url.set(database="template1").render_as_string(hide_password=False))
    refused = tidegate("add", "s2", "--config", str(empty))
    assert "s2 has no table tidegate_" in refused.stderr
    assert tidegate("check", "--config", str(empty)).exit_code == 0
    assert "run tidegate init --url" in refused.stderr
