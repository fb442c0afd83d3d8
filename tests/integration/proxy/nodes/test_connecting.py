"""Connections beside the program's engine: they have what it has, whatever it has it from, or they are not used."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg2
import pytest
from real_servers.replicated import caught_up
from real_servers.which_server import POLICIES, Asks, asks, ports_that_answer
from sqlalchemy import JSON, Engine, create_engine, event, literal_column, select, text
from sqlalchemy.orm import Session, sessionmaker

import tidegate
from tidegate.proxy.embedded.process import wait_for
from tidegate.proxy.settings import ReplicaSettings, RoutingSettings, ShardSettings
from tidegate.routing.events import Passed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tidegate.proxy.embedded import Cluster, PostgresNode

SCHEMAS = ("one", "two")
WHOSE = "SELECT name FROM whose"
DRIVERS = ["psycopg", "psycopg2"]
CONNECTS: dict[str, Callable[..., Any]] = {"psycopg": psycopg.connect, "psycopg2": psycopg2.connect}


@pytest.fixture(scope="module")
def servers(replicated: Cluster) -> Iterator[list[PostgresNode]]:
    """The primary and a replica, with two schemas that have a table of one name, and one whose rows are tenants'."""
    primary, first, _ = found = [replicated.shards[0].primary, *replicated.shards[0].replicas]
    for schema in SCHEMAS:
        primary.execute(f"CREATE SCHEMA {schema}")
        primary.execute(f"CREATE TABLE {schema}.whose AS SELECT '{schema}'::text AS name")
    primary.execute("CREATE TABLE public.whose AS SELECT 'public'::text AS name")
    primary.execute("CREATE TABLE public.rows_of AS SELECT unnest(ARRAY['t1', 't2']) AS tenant")
    primary.execute("ALTER TABLE public.rows_of ENABLE ROW LEVEL SECURITY")
    primary.execute("CREATE POLICY own ON public.rows_of USING (tenant = current_setting('app.tenant', true))")
    primary.execute("CREATE ROLE reader LOGIN")
    primary.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public, one, two TO reader")
    primary.execute("GRANT USAGE ON SCHEMA one, two TO reader")
    primary.execute("GRANT ALL ON SCHEMA public TO reader")
    primary.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO reader")
    caught_up(primary, first)
    yield found
    primary.execute("DROP SCHEMA one, two CASCADE")
    primary.execute("DROP TABLE public.whose, public.rows_of")
    primary.execute("DROP OWNED BY reader")
    primary.execute("DROP ROLE reader")


def settings(*replicas: str, **routing: Any) -> tidegate.Settings:
    shard = ShardSettings(
        name="s0",
        primary="postgresql+psycopg://is-not-looked-at/x",
        replicas=tuple(ReplicaSettings(url=url) for url in replicas),
    )
    return tidegate.Settings(shards=(shard,), routing=RoutingSettings(**routing))


@contextmanager
def gate_on(
    engine: Engine, replica: PostgresNode | str, maker: sessionmaker[Session] | None = None
) -> Iterator[tidegate.Gate]:
    url = replica if isinstance(replica, str) else replica.url
    with tidegate.gate_on(engine, maker or sessionmaker(engine), settings(url), on_close=engine.dispose) as gate:
        yield gate


def url_of(node: PostgresNode, driver: str = "psycopg", user: str = "postgres") -> str:
    return f"postgresql+{driver}://{user}@127.0.0.1:{node.port}/tidegate"


def on_replica(gate: tidegate.Gate, replica: PostgresNode, sql: str) -> Any:
    """What *sql* says on the replica, once that answers."""
    return asked_on(asks(gate), replica, sql)


def asked_on(asking: Asks, replica: PostgresNode, sql: str) -> Any:
    found: list[Any] = []

    def answered() -> bool:
        found[:] = asking.ask("t", f"SELECT inet_server_port(), ({sql})")
        return bool(found[0] == replica.port)

    wait_for(answered, "the replica answers")
    return found[1]


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_search_path_of_a_connect_listener_holds_on_both(servers: list[PostgresNode], driver: str) -> None:
    primary, replica, _ = servers
    engine = create_engine(url_of(primary, driver))

    @event.listens_for(engine, "connect")
    def connected(raw: Any, _record: Any) -> None:
        cursor = raw.cursor()
        cursor.execute("SET search_path TO one")
        cursor.close()
        raw.commit()

    with gate_on(engine, replica) as gate:
        assert asks(gate).ask_primary("t", WHOSE) == ["one"]
        assert on_replica(gate, replica, WHOSE) == "one"


class Commits(Asks):
    """Ends each session with a commit."""

    def ask(self, tenant_id: str, sql: str) -> list[Any]:
        assert tenant_id
        with self._session_maker.begin() as session:
            return list(session.execute(text(sql)).one())


@pytest.mark.parametrize("when", ["connect", "checkout"])
@pytest.mark.parametrize("driver", DRIVERS)
def test_what_a_listener_sets_without_a_commit_holds_on_both(
    servers: list[PostgresNode], driver: str, when: str
) -> None:
    primary, replica, _ = servers
    engine = create_engine(url_of(primary, driver))

    def come(raw: Any, *_: Any) -> None:
        cursor = raw.cursor()
        cursor.execute("SET search_path TO one")
        cursor.close()

    engine.connect().close()  # a connection that is older than the gate
    event.listen(engine, when, come)
    with gate_on(engine, replica) as gate:
        asking = gate.wrap(Commits, POLICIES, [])(gate.session_maker)
        if when == "checkout":
            assert asking.ask_primary("t", WHOSE) == ["one"]
        engine.dispose()
        assert asking.ask_primary("t", WHOSE) == ["one"]
        seen = set()
        for _ in range(20):
            seen.add(tuple(asking.ask("t", f"SELECT inet_server_port(), ({WHOSE})")))
        assert {name for _, name in seen} == {"one"}
        wait_for(
            lambda: asking.ask("t", f"SELECT inet_server_port(), ({WHOSE})") == [replica.port, "one"],
            "the replica answers",
        )


def test_a_replica_does_not_answer_from_a_snapshot_that_is_older_than_what_it_was_asked(
    servers: list[PostgresNode],
) -> None:
    primary, replica, _ = servers
    engine = create_engine(url_of(primary), isolation_level="REPEATABLE READ")
    events: list[Any] = []

    @event.listens_for(engine, "checkout")
    def come(raw: Any, *_: Any) -> None:
        raw.execute("SELECT set_config('app.tenant', 't1', false)")  # takes the transaction's snapshot

    made = settings(replica.url)
    with tidegate.gate_on(engine, sessionmaker(engine), made, observe=events.append, on_close=engine.dispose) as gate:
        assert on_replica(gate, replica, "SELECT current_setting('app.tenant')") == "t1"
    # A connection that was just opened has to be asked what it shows, and by then its snapshot was taken.
    assert [one for one in events if isinstance(one, Passed) and "a transaction was open" in one.why]


def begin_listener(engine: Engine, tenant: str) -> Callable[[Any], None]:
    @event.listens_for(engine, "begin")
    def begun(connection: Any) -> None:
        connection.exec_driver_sql(f"SET LOCAL app.tenant = '{tenant}'")

    return begun


TENANT = "SELECT string_agg(tenant, ',') FROM rows_of"


@pytest.mark.parametrize("driver", DRIVERS)
def test_row_level_security_by_a_begin_listener_holds_on_both(servers: list[PostgresNode], driver: str) -> None:
    primary, replica, _ = servers
    engine = create_engine(url_of(primary, driver, "reader"))
    begin_listener(engine, "t1")
    with gate_on(engine, url_of(replica, driver, "reader")) as gate:
        assert asks(gate).ask_primary("t", TENANT) == ["t1"]
        assert on_replica(gate, replica, TENANT) == "t1"


def test_listeners_that_come_and_go_later_come_and_go_there_too(servers: list[PostgresNode]) -> None:
    primary, replica, _ = servers
    engine = create_engine(url_of(primary, user="reader"))
    with gate_on(engine, replica.url.replace("postgres@", "reader@")) as gate:
        assert on_replica(gate, replica, TENANT) is None
        first = begin_listener(engine, "t1")
        assert on_replica(gate, replica, TENANT) == "t1"
        event.remove(engine, "begin", first)
        second = begin_listener(engine, "t2")
        assert on_replica(gate, replica, TENANT) == "t2"
        event.remove(engine, "begin", second)
        assert on_replica(gate, replica, TENANT) is None


def test_an_engine_with_options_keeps_its_own_listeners(servers: list[PostgresNode]) -> None:
    primary, replica, _ = servers
    engine = create_engine(url_of(primary, user="reader"))
    tenants = engine.execution_options(isolation_level="REPEATABLE READ")
    begin_listener(tenants, "t2")
    with gate_on(engine, replica.url.replace("postgres@", "reader@"), sessionmaker(tenants)) as gate:
        assert on_replica(gate, replica, TENANT) == "t2"
        assert on_replica(gate, replica, "SELECT current_setting('transaction_isolation')") == "repeatable read"
        plain = gate.wrap(Asks, POLICIES, [])(sessionmaker(engine))
        assert asked_on(plain, replica, TENANT) is None


def test_a_listener_of_the_session_maker_holds_on_both(servers: list[PostgresNode]) -> None:
    primary, replica, _ = servers
    engine = create_engine(url_of(primary, user="reader"))
    maker = sessionmaker(engine)

    @event.listens_for(maker, "after_begin")
    def begun(_session: Any, _transaction: Any, connection: Any) -> None:
        connection.execute(text("SET LOCAL app.tenant = 't2'"))

    with gate_on(engine, replica.url.replace("postgres@", "reader@"), maker) as gate:
        assert asks(gate).ask_primary("t", TENANT) == ["t2"]
        assert on_replica(gate, replica, TENANT) == "t2"


class OwnSession(Session):
    """As web frameworks have it."""

    def get_bind(self, *args: Any, **kwargs: Any) -> Any:
        return super().get_bind(*args, **kwargs)


def test_sessions_that_choose_by_themselves_stay_on_the_primary_and_that_is_said(
    servers: list[PostgresNode], caplog: pytest.LogCaptureFixture
) -> None:
    primary, replica, _ = servers
    engine = create_engine(url_of(primary))
    with gate_on(engine, replica) as gate:
        ports_that_answer(gate, {replica.port})
        own = gate.wrap(Asks, POLICIES, [])(sessionmaker(engine, class_=OwnSession))
        for _ in range(3):
            assert own.ask("t", "SELECT inet_server_port()") == [primary.port]
    assert len([line for line in caplog.messages if "stay on the primary" in line]) == 1


@pytest.mark.parametrize("driver", DRIVERS)
def test_arguments_that_a_do_connect_listener_changes_are_changed_there_too(
    servers: list[PostgresNode], driver: str
) -> None:
    primary, replica, _ = servers
    engine = create_engine(url_of(primary, driver))
    ports: set[str] = set()

    @event.listens_for(engine, "do_connect")
    def connects(_dialect: Any, _record: Any, _cargs: Any, cparams: dict[str, Any]) -> None:
        ports.add(str(cparams["port"]))  # a password may be made for it
        cparams["options"] = "-c search_path=two"
        cparams["host"], cparams["port"] = "127.0.0.1", primary.port  # as from a service discovery

    with gate_on(engine, replica) as gate:
        assert on_replica(gate, replica, WHOSE) == "two"
        assert on_replica(gate, replica, "SELECT current_setting('statement_timeout')") == "5min"
        assert asks(gate).ask_primary("t", WHOSE) == ["two"]
    assert {str(primary.port), str(replica.port)} <= ports


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_listener_that_connects_with_what_it_is_given_is_led_too(servers: list[PostgresNode], driver: str) -> None:
    primary, replica, _ = servers
    engine = create_engine(url_of(primary, driver))

    @event.listens_for(engine, "do_connect")
    def connects(_dialect: Any, _record: Any, _cargs: Any, cparams: dict[str, Any]) -> Any:
        return CONNECTS[driver](**cparams | {"options": "-c search_path=two"})

    with gate_on(engine, replica) as gate:
        assert on_replica(gate, replica, WHOSE) == "two"


def by_creator(primary: PostgresNode, driver: str) -> Engine:
    dsn = f"host=127.0.0.1 port={primary.port} user=postgres dbname=tidegate options='-c search_path=one'"
    return create_engine(f"postgresql+{driver}://", creator=lambda: CONNECTS[driver](dsn))


def by_listener(primary: PostgresNode, driver: str) -> Engine:
    engine = create_engine(f"postgresql+{driver}://")
    dsn = f"host=127.0.0.1 port={primary.port} user=postgres dbname=tidegate options='-c search_path=one'"
    event.listen(engine, "do_connect", lambda *_: CONNECTS[driver](dsn))
    return engine


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("made", [by_creator, by_listener])
def test_what_takes_no_other_address_stays_on_the_primary_and_says_so(
    servers: list[PostgresNode],
    made: Callable[[PostgresNode, str], Engine],
    driver: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    primary, replica, _ = servers
    with gate_on(made(primary, driver), replica) as gate:
        asking = asks(gate)
        nodes = gate._shards.every[0].nodes
        assert nodes is not None
        nodes.ensure_started()
        wait_for(lambda: all(node.view is not None for node in nodes.topology.nodes), "all servers are watched")
        for _ in range(5):
            assert asking.ask("t", f"SELECT inet_server_port(), ({WHOSE})") == [primary.port, "one"]
        first, second = gate.explain(asking.ask, "t", WHOSE).nodes
        assert (first.answers, second.answers) == (True, False)
        assert "takes no other address" in second.why
    assert [line for line in caplog.messages if "takes no other address" in line]


def test_an_address_in_the_arguments_is_that_of_the_primary_also_where_replicas_name_it(
    servers: list[PostgresNode],
) -> None:
    primary, replica, _ = servers
    engine = create_engine(
        "postgresql+psycopg://",
        connect_args={"host": "127.0.0.1", "port": primary.port, "user": "postgres", "dbname": "tidegate"},
    )
    shard = settings(replica.url, primary.url)
    with tidegate.gate_on(engine, sessionmaker(engine), shard, on_close=engine.dispose) as gate:
        assert on_replica(gate, replica, "SELECT pg_is_in_recovery()") is True
        nodes = gate._shards.every[0].nodes
        assert nodes is not None
        assert sorted(nodes.addresses) == sorted(f"127.0.0.1:{node.port}" for node in (primary, replica))


def test_several_hosts_in_the_arguments_are_nodes(servers: list[PostgresNode]) -> None:
    primary, replica, _ = servers
    engine = create_engine(
        "postgresql+psycopg://postgres@/tidegate",
        connect_args={"host": "127.0.0.1,127.0.0.1", "port": f"{replica.port},{primary.port}"},
    )
    with tidegate.gate_on(engine, sessionmaker(engine), settings(replica.url), on_close=engine.dispose) as gate:
        assert on_replica(gate, replica, "SELECT pg_is_in_recovery()") is True
        assert asks(gate).ask_primary("t", "SELECT inet_server_port()") == [primary.port]


class Decoded:
    """What a codec of the program's makes of JSON."""

    def __init__(self, value: Any) -> None:
        self.value = value


class AsksJson(Asks):
    def ask(self, tenant_id: str, sql: str) -> list[Any]:
        assert tenant_id
        with self._session_maker() as session:
            return list(session.execute(select(literal_column(sql, JSON()), text("inet_server_port()"))).one())


@pytest.mark.parametrize("driver", DRIVERS)
def test_json_is_read_by_the_program_s_codec(servers: list[PostgresNode], driver: str) -> None:
    primary, replica, _ = servers
    engine = create_engine(url_of(primary, driver), json_deserializer=Decoded)
    with gate_on(engine, replica) as gate:
        asking = gate.wrap(AsksJson, POLICIES, [])(gate.session_maker)
        seen = [asking.ask("t", "'[1]'::json") for _ in range(5)]
        wait_for(lambda: asking.ask("t", "'[1]'::json")[1] == replica.port, "the replica answers")
        seen.append(asking.ask("t", "'[1]'::json"))
    assert {type(found) for found, _ in seen} == {Decoded}
    assert {port for _, port in seen} <= {primary.port, replica.port}


ISOLATED: dict[str, dict[str, Any]] = {
    "the engine's level": {"isolation_level": "REPEATABLE READ"},
    "the engine's execution options": {"execution_options": {"isolation_level": "REPEATABLE READ"}},
}


@pytest.mark.parametrize("options", ISOLATED.values(), ids=ISOLATED)
def test_execution_options_and_levels_of_the_engine_hold_on_both(
    servers: list[PostgresNode], options: dict[str, Any]
) -> None:
    primary, replica, _ = servers
    asked = "SELECT current_setting('transaction_isolation')"
    with gate_on(create_engine(url_of(primary), **options), replica) as gate:
        assert asks(gate).ask_primary("t", asked) == ["repeatable read"]
        assert on_replica(gate, replica, asked) == "repeatable read"


def test_options_of_the_environment_hold_on_both(servers: list[PostgresNode], monkeypatch: pytest.MonkeyPatch) -> None:
    primary, replica, _ = servers
    monkeypatch.setenv("PGOPTIONS", "-c search_path=two")
    with gate_on(create_engine(url_of(primary)), replica) as gate:
        assert asks(gate).ask_primary("t", WHOSE) == ["two"]
        assert on_replica(gate, replica, WHOSE) == "two"
        assert on_replica(gate, replica, "SELECT current_setting('statement_timeout')") == "5min"


@pytest.mark.parametrize("named_by", ["the URL", "the environment"])
@pytest.mark.parametrize("driver", DRIVERS)
def test_what_a_service_says_holds_on_both(
    servers: list[PostgresNode], driver: str, named_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary, replica, _ = servers
    file = tmp_path / "services"
    lines = (f"hostaddr=127.0.0.1\nport={primary.port}", "user=postgres\ndbname=tidegate\noptions=-c search_path=one")
    file.write_text("[dify]\n" + "\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    if named_by == "the environment":
        monkeypatch.setenv("PGSERVICE", "dify")
    query = "?service=dify" if named_by == "the URL" else ""
    with gate_on(
        create_engine(f"postgresql+{driver}://{query}"), f"postgresql+{driver}://127.0.0.1:{replica.port}"
    ) as gate:
        assert asks(gate).ask_primary("t", WHOSE) == ["one"]
        assert on_replica(gate, replica, WHOSE) == "one"


def test_variables_that_name_another_server_mislead_nobody(
    servers: list[PostgresNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    primary, replica, _ = servers
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.77")  # nobody is there
    monkeypatch.setenv("PGPORT", str(primary.port))
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "read-write")
    engine = create_engine("postgresql+psycopg://postgres@127.0.0.1/tidegate")

    @event.listens_for(engine, "do_connect")
    def connects(_dialect: Any, _record: Any, _cargs: Any, cparams: dict[str, Any]) -> None:
        if "port" not in cparams:  # it is for the program's own server
            cparams["hostaddr"] = "127.0.0.1"

    with gate_on(engine, f"postgresql+psycopg://localhost:{replica.port}") as gate:
        assert on_replica(gate, replica, "SELECT pg_is_in_recovery()") is True


MONITORED = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND query LIKE '%%pg_control_system%%'"


def test_monitors_connect_as_the_program_does(servers: list[PostgresNode]) -> None:
    primary, replica, _ = servers
    engine = create_engine(url_of(primary, user="nobody-of-that-name"))
    name = f"monitored-{os.getpid()}"

    @event.listens_for(engine, "do_connect")
    def connects(_dialect: Any, _record: Any, _cargs: Any, cparams: dict[str, Any]) -> None:
        cparams["user"] = "postgres"

    @event.listens_for(engine, "connect")
    def connected(raw: Any, _record: Any) -> None:
        cursor = raw.cursor()
        cursor.execute(f"SET application_name = '{name}'")
        cursor.close()
        raw.commit()

    with gate_on(engine, url_of(replica, user="nobody-of-that-name")) as gate:
        ports_that_answer(gate, {replica.port})
        for node in (primary, replica):
            wait_for(lambda node=node: node.execute(MONITORED, name)[0][0] == 1, "its monitor is there")  # type: ignore[misc]


@pytest.mark.parametrize("driver", DRIVERS)
def test_what_a_driver_quotes_of_a_password_is_in_no_explanation_and_no_log(
    servers: list[PostgresNode], driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    primary, replica, _ = servers
    caplog.set_level(logging.DEBUG, "tidegate")
    engine = create_engine(url_of(primary, driver))
    events: list[Any] = []

    @event.listens_for(engine, "do_connect")
    def connects(_dialect: Any, _record: Any, _cargs: Any, cparams: dict[str, Any]) -> Any:
        if str(cparams["port"]) == str(primary.port):
            return None
        return CONNECTS[driver]("host=127.0.0.1 password=hid den user=postgres")

    made = settings(replica.url)
    with tidegate.gate_on(engine, sessionmaker(engine), made, observe=events.append, on_close=engine.dispose) as gate:
        asking = asks(gate)
        assert asking.ask("t", "SELECT inet_server_port()") == [primary.port]
        _, second = gate.explain(asking.ask, "t", WHOSE).nodes
    assert "in connection info string" in second.why
    for said in (second.why, caplog.text, *(str(one) for one in events)):
        assert "den " not in said
        assert '"den"' not in said


def test_a_listener_that_a_standby_refuses_keeps_reads_on_the_primary_and_is_said(
    servers: list[PostgresNode], caplog: pytest.LogCaptureFixture
) -> None:
    primary, replica, _ = servers
    caplog.set_level(logging.WARNING, "tidegate")
    engine = create_engine(url_of(primary))

    @event.listens_for(engine, "connect")
    def connected(raw: Any, _record: Any) -> None:
        cursor = raw.cursor()
        cursor.execute("CREATE TABLE IF NOT EXISTS who_came (name text)")
        cursor.close()
        raw.commit()

    with gate_on(engine, replica) as gate:
        asking = asks(gate)
        for _ in range(5):
            assert asking.ask("t", "SELECT inet_server_port()") == [primary.port]
        _, second = gate.explain(asking.ask, "t", WHOSE).nodes
        assert "read-only transaction" in second.why
    primary.execute("DROP TABLE who_came")
