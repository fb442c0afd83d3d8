"""What a shard owns, on real servers: who may write, who may read, and what is never claimed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, text

from tidegate.errors import SettingsError, StaleShardMap
from tidegate.proxy.database import ownership
from tidegate.proxy.database.ownership import check_ownership, check_ownership_to_read, owned, record_ownership
from tidegate.routing.sharding.shard_map import Ownership, even_map, map_of_ranges

if TYPE_CHECKING:
    from real_servers.shards import Shards

PINNED = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"


def test_a_shard_accepts_what_it_owns_since_the_epoch_that_the_map_says(shards: Shards) -> None:
    shards.begin()
    assert shards.accepts(Ownership("slot:5", "s0", 1))
    assert not shards.accepts(Ownership("slot:5", "s1", 1))
    assert not shards.accepts(Ownership("slot:5", "s0", 2))
    assert not shards.accepts(Ownership("slot:5", "s0", 0))
    assert not shards.accepts(Ownership("tenant:acme", "s0", 1))


def test_a_pinned_tenant_is_a_unit_of_its_own(shards: Shards) -> None:
    first = even_map(["s0", "s1", "s2"], {PINNED.upper(): "s1"})
    for name, engine in shards.engines.items():
        record_ownership(engine, name, first)
    assert shards.accepts(first.ownership(PINNED))
    assert first.ownership(PINNED).shard == "s1"
    elsewhere = even_map(["s0", "s1", "s2"]).ownership(PINNED)
    assert (elsewhere.shard, shards.accepts(elsewhere)) == ("s2", True)  # others of its slot are there


def test_several_units_are_one_statement_and_the_one_not_owned_is_named(shards: Shards) -> None:
    first = shards.begin()
    ownerships = first.owned_units("s0")[:50]
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, sql: str, *_rest: Any) -> None:
        statements.append(sql)

    with shards.engines["s0"].begin() as connection:
        event.listen(connection, "before_cursor_execute", note)
        check_ownership(connection, ownerships)
        assert len(statements) == 1
        with pytest.raises(StaleShardMap, match="s0 does not own slot:7 since epoch 9"):
            check_ownership(connection, [*ownerships, Ownership("slot:7", "s0", 9)])


def test_a_check_reads_rows_by_their_index(shards: Shards) -> None:
    record_ownership(shards.engines["s0"], "s0", even_map(["s0"]))
    with shards.engines["s0"].begin() as connection:
        connection.execute(text("ANALYZE tidegate_ownership"))
        bound = ownership._SHARED.params(units=["slot:17"])
        sql = str(bound.compile(connection, compile_kwargs={"literal_binds": True, "render_postcompile": True}))
        plan = "\n".join(row[0] for row in connection.execute(text(f"EXPLAIN {sql}")))
    assert "Scan using tidegate_ownership_pkey" in plan
    assert "Seq Scan" not in plan, plan


def test_a_transaction_that_keeps_its_snapshot_is_told_of_a_flip_since(shards: Shards) -> None:
    first = shards.begin()
    with shards.engines["s0"].connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(text("SELECT count(*) FROM writes"))
        shards.flipper().flip([5], "s0", "s1")
        ownership = Ownership("slot:5", *first.slots[5])
        with pytest.raises(StaleShardMap, match="slot:5 was flipped while this transaction ran"):
            check_ownership(connection, [ownership])


def test_reads_go_on_while_a_unit_closes_and_are_refused_once_it_is_gone(shards: Shards) -> None:
    first = shards.begin()
    ownership = Ownership("slot:5", *first.slots[5])
    with shards.engines["s0"].begin() as connection:
        connection.execute(text("INSERT INTO tidegate_closing VALUES ('slot:5', 2, true)"))
    assert not shards.accepts(ownership)
    with shards.engines["s0"].begin() as connection:
        check_ownership_to_read(connection, [ownership])
    shards.flipper().flip([5], "s0", "s1")
    with shards.engines["s0"].begin() as connection, pytest.raises(StaleShardMap):
        check_ownership_to_read(connection, [ownership])


def test_an_old_notice_closes_nothing(shards: Shards) -> None:
    shards.begin()
    shards.flipper().flip([5], "s0", "s1")
    back = shards.flipper().flip([5], "s1", "s0")
    with shards.engines["s0"].begin() as connection:
        connection.execute(text("INSERT INTO tidegate_closing VALUES ('slot:5', 2, true), ('slot:6', 9, false)"))
    assert shards.accepts(Ownership("slot:5", *back.slots[5]))
    assert shards.accepts(Ownership("slot:6", *back.slots[6]))


def test_a_shard_that_owns_something_else_than_the_settings_say_is_named(shards: Shards) -> None:
    first = shards.begin()
    record_ownership(shards.engines["s0"], "s0", first)  # again: nothing changes
    other = map_of_ranges(["s0", "s1", "s2"], {"s0": [(0, 1000)], "s1": [(1001, 2000)], "s2": [(2001, 4095)]})
    with pytest.raises(SettingsError, match=r"shards.s0: .*does not own it \(slot:1001\), by its own table it owns it"):
        record_ownership(shards.engines["s0"], "s0", other)
    with pytest.raises(SettingsError, match=r"check that this shard's URL leads to the right database"):
        record_ownership(shards.engines["s1"], "s0", first)


def test_a_shard_that_lost_its_rows_claims_none_by_a_later_map(shards: Shards) -> None:
    later = shards.begin().with_slots_moved([5], "s1")
    shards.empty()
    with pytest.raises(SettingsError, match="by its own table it does not own it"):
        record_ownership(shards.engines["s0"], "s0", later)
    with shards.engines["s0"].connect() as connection:
        assert owned(connection) == {}


def test_of_two_that_claim_by_different_settings_at_once_the_later_takes_nothing(shards: Shards) -> None:
    one = map_of_ranges(["s0", "s1"], {"s0": [(0, 2047)], "s1": [(2048, 4095)]})
    two = map_of_ranges(["s0", "s1"], {"s0": [(1000, 4095)], "s1": [(0, 999)]})
    together = threading.Barrier(2)

    def attempt(by: Any) -> bool:
        together.wait(30)
        try:
            record_ownership(shards.engines["s0"], "s0", by)
        except SettingsError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(attempt, [one, two]))
    assert sorted(done) == [False, True]
    with shards.engines["s0"].connect() as connection:
        assert set(owned(connection)) == {row.unit for row in [one, two][done.index(True)].owned_units("s0")}


def test_ids_as_text_are_in_the_order_of_postgresql(shards: Shards) -> None:
    sql = text("SELECT id::text FROM (SELECT gen_random_uuid() id FROM generate_series(1, 500)) ids ORDER BY id")
    with shards.engines["s0"].connect() as connection:
        ids = list(connection.scalars(sql))
    assert ids == sorted(ids)
