"""What triggers must not do: lend somebody rights, change what a program means, or lose what they noted."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from real_servers.deadlines import patient
from real_servers.shaped_gate import Shaped, connect, shaped
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import tidegate
from tidegate import PolicyTable, Read, Tracked
from tidegate.errors import PolicyError
from tidegate.proxy.database.histories import Histories
from tidegate.proxy.database.schema import make_tables
from tidegate.proxy.embedded.process import wait_for
from tidegate.proxy.tracking.tracked_tables import Tables
from tidegate.proxy.tracking.triggers import make_triggers, missing_triggers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine
    from sqlalchemy.orm import Session, sessionmaker

PLAIN = "SELECT tgfoid::regproc::text FROM pg_trigger WHERE tgrelid = 'plain'::regclass AND tgname LIKE 'tidegate%'"
ROLES = ("evil", "program", "reporter")


@pytest.fixture
def outside(database_url: str, valkey_url: str) -> Iterator[Shaped]:
    with shaped(database_url, valkey_url) as found:
        for role in ROLES:
            found.outside.execute(f"DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN".encode())
        yield found
        found.outside.rollback()
        for role in ROLES:
            found.outside.execute(
                f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}".encode()
            )


def as_role(outside: Shaped, role: str) -> psycopg.Connection[Any]:
    return connect(make_url(outside.url).set(username=role).render_as_string(hide_password=False))


def plain_one(outside: Shaped) -> str:
    return outside.shapes.plain_one("ann", "a")


def test_nobody_makes_a_function_of_ours_a_trigger_of_his_own(outside: Shaped) -> None:
    outside.outside.execute("GRANT INSERT ON plain TO evil")
    functions = [name for (name,) in outside.outside.execute(PLAIN).fetchall()]
    assert len(functions) == 5
    with closing(as_role(outside, "evil")) as evil:
        evil.execute("CREATE TEMP TABLE bait (id text, tenant_id text, grp text)")
        for function in functions:
            when = "TRUNCATE" if function.endswith("_truncate") else "INSERT"
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match=function.rsplit(".", maxsplit=1)[-1]):
                evil.execute(f"CREATE TRIGGER t AFTER {when} ON bait EXECUTE FUNCTION {function}()".encode())
        evil.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 1)")  # to fire it needs no such right
    wait_for(lambda: plain_one(outside) == '[["a", "ann", "g1", 1]]', "his row is seen", patient(10))


def test_what_a_superuser_makes_for_a_program_has_the_programs_rights(database_url: str, outside: Shaped) -> None:
    superuser: Engine = create_engine(database_url)
    outside.outside.execute("ALTER TABLE plain OWNER TO program; ALTER TABLE kid OWNER TO program")
    for (name,) in outside.outside.execute(
        "SELECT DISTINCT tgfoid::regprocedure::text FROM pg_trigger"
        " WHERE tgrelid IN ('plain'::regclass, 'kid'::regclass) AND tgname LIKE 'tidegate%'"
    ).fetchall():
        outside.outside.execute(f"DROP FUNCTION {name} CASCADE".encode())
    tables: Tables = outside.gate._parts.coverage.tables
    make_triggers(superuser, missing_triggers(superuser, tables))
    owners = outside.outside.execute(
        "SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE oid IN (SELECT tgfoid FROM pg_trigger"
        " WHERE tgrelid IN ('plain'::regclass, 'kid'::regclass) AND tgname LIKE 'tidegate%')"
    ).fetchall()
    assert owners == [("program",)]
    outside.comparison.settle()
    outside.cached("kids_of", "ann", "a")
    with closing(as_role(outside, "program")) as program:
        program.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 1); INSERT INTO kid VALUES ('k', 'a', 1)")
    wait_for(lambda: outside.shapes.kids_of("ann", "a") == '[["k", "a", 1]]', "its row is seen", patient(10))
    superuser.dispose()


def test_a_note_stays_until_all_is_void_indeed(outside: Shaped, monkeypatch: pytest.MonkeyPatch) -> None:
    outside.outside.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)")
    outside.comparison.settle()
    outside.cached("plain_one", "ann", "a")
    with monkeypatch.context() as patched:
        patched.setattr(Histories, "renew", lambda *_: None)  # as where the record cannot be written
        outside.outside.execute("TRUNCATE plain CASCADE")
        wait_for(lambda: plain_one(outside) == "[]", "the primary is asked", patient(10))
        assert outside.outside.execute("SELECT count(*) > 0 FROM tidegate_outbox").fetchall() == [(True,)]
        assert not outside.gate.stats().events.get("Voided")
    outside.comparison.settle()
    assert outside.cached("plain_one", "ann", "a") == "[]"


def test_a_note_that_cannot_be_read_holds_up_no_other(outside: Shaped) -> None:
    outside.outside.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)")
    outside.comparison.settle()
    outside.cached("plain_one", "ann", "a")
    outside.outside.execute(
        "BEGIN; INSERT INTO tidegate_outbox (source, rows) VALUES ('?', '{'), ('{}', '[[1]]');"
        " UPDATE plain SET value = 1; COMMIT"
    )
    outside.comparison.settle()
    assert outside.cached("plain_one", "ann", "a") == '[["a", "ann", "g1", 1]]'


def test_a_parent_that_policies_hide_is_not_taken_for_one_that_is_gone(outside: Shaped) -> None:
    outside.outside.execute("ALTER TABLE plain OWNER TO program; ALTER TABLE kid OWNER TO program")
    outside.outside.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 0); INSERT INTO kid VALUES ('k', 'a', 0)")
    for (name,) in outside.outside.execute(
        "SELECT DISTINCT tgfoid::regprocedure::text FROM pg_trigger WHERE tgname LIKE 'tidegate%'"
        " AND tgrelid = 'kid'::regclass"
    ).fetchall():
        outside.outside.execute(f"ALTER FUNCTION {name} OWNER TO program".encode())
    outside.outside.execute(
        "GRANT SELECT, INSERT ON tidegate_outbox TO program; GRANT SELECT ON tidegate_state TO program;"
        " GRANT ALL ON kid TO reporter; GRANT SELECT ON plain TO reporter;"
        " CREATE POLICY mine ON plain TO reporter USING (true);"
        " ALTER TABLE plain ENABLE ROW LEVEL SECURITY; ALTER TABLE plain FORCE ROW LEVEL SECURITY"
    )
    outside.comparison.settle()
    outside.cached("kid_one", "ann", "k")
    with closing(as_role(outside, "reporter")) as reporter:
        reporter.execute("UPDATE kid SET value = 1")
    outside.comparison.settle()
    assert outside.cached("kid_one", "ann", "k") == '[["k", "a", 1]]'


def test_the_last_value_of_a_sequence_is_the_programs(outside: Shaped) -> None:
    outside.outside.execute("CREATE SEQUENCE numbers START 700")
    ((number,),) = outside.outside.execute("SELECT nextval('numbers')").fetchall()
    outside.outside.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)")
    assert outside.outside.execute("SELECT lastval()").fetchall() == [(number,)]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_snapshot_of_before_the_first_cache_leaves_notes(outside: Shaped, level: str) -> None:
    outside.outside.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)")
    outside.comparison.settle()
    outside.gate.close()
    served = outside.outside.execute("DELETE FROM tidegate_state WHERE name = 'cache' RETURNING *").fetchall()
    with closing(connect(outside.url)) as early:
        early.execute(f"BEGIN ISOLATION LEVEL {level}".encode())
        early.execute("SELECT count(*) FROM plain")
        outside.outside.execute("INSERT INTO tidegate_state (name, value) VALUES (%s, %s)", served[0])
        early.execute("UPDATE plain SET value = 1")
        early.execute("COMMIT")
    assert outside.outside.execute("SELECT count(*) FROM tidegate_outbox").fetchall() == [(1,)]


def test_a_role_without_rights_to_our_tables_commits(outside: Shaped) -> None:
    outside.outside.execute("CREATE TABLE untracked (id int); GRANT ALL ON untracked, plain TO reporter")
    outside.cached("plain_one", "ann", "a")
    with outside.gate.engine.begin() as connection:
        connection.execute(text("SET LOCAL ROLE reporter"))
        connection.execute(text("INSERT INTO untracked VALUES (1)"))
        connection.execute(text("INSERT INTO plain VALUES ('a', 'ann', 'g1', 5)"))
    assert plain_one(outside) == '[["a", "ann", "g1", 5]]'
    assert outside.outside.execute("SELECT count(*) FROM untracked").fetchall() == [(1,)]
    assert outside.outside.execute("SELECT count(*) FROM tidegate_outbox").fetchall() == [(0,)]


def test_who_takes_notes_takes_his_own_alone(outside: Shaped) -> None:
    outside.gate.close()
    outside.outside.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)")
    ((place,),) = outside.outside.execute("SELECT ctid::text FROM tidegate_outbox").fetchall()
    with closing(as_role(outside, "evil")) as evil:
        evil.execute("BEGIN")
        evil.execute("SELECT set_config('tidegate.notes', %s, true)", (f'"{place}"',))
        assert evil.execute("SELECT taken FROM tidegate_take_notes(NULL)").fetchall() == [(None,)]
        evil.execute("COMMIT")
    assert outside.outside.execute("SELECT count(*) FROM tidegate_outbox").fetchall() == [(1,)]


class _Base(DeclarativeBase):
    pass


class Sorted(_Base):
    __tablename__ = "sorted"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]
    shelf: Mapped[str]


class Shelves:
    def __init__(self, session_maker: sessionmaker[Session]) -> None:
        self._maker = session_maker

    def on(self, tenant_id: str, shelf: str) -> list[Sorted]:
        raise NotImplementedError


def test_a_column_that_triggers_do_not_see_cannot_be_tracked(outside: Shaped) -> None:
    outside.outside.execute(
        "CREATE TABLE sorted (id int PRIMARY KEY, tenant_id text, name text,"
        " shelf text GENERATED ALWAYS AS (left(name, 1)) VIRTUAL)"
    )
    policies, tracked = PolicyTable({"on": Read(guard="sorted:{shelf}")}), [Tracked(Sorted, tags=("sorted:{shelf}",))]
    with pytest.raises(PolicyError, match="sorted cannot be tracked by shelf: "):
        outside.gate.wrap(Shelves, policies, tracked)


def test_no_family_with_a_foreign_table_has_triggers(database_url: str) -> None:
    engine = create_engine(database_url)
    with closing(connect(database_url)) as outside:
        outside.execute("CREATE TABLE sorted (id int PRIMARY KEY, tenant_id text, shelf text)")
        outside.execute("CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER far FOREIGN DATA WRAPPER nowhere")
        outside.execute("CREATE FOREIGN TABLE sorted_far () INHERITS (sorted) SERVER far")
        make_tables(engine)
        tables = Tables([Tracked(Sorted, tags=("sorted:{shelf}",))])
        missing = missing_triggers(engine, tables)
        assert {found.on: found.create for found in missing} == {"public.sorted": (), "public.sorted_far": ()}
        assert make_triggers(engine, missing) == []
        assert outside.execute("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'tidegate%'").fetchall() == [(0,)]
    engine.dispose()


def test_a_partition_that_comes_back_is_seen(outside: Shaped) -> None:
    outside.outside.execute("INSERT INTO parted VALUES ('a', 'ann', 'g1', 0)")
    coverage = outside.gate._parts.coverage
    outside.outside.execute("ALTER TABLE parted DETACH PARTITION parted_low")
    coverage.look("", outside.gate.engine, now=True)
    outside.comparison.settle()
    assert outside.cached("parted_one", "ann", "a") == "[]"
    outside.outside.execute("ALTER TABLE parted ATTACH PARTITION parted_low FOR VALUES FROM (MINVALUE) TO ('d')")
    coverage.look("", outside.gate.engine, now=True)
    outside.comparison.settle()
    assert outside.cached("parted_one", "ann", "a") == '[["a", "ann", "g1", 0]]'


def test_a_table_that_is_tracked_for_the_first_time_voids_nothing(database_url: str, valkey_url: str) -> None:
    with shaped(database_url, valkey_url) as found:
        assert not found.gate.stats().events.get("Voided")
        found.outside.execute("CREATE TABLE sorted (id int PRIMARY KEY, tenant_id text, shelf text)")
        policies, tracked = (
            PolicyTable({"on": Read(guard="sorted:{shelf}")}),
            [Tracked(Sorted, tags=("sorted:{shelf}",))],
        )
        found.gate.wrap(Shelves, policies, tracked)
        found.comparison.settle()
        assert not found.gate.stats().events.get("Voided")
        with tidegate.connect(found.settings) as another:
            found.outside.execute("ALTER TABLE sorted DISABLE TRIGGER ALL")
            another.wrap(Shelves, policies, tracked)
            wait_for(
                lambda: bool(another.stats().events.get("Voided") or found.gate.stats().events.get("Voided")),
                "what was missing once counts",
                patient(10),
            )
