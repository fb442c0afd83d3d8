"""Who writes beside every gate: what he changes is seen, whatever he writes with, and nothing of his fails."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from real_servers.deadlines import patient
from real_servers.shaped_gate import Shaped, connect, shaped, wrapped
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import sessionmaker

import tidegate
from tidegate.proxy.embedded import Cluster
from tidegate.proxy.settings import Settings, ShardSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import psycopg
    from sqlalchemy import Connection

ROW = '[["a", "ann", "g1", {}]]'


@pytest.fixture(scope="module")
def preparing() -> Iterator[Cluster]:
    """A cluster of which transactions may be prepared."""
    with Cluster(postgres_settings={"max_prepared_transactions": "20"}) as running:
        yield running


@pytest.fixture
def outside(database_url: str, valkey_url: str) -> Iterator[Shaped]:
    with shaped(database_url, valkey_url) as found:
        yield found


@pytest.fixture
def preparable(preparing: Cluster) -> Iterator[Shaped]:
    primary = preparing.shards[0].primary
    primary.execute("CREATE DATABASE preparable STRATEGY file_copy", database="postgres")
    preparing.cache.flush()
    with shaped(primary.url.rsplit("/", 1)[0] + "/preparable", preparing.cache.url) as found:
        yield found
    primary.execute("DROP DATABASE preparable WITH (FORCE)", database="postgres")


def seen(call: Callable[[], str], wanted: str, patience_s: float = 2.0) -> float:
    """How long it takes until *call* answers what is wanted, in seconds."""
    begun = time.monotonic()
    while (found := call()) != wanted:
        assert time.monotonic() < begun + patient(patience_s), f"{found}, not {wanted}"
    return time.monotonic() - begun


def _plain(shapes: Any) -> str:
    return str(shapes.plain_one("ann", "a"))


def _copy(connection: psycopg.Connection[Any], value: int) -> None:
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("DELETE FROM plain WHERE id = 'a'")
        with cursor.copy("COPY plain FROM STDIN") as copy:
            copy.write_row(("a", "ann", "g1", value))


def _call(connection: psycopg.Connection[Any], value: int) -> None:
    connection.execute("UPDATE plain SET value = %s WHERE id = 'a'", (value - 1,))
    connection.execute("CALL commit_each('a')")


WAYS: dict[str, Callable[[psycopg.Connection[Any], int], Any]] = {
    "statement": lambda outside, value: outside.execute("UPDATE plain SET value = %s WHERE id = 'a'", (value,)),
    "copy": _copy,
    "procedure": _call,
    "function": lambda outside, value: outside.execute(
        "DO $$ BEGIN UPDATE plain SET value = 0; PERFORM raise_value('a'); END $$; UPDATE plain SET value = "
        f"{value} WHERE id = 'a'".encode()
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_window_of_an_outside_write(outside: Shaped, way: str) -> None:
    outside.outside.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)")
    took = []
    for value in range(1, 31):
        outside.cached("plain_one", "ann", "a")
        WAYS[way](outside.outside, value)
        took.append(seen(lambda: _plain(outside.shapes), ROW.format(value)))
    took.sort()
    print(f"{way}: seen within {took[len(took) // 2] * 1000:.1f} ms in the median, {took[-1] * 1000:.1f} ms at most")  # noqa: T201  # the figure
    assert took[len(took) // 2] < patient(0.1)


def test_a_statement_that_commits_by_itself_is_looked_for_at_once(outside: Shaped) -> None:
    """Nobody notifies of it, since its connection is watched."""
    outside.outside.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)")
    gate, applier = outside.gate, outside.gate._shards.every[0].applier
    assert applier is not None
    applier._notified._poll_s = 3_600
    alone = gate.engine.execution_options(isolation_level="AUTOCOMMIT")
    for value in (1, 2, 3):
        with alone.connect() as connection:
            connection.execute(text("UPDATE plain SET value = :value"), {"value": value})
        seen(lambda: _plain(outside.shapes), ROW.format(value))


def test_the_database_wakes_gates_for_outside_writes_and_not_for_watched_ones(outside: Shaped) -> None:
    """NOTIFY locks a queue of the whole cluster at COMMIT, so it is kept off the way of watched writes."""
    outside.outside.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)")
    outside.comparison.settle()
    applier = outside.gate._shards.every[0].applier
    assert applier is not None
    applier._notified._poll_s = 3_600
    with connect(outside.url) as listener:
        listener.execute("LISTEN tidegate_outbox")
        for value in (1, 2, 3):
            with outside.gate.engine.begin() as connection:
                connection.execute(text("UPDATE plain SET value = :value"), {"value": value})
            assert outside.cached("plain_one", "ann", "a") == ROW.format(value)
        outside.outside.execute("UPDATE plain SET value = 4")
        heard = next(listener.notifies(timeout=patient(10)))
        assert heard.pid == outside.outside.info.backend_pid  # and no watched one before it
        seen(lambda: _plain(outside.shapes), ROW.format(4))


def test_what_a_later_listener_of_the_commit_writes_is_seen_within_the_window(outside: Shaped) -> None:
    outside.outside.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)")
    outside.cached("plain_one", "ann", "a")

    def write_more(connection: Connection) -> None:
        connection.execute(text("UPDATE plain SET value = 8"))

    event.listen(outside.gate.engine, "commit", write_more)
    try:
        with outside.gate.engine.begin() as connection:
            connection.execute(text("UPDATE other.side SET value = value"))
    finally:
        event.remove(outside.gate.engine, "commit", write_more)
    seen(lambda: _plain(outside.shapes), ROW.format(8))


def test_a_watched_select_that_writes_is_seen_at_once(outside: Shaped) -> None:
    outside.outside.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)")
    outside.comparison.settle()
    for value, between in enumerate(("", " ", "/* of all */", " -- of all\n "), start=1):
        outside.cached("plain_one", "ann", "a")
        with outside.gate.engine.begin() as connection:
            connection.exec_driver_sql(f"SELECT raise_value{between}('a')")
        assert _plain(outside.shapes) == ROW.format(value), between


def test_an_update_of_no_key_keeps_out_no_child(outside: Shaped) -> None:
    """A watched statement takes the locks that it takes without a gate, and no more."""
    outside.outside.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 0), ('b', 'ann', 'g1', 0)")
    with connect(outside.url) as other, outside.gate.engine.begin() as connection:
        connection.execute(text("UPDATE plain SET value = value + 1 WHERE random() < 2"))
        other.execute("SET lock_timeout = '200ms'")
        other.execute("INSERT INTO kid VALUES ('k', 'a', 1)")  # it needs the parent's key as it is
        connection.execute(text("UPDATE plain SET value = value + 1"))
        other.execute("INSERT INTO kid VALUES ('l', 'b', 1)")
    seen(lambda: str(outside.shapes.kid_one("ann", "l")), '[["l", "b", 1]]')


def test_a_delete_needs_no_right_to_update(outside: Shaped) -> None:
    outside.outside.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 0); DROP ROLE IF EXISTS remover")
    outside.outside.execute("CREATE ROLE remover LOGIN; GRANT SELECT, DELETE ON plain TO remover")
    outside.outside.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public, other TO remover")
    outside.outside.execute("GRANT USAGE ON SCHEMA other TO remover")
    assert outside.cached("plain_one", "ann", "a") == ROW.format(0)
    engine = create_engine(outside.url.replace("postgres@", "remover@"))
    with tidegate.gate_on(engine, sessionmaker(engine), Settings(cache=outside.settings.cache)) as gate:
        wrapped(gate)
        with engine.begin() as connection:
            connection.execute(text("DELETE FROM plain"))
    engine.dispose()
    seen(lambda: _plain(outside.shapes), "[]")


def test_nobody_s_search_path_leads_our_functions_astray(outside: Shaped) -> None:
    found = outside.outside.execute(
        "SELECT proname, prosecdef, proconfig FROM pg_proc WHERE proname LIKE 'tidegate%' AND prorettype <> 0"
    ).fetchall()
    written = [one for one in found if "tidegate_slot" not in one[0]]
    assert len(written) > 20
    for name, _, settings in written:
        assert "search_path=pg_catalog, pg_temp" in (settings or ()), name
    assert {is_definer for name, is_definer, _ in written if name.startswith("tidegate_note_")} == {True}


def test_what_waits_while_no_gate_runs_is_known_before_a_gate_serves(outside: Shaped) -> None:
    outside.outside.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)")
    outside.cached("plain_one", "ann", "a")
    outside.gate.close()
    outside.outside.execute("UPDATE plain SET value = 7")
    shards = (ShardSettings(name="s0", primary=f"{outside.url}?options=-c%20lock_timeout%3D100ms"),)
    with closing(connect(outside.url)) as holder:
        holder.execute("BEGIN; LOCK TABLE tidegate_outbox IN ACCESS EXCLUSIVE MODE")  # so that no gate sees it yet
        with tidegate.connect(outside.settings.model_copy(update={"shards": shards})) as gate:
            shapes = wrapped(gate)
            assert _plain(shapes) == ROW.format(7)
            holder.execute("ROLLBACK")
            seen(lambda: str(outside.outside.execute("SELECT count(*) FROM tidegate_outbox").fetchall()), "[(0,)]")
            assert _plain(shapes) == ROW.format(7)


def test_a_transaction_with_notes_can_be_prepared_and_counts_when_it_is_committed(preparable: Shaped) -> None:
    preparable.outside.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)")
    preparable.comparison.settle()
    preparable.cached("plain_one", "ann", "a")
    preparable.outside.execute("BEGIN; UPDATE plain SET value = 1; PREPARE TRANSACTION 'p'")
    assert preparable.cached("plain_one", "ann", "a") == ROW.format(0)
    with connect(preparable.url) as another:
        another.execute("COMMIT PREPARED 'p'")
    seen(lambda: _plain(preparable.shapes), ROW.format(1))


def test_children_that_a_cascade_deletes_are_seen(outside: Shaped) -> None:
    outside.outside.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 0); INSERT INTO kid VALUES ('k', 'a', 1)")
    outside.comparison.settle()
    assert outside.cached("kid_one", "ann", "k") == '[["k", "a", 1]]'
    outside.cached("kids_of", "ann", "a")
    outside.outside.execute("DELETE FROM plain")
    outside.comparison.settle()
    assert (
        outside.cached("kid_one", "ann", "k") == "[]"
    )  # the cache's answer: while a note waits, the primary's is right
    assert outside.cached("kids_of", "ann", "a") == "[]"


def test_a_note_of_a_row_that_is_nobody_s_is_taken_out_too(outside: Shaped) -> None:
    outside.outside.execute("INSERT INTO kid VALUES ('k', NULL, 1)")
    outside.comparison.settle()


@pytest.mark.parametrize("is_watched", [False, True])
def test_very_many_children_that_a_cascade_deletes_are_seen(outside: Shaped, is_watched: bool) -> None:
    many = "INSERT INTO kid SELECT 'k' || i, 'a', 1 FROM generate_series(1, 1200) i"
    outside.outside.execute(f"INSERT INTO plain VALUES ('a', 'ann', 'g1', 0); {many}".encode())
    outside.comparison.settle()
    assert outside.cached("kid_one", "ann", "k1") == '[["k1", "a", 1]]'
    if is_watched:
        with outside.gate.engine.begin() as connection:
            connection.execute(text("DELETE FROM plain"))
        assert outside.shapes.kid_one("ann", "k1") == "[]"
    else:
        outside.outside.execute("DELETE FROM plain")
    outside.comparison.settle()
    assert outside.cached("kid_one", "ann", "k1") == "[]"


def test_a_partition_or_an_heir_that_is_named_itself_is_seen(outside: Shaped) -> None:
    for table, method in (
        ("parted_low", "parted_one"),
        ("parted_high_1", "parted_one"),
        ("heir_grandchild", "heir_one"),
    ):
        row = "b" if table == "parted_low" else "h"
        if table == "parted_high_1":
            row = next(
                letter
                for letter in "efgh"
                if outside.outside.execute(
                    "SELECT satisfies_hash_partition('parted_high'::regclass, 2, 1, %s::text)", (letter,)
                ).fetchall()
                == [(True,)]
            )
        outside.cached(method, "ann", row)
        outside.outside.execute(f"INSERT INTO {table} VALUES ('{row}', 'ann', 'g1', 3)".encode())
        seen(lambda m=method, r=row: getattr(outside.shapes, m)("ann", r), f'[["{row}", "ann", "g1", 3]]')  # type: ignore[misc]


def test_partitions_that_come_and_go_while_a_gate_runs(outside: Shaped) -> None:
    coverage = outside.gate._parts.coverage
    outside.outside.execute("INSERT INTO parted VALUES ('b', 'ann', 'g1', 1), ('h', 'ann', 'g1', 2)")
    outside.comparison.settle()
    outside.cached("parted_one", "ann", "b")
    outside.outside.execute("DROP TABLE parted_low")
    coverage.look("", outside.gate.engine, now=True)
    seen(lambda: outside.shapes.parted_one("ann", "b"), "[]")
    outside.outside.execute(
        "CREATE TABLE parted_new (LIKE parted); INSERT INTO parted_new VALUES ('c', 'ann', 'g1', 5);"
        "ALTER TABLE parted ATTACH PARTITION parted_new FOR VALUES FROM (MINVALUE) TO ('d')"
    )
    coverage.look("", outside.gate.engine, now=True)
    seen(lambda: outside.shapes.parted_one("ann", "c"), '[["c", "ann", "g1", 5]]')
    outside.comparison.settle()
    outside.cached("parted_one", "ann", "c")
    outside.outside.execute("UPDATE parted_new SET value = 6")
    seen(lambda: outside.shapes.parted_one("ann", "c"), '[["c", "ann", "g1", 6]]')


BREAKAGES = {
    "column renamed": "ALTER TABLE plain RENAME grp TO grp2",
    "column gone": "ALTER TABLE plain DROP grp CASCADE",
    "our tables gone": "DROP TABLE tidegate_outbox, tidegate_state",
    "the outbox gone": "DROP TABLE tidegate_outbox",
    "our facts gone": "DROP TABLE tidegate_state",
}


@pytest.mark.parametrize("what", BREAKAGES)
@pytest.mark.parametrize("is_watched", [False, True])
def test_a_trigger_that_cannot_do_its_work_fails_no_write(outside: Shaped, what: str, is_watched: bool) -> None:
    outside.outside.execute("INSERT INTO other.side VALUES ('a', 'ann', 'g1', 1)")
    outside.outside.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)")
    outside.comparison.settle()
    outside.cached("side_one", "ann", "a")
    outside.outside.execute(BREAKAGES[what].encode())
    sql = "UPDATE plain SET value = value + 1; UPDATE other.side SET value = value + 1"
    if is_watched:
        with outside.gate.engine.begin() as connection:
            connection.execute(text(sql))
    else:
        outside.outside.execute(sql.encode())
    seen(lambda: outside.shapes.side_one("ann", "a"), '[["a", "ann", "g1", 2]]')
    assert outside.outside.execute("SELECT value FROM plain").fetchall() == [(1,)]


def test_what_a_trigger_cannot_do_is_logged(outside: Shaped, caplog: pytest.LogCaptureFixture) -> None:
    outside.outside.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)")
    outside.comparison.settle()
    outside.outside.execute("ALTER TABLE plain RENAME grp TO grp2; UPDATE plain SET value = 1")
    outside.comparison.settle()
    assert 'could not tell what was changed in plain: column "grp" does not exist' in caplog.text


def test_a_user_who_may_not_make_triggers_writes_all_the_same(outside: Shaped) -> None:
    outside.gate.close()
    owner = outside.outside
    for (name,) in owner.execute(
        "SELECT DISTINCT tgname::text FROM pg_trigger WHERE tgname LIKE 'tidegate%'"
    ).fetchall():
        owner.execute(f"DROP FUNCTION {name} CASCADE".encode())
    owner.execute("DROP FUNCTION tidegate_take_notes; DROP ROLE IF EXISTS humble; CREATE ROLE humble LOGIN")
    owner.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public, other TO humble")
    owner.execute("GRANT USAGE ON SCHEMA other TO humble")
    engine = create_engine(outside.url.replace("postgres@", "humble@"))
    settings = Settings(cache=outside.settings.cache)
    with tidegate.gate_on(engine, sessionmaker(engine), settings) as gate:
        shapes = wrapped(gate)
        for value in range(3):
            with engine.begin() as connection:
                connection.execute(text("DELETE FROM plain"))
                connection.execute(text(f"INSERT INTO plain VALUES ('a', 'ann', 'g1', {value})"))
            assert _plain(shapes) == ROW.format(value)
    engine.dispose()
    owner.execute("DROP OWNED BY humble; DROP ROLE humble")


def test_a_watched_truncate_is_seen_by_its_own_process_at_once(outside: Shaped) -> None:
    outside.outside.execute("INSERT INTO other.side VALUES ('a', 'ann', 'g1', 1)")
    outside.comparison.settle()
    for _ in range(5):
        outside.cached("side_one", "bob", "a")
        outside.cached("side_one", "ann", "a")
        with outside.gate.engine.begin() as connection:
            connection.execute(text("TRUNCATE other.side"))
        assert outside.shapes.side_one("ann", "a") == "[]"
        with outside.gate.engine.begin() as connection:
            connection.execute(text("INSERT INTO other.side VALUES ('a', 'ann', 'g1', 1)"))
        outside.comparison.settle()


PLAIN_LOOKING = (
    "SELECT raise_value('a')",
    "SET LOCAL work_mem = '1MB'; UPDATE plain SET value = value + 1",
    "SELECT 1; UPDATE plain SET value = value + 1",
    "SELECT public . raise_value ('a')",
    "SELECT \"raise_value\"('a')",
)


@pytest.mark.parametrize("sql", PLAIN_LOOKING)
def test_a_watched_write_that_looks_like_a_read_is_seen_at_once(outside: Shaped, sql: str) -> None:
    outside.outside.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)")
    outside.comparison.settle()
    outside.cached("plain_one", "ann", "a")
    with outside.gate.engine.begin() as connection:
        connection.exec_driver_sql(sql)
    assert _plain(outside.shapes) == ROW.format(1)


def test_a_transaction_of_very_many_statements_is_seen_at_once(outside: Shaped) -> None:
    """The setting that holds the places of its notes goes on in other ones, and savepoints take those back too."""
    outside.outside.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)")
    outside.comparison.settle()
    outside.cached("plain_one", "ann", "a")
    with outside.gate.engine.begin() as connection:
        for _ in range(900):
            connection.exec_driver_sql("UPDATE other.side SET value = 1; INSERT INTO kid VALUES ('k', 'a', 1)")
            connection.exec_driver_sql("UPDATE plain SET value = value + 1; DELETE FROM kid")
        savepoint = connection.begin_nested()
        for _ in range(900):
            connection.exec_driver_sql("UPDATE plain SET value = value + 1")
        savepoint.rollback()
    assert _plain(outside.shapes) == ROW.format(900)
    assert outside.outside.execute("SELECT count(*) FROM tidegate_outbox").fetchall() == [(0,)]


def test_concurrent_notes_do_not_meet(outside: Shaped) -> None:
    """Writers of rows of their own do not wait for one another, and none fails."""
    failures: list[BaseException] = []

    def write(which: str) -> None:
        try:
            with closing(connect(outside.url)) as own:
                for value in range(50):
                    own.execute(
                        f"BEGIN; INSERT INTO plain VALUES ('{which}', 'ann', 'g1', {value})"
                        " ON CONFLICT (id) DO UPDATE SET value = EXCLUDED.value;"
                        f" UPDATE other.side SET value = 1 WHERE id = '{which}'; COMMIT".encode()
                    )
        except BaseException as error:  # noqa: BLE001  # the test tells of it
            failures.append(error)

    writers = [threading.Thread(target=write, args=(which,)) for which in "abcdefgh"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failures == []
    outside.comparison.settle()
    assert outside.outside.execute(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    ).fetchall() == [(0,)]
