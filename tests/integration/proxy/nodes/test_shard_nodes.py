"""The servers of a gate: named by one URL, by several, or by Patroni; and what their connections are set to."""

from __future__ import annotations

import json
import os
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from real_servers.which_server import Asks, asks, ports_that_answer
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.orm import sessionmaker

import tidegate
from tidegate.errors import SettingsError
from tidegate.proxy.embedded.process import wait_for
from tidegate.proxy.nodes.hosts import checked_url
from tidegate.proxy.settings import ReplicaSettings, RoutingSettings, ShardSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

    from tidegate.proxy.embedded import Cluster, PostgresNode

DRIVERS = ["psycopg", "psycopg2"]


def nodes_of(replicated: Cluster) -> list[PostgresNode]:
    return [replicated.shards[0].primary, *replicated.shards[0].replicas]


def settings(primary: str, *replicas: str, patroni: tuple[str, ...] = (), **routing: Any) -> tidegate.Settings:
    shard = ShardSettings(
        name="s0", primary=primary, replicas=tuple(ReplicaSettings(url=url) for url in replicas), patroni=patroni
    )
    return tidegate.Settings(shards=(shard,), routing=RoutingSettings(**routing))


def by_commas(ports: list[int]) -> str:
    return f"host={','.join('127.0.0.1' for _ in ports)}&port={','.join(map(str, ports))}"


def by_pairs(ports: list[int]) -> str:
    return "&".join(f"host=127.0.0.1:{port}" for port in ports)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("form", [by_commas, by_pairs])
def test_a_url_of_several_hosts_names_primary_and_replicas_in_any_order(
    replicated: Cluster, driver: str, form: Callable[[list[int]], str]
) -> None:
    primary, first, second = (node.port for node in nodes_of(replicated))
    query = form([first, primary, second])
    # The last parameter would forbid connections to replicas, were it to mean anything for one host.
    url = f"postgresql+{driver}://postgres@/tidegate?{query}&target_session_attrs=read-write"
    with tidegate.connect(settings(url)) as gate:
        assert asks(gate).ask_primary("t", "SELECT inet_server_port()") == [primary]
        assert ports_that_answer(gate, {first, second}) == {first, second}


def test_the_primary_is_found_where_the_settings_were_written_before_a_promotion(replicated: Cluster) -> None:
    primary, first, second = nodes_of(replicated)
    with tidegate.connect(settings(first.url, primary.url, second.url)) as gate:
        assert asks(gate).ask_primary("t", "SELECT inet_server_port()") == [primary.port]
        assert ports_that_answer(gate, {first.port, second.port}) == {first.port, second.port}


def test_a_server_of_another_cluster_is_neither_primary_nor_replica(replicated: Cluster, cluster: Cluster) -> None:
    primary, first, _ = nodes_of(replicated)
    with tidegate.connect(settings(primary.url, cluster.shards[0].primary.url, first.url)) as gate:
        assert asks(gate).ask_primary("t", "SELECT inet_server_port()") == [primary.port]
        assert ports_that_answer(gate, {first.port}) == {first.port}


@pytest.mark.parametrize("query", ["host=a,b&port=1,2,3", "host=a:1&host=b:2&port=3"])
def test_a_url_of_hosts_that_cannot_be_told_is_refused(query: str) -> None:
    with pytest.raises(SettingsError, match=r"shards\.s0\.primary cannot be used"):
        checked_url(f"postgresql+psycopg2://u:secret@/db?{query}", "shards.s0.primary")


def test_a_url_with_a_port_that_is_no_number_is_refused_without_its_password() -> None:
    with pytest.raises(SettingsError, match=r"shards\.s0\.replicas\.0 cannot be used") as refused:
        checked_url("postgresql+psycopg://u:half@another:secret/db", "shards.s0.replicas.0")
    assert "secret" not in str(refused.value)


SET = "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'), current_setting('timezone')"


def test_time_outs_are_set_on_replicas_and_on_the_primary_when_asked(replicated: Cluster) -> None:
    primary, *replicas = (node.url for node in nodes_of(replicated))
    times: dict[str, Any] = {"statement_timeout_ms": 7000, "lock_timeout_ms": 3000}
    with tidegate.connect(settings(primary, *replicas, **times)) as gate:
        assert asks(gate).ask("t", SET) == ["7s", "3s", "UTC"]
        assert asks(gate).ask_primary("t", SET) == ["0", "0", "UTC"]
    own: dict[str, Any] = {"primary_statement_timeout_ms": 9000, "primary_lock_timeout_ms": 2000}
    with tidegate.connect(settings(primary, *replicas, **own)) as gate:
        assert asks(gate).ask_primary("t", SET) == ["9s", "2s", "UTC"]
        assert asks(gate).ask("t", SET) == ["5min", "5s", "UTC"]


def test_options_of_a_url_are_kept_and_come_last(replicated: Cluster) -> None:
    primary, first, _ = (node.url for node in nodes_of(replicated))
    own = "?options=-c%20statement_timeout%3D1234&application_name=mine"
    with tidegate.connect(settings(primary + own, first + own)) as gate:
        for ask in (asks(gate).ask, asks(gate).ask_primary):
            assert ask("t", SET)[::2] == ["1234ms", "UTC"]
            assert ask("t", "SELECT current_setting('application_name')") == ["mine"]


@pytest.mark.parametrize("driver", DRIVERS)
def test_replicas_take_over_what_the_program_gave_its_own_engine(replicated: Cluster, driver: str) -> None:
    primary, *replicas = (node.url.replace("+psycopg:", f"+{driver}:") for node in nodes_of(replicated))
    engine = create_engine(
        primary,
        connect_args={
            "options": "-c timezone=Asia/Tokyo -c work_mem=5MB",
            "application_name": "dify-worker",
            "keepalives_idle": 77,
            "connect_timeout": 11,
        },
    )
    maker = sessionmaker(engine)
    with tidegate.gate_on(engine, maker, settings(primary, *replicas)) as gate:
        asked = "SELECT current_setting('timezone'), current_setting('work_mem'), current_setting('application_name')"
        found = asks(gate).ask("t", f"{asked}, pg_is_in_recovery()")
        assert found == ["Asia/Tokyo", "5MB", "dify-worker", True]
        given = parameters(replica_engine(gate))
    assert (given["keepalives_idle"], given["keepalives_interval"], given["connect_timeout"]) == ("77", "10", "2")
    engine.dispose()


def test_connections_notice_a_peer_that_vanished(replicated: Cluster) -> None:
    primary, first, _ = (node.url for node in nodes_of(replicated))
    with tidegate.connect(settings(f"{primary}?keepalives_count=9", first)) as gate:
        asks(gate).ask("t", "SELECT 1")
        on_primary, on_replica = parameters(gate.engine), parameters(replica_engine(gate))
    for given, count in ((on_primary, "9"), (on_replica, "9")):
        assert (given["keepalives"], given["keepalives_idle"], given["keepalives_count"]) == ("1", "30", count)
        assert given["tcp_user_timeout"] == "60000"


def replica_engine(gate: tidegate.Gate) -> Engine:
    nodes = gate._shards.every[0].nodes
    assert nodes is not None
    return next(iter(nodes._engines._engines.values()))


def parameters(engine: Engine) -> dict[str, str]:
    """What libpq was given for a connection of *engine*, by name."""
    raw: Any = engine.pool._invoke_creator(None)  # type: ignore[arg-type]
    try:
        info = raw.info
        if hasattr(info, "dsn_parameters"):
            return dict(info.dsn_parameters)
        return dict(info.get_parameters())
    finally:
        raw.close()


class Patroni:
    """Answers ``GET /cluster``, as long as it is there."""

    def __init__(self) -> None:
        self.members: list[dict[str, Any]] = []
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps({"members": told.members, "scope": "dify"}).encode()
                self.send_response(200 if self.path == "/cluster" else 404)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
                """Nothing to the standard error."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def names(self, nodes: list[PostgresNode], **fields: Any) -> None:
        self.members = [
            {
                "name": node.name,
                "host": "127.0.0.1",
                "port": node.port,
                "role": "leader" if node.name.endswith("primary") else "replica",
                "state": "running" if node.name.endswith("primary") else "streaming",
                "api_url": f"{self.url}/patroni",
            }
            | fields
            for node in nodes
        ]


@pytest.fixture
def patroni() -> Iterator[Patroni]:
    made = Patroni()
    yield made
    made.close()


def names(gate: tidegate.Gate) -> list[str]:
    nodes = gate._shards.every[0].nodes
    assert nodes is not None
    return sorted(nodes.addresses)


def test_patronis_members_come_and_go(replicated: Cluster, patroni: Patroni) -> None:
    primary, first, second = nodes_of(replicated)
    patroni.names([primary, first])
    with tidegate.connect(settings(primary.url, patroni=(patroni.url,), discover_ms=100)) as gate:
        assert ports_that_answer(gate, {first.port}) == {first.port}
        patroni.names([primary, first, second])
        assert ports_that_answer(gate, {first.port, second.port}) == {first.port, second.port}
        patroni.names([primary, second])
        wait_for(lambda: f"127.0.0.1:{first.port}" not in names(gate), "the first is gone")
        assert ports_that_answer(gate, {second.port}) == {second.port}
        patroni.names([primary, first, second])
        assert ports_that_answer(gate, {first.port, second.port}) == {first.port, second.port}


def test_a_member_that_must_not_be_read_is_not_and_the_primary_stays(replicated: Cluster, patroni: Patroni) -> None:
    primary, first, second = nodes_of(replicated)
    patroni.names([first], tags={"noloadbalance": True})
    with tidegate.connect(settings(primary.url, second.url, patroni=(patroni.url,), discover_ms=100)) as gate:
        assert ports_that_answer(gate, {second.port}) == {second.port}
        assert names(gate) == sorted(f"127.0.0.1:{port}" for port in (primary.port, second.port))
        assert asks(gate).ask_primary("t", "SELECT inet_server_port()") == [primary.port]


def test_the_leader_is_found_though_the_settings_name_another(replicated: Cluster, patroni: Patroni) -> None:
    primary, first, second = nodes_of(replicated)
    patroni.names([primary, first, second])
    with tidegate.connect(settings(first.url, patroni=(patroni.url,))) as gate:
        assert asks(gate).ask_primary("t", "SELECT inet_server_port()") == [primary.port]


def test_servers_that_are_known_stay_while_patroni_is_away(replicated: Cluster, patroni: Patroni) -> None:
    primary, first, _ = nodes_of(replicated)
    patroni.names([primary, first])
    events: list[Any] = []
    made = settings(primary.url, patroni=("http://127.0.0.1:1", patroni.url), discover_ms=100)
    with tidegate.connect(made, observe=events.append) as gate:
        assert ports_that_answer(gate, {first.port}) == {first.port}
        patroni.close()
        wait_for(lambda: gate.stats().events.get("NotDiscovered", 0) > 0, "nobody could be asked")
        assert ports_that_answer(gate, {first.port}) == {first.port}
        patroni.__init__()  # type: ignore[misc]  # for the fixture to close


@contextmanager
def child(work: Callable[[], str]) -> Iterator[str]:
    """What *work* returned in a forked process."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, work().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        yield pipe.read()
    os.waitpid(pid, 0)


MONITORS = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'forking' AND query LIKE '%pg_control_system%'"
    " AND state = 'idle'"
)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_asks_on_connections_of_its_own(replicated: Cluster) -> None:
    primary, first, _ = nodes_of(replicated)
    own = "?application_name=forking"
    with tidegate.connect(settings(primary.url + own, first.url + own)) as gate:
        asking = asks(gate)
        assert ports_that_answer(gate, {first.port}) == {first.port}
        mine = line_pids(gate)

        def work() -> str:
            seen = ports_that_answer(gate, {first.port})
            theirs = line_pids(gate)
            return f"{seen == {first.port}} {theirs.isdisjoint(mine)}"

        with child(work) as said:
            assert said == "True True"
        assert line_pids(gate) == mine, "the child must leave its parent's connections alone"
        assert ports_that_answer(gate, {first.port}) == {first.port}
        assert isinstance(asking, Asks)


def line_pids(gate: tidegate.Gate) -> set[int]:
    """The server processes that the monitors' connections go to."""
    nodes = gate._shards.every[0].nodes
    assert nodes is not None
    lines: list[Any] = [monitor._line for monitor in nodes._monitors.values()]
    wait_for(lambda: all(line._raw is not None for line in lines), "every monitor is connected")
    return {line._raw.info.backend_pid for line in lines}


def test_a_socket_folder_is_one_host() -> None:
    url = make_url("postgresql+psycopg://u@/db?host=/run/postgresql")
    assert checked_url(url.render_as_string(hide_password=False), "primary") == url
