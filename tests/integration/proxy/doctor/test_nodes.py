"""``tidegate doctor`` on a primary with two replicas, as a person calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from tidegate.proxy.cli.app import app
from tidegate.proxy.embedded.process import wait_for
from tidegate.repositories.indexes import create_indexes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tidegate.proxy.embedded import Cluster, PostgresNode

    Doctor = Callable[..., Any]


@pytest.fixture
def indexed(replicated: Cluster) -> Cluster:
    engine = create_engine(replicated.shards[0].primary.url)
    create_indexes(engine)
    engine.dispose()
    return replicated


@pytest.fixture
def doctor(indexed: Cluster, tmp_path: Path) -> Doctor:
    """Calls it with a configuration that names these replicas; gives servers their names in what it says."""
    shard = indexed.shards[0]

    def call(*options: str, replicas: tuple[str, ...] | None = None, user: str = "postgres", more: str = "") -> Any:
        urls = [node.url for node in shard.replicas] if replicas is None else replicas
        primary, *others = (as_user(url, user) for url in (shard.primary.url, *urls))
        path = tmp_path / "tidegate.toml"
        path.write_text(f'{more}\n[[shards]]\nname = "s0"\nprimary = "{primary}"\nreplicas = {others}\n')
        return CliRunner().invoke(app, ["doctor", "--config", str(path), *options])

    return call


def as_user(url: str, user: str) -> str:
    return make_url(url).set(username=user).render_as_string(hide_password=False)


def said(result: Any, cluster: Cluster) -> str:
    text: str = result.stdout
    for name, node in zip(("primary", "first", "second"), nodes(cluster), strict=True):
        text = text.replace(f"127.0.0.1:{node.port}", name)
    return text


def nodes(cluster: Cluster) -> tuple[PostgresNode, ...]:
    return (cluster.shards[0].primary, *cluster.shards[0].replicas)


def test_a_healthy_shard(doctor: Doctor, indexed: Cluster) -> None:
    result = doctor("--processes", "4")
    # Other tests have come with a cache.
    lines = [line for line in said(result, indexed).splitlines() if "the cache" not in line]
    assert lines == [
        "primary: 4 x 22 = 88 connections at most, of 97",
        "first: 4 x 22 = 88 connections at most, of 97",
        "second: 4 x 22 = 88 connections at most, of 97",
        "all indexes, tables and triggers are there",
    ]
    assert result.exit_code == 0


@pytest.fixture
def within_a_record(indexed: Cluster) -> Iterator[None]:
    """The log writer has flushed pages, the last of which ends within a record; replicas wait for the rest of it."""
    primary, *replicas = nodes(indexed)
    # A transaction that stays open asks for no flush, so the log writer takes whole pages only.
    with psycopg.connect(primary.url.replace("+psycopg", "")) as writer:
        ends: list[str] = []

        def held() -> bool:
            ((flushed, at_page_end),) = primary.execute(
                "SELECT pg_current_wal_flush_lsn()::text, (pg_current_wal_flush_lsn() - '0/0') % 8192 = 0"
            )
            if not ends or primary.execute("SELECT %s::pg_lsn >= %s::pg_lsn", flushed, ends[-1]) == [(True,)]:
                record = "SELECT pg_logical_emit_message(false, 'within_a_record', repeat('x', 20000))::text"
                ((end,),) = writer.execute(record).fetchall()
                ends.append(end)
                return False
            received = "SELECT pg_last_wal_receive_lsn() >= %s::pg_lsn AND pg_last_wal_replay_lsn() < %s::pg_lsn"
            return at_page_end and all(one.execute(received, flushed, flushed) == [(True,)] for one in replicas)

        wait_for(held, "the log has been flushed up to the middle of a record", 30)
        yield
        writer.rollback()


@pytest.mark.usefixtures("within_a_record")
def test_a_record_of_which_the_rest_is_not_sent_makes_no_lag(doctor: Doctor, indexed: Cluster) -> None:
    assert "lags" not in said(doctor(), indexed)


def test_too_many_processes(doctor: Doctor, indexed: Cluster) -> None:
    result = doctor("--processes", "5")
    assert result.exit_code == 1
    assert "primary takes 97 connections, and 5 x 22 = 110 may be opened" in said(result, indexed)


@pytest.fixture
def paused(indexed: Cluster) -> Iterator[None]:
    primary, replica = indexed.shards[0].primary, indexed.shards[0].replicas[0]
    replica.pause_replay()
    primary.execute("CREATE TABLE not_replayed (id int)")
    yield
    primary.execute("DROP TABLE not_replayed")
    replica.resume_replay()


@pytest.mark.usefixtures("paused")
def test_a_replay_that_is_paused(doctor: Doctor, indexed: Cluster) -> None:
    result = doctor()
    assert result.exit_code == 1
    text = said(result, indexed)
    assert "first has its replay paused: it falls behind until somebody calls pg_wal_replay_resume() there" in text
    assert "first lags: 2 s later it has not replayed what the primary had written" in text
    assert "second" not in text.replace("second: ", "")


def test_other_servers(doctor: Doctor, indexed: Cluster, cluster: Cluster) -> None:
    stranger = cluster.shards[0].primary
    first = indexed.shards[0].replicas[0]
    away = "postgresql+psycopg://u:secret@127.0.0.1:1/tidegate"
    twin = first.url.replace("127.0.0.1", "localhost")
    result = doctor(replicas=(stranger.url, away, first.url, twin))
    assert result.exit_code == 1
    text: str = result.stdout
    assert f"127.0.0.1:{stranger.port} is of another cluster than" in text
    assert "127.0.0.1:1 does not answer (connection failed" in text
    assert f"note: localhost:{first.port} is the same server as 127.0.0.1:{first.port}: name it once" in text
    assert "secret" not in text


@pytest.fixture
def changed(indexed: Cluster) -> Iterator[Callable[[str, str], None]]:
    """Sets something on the first replica, by the one thing that can be set there."""
    replica = indexed.shards[0].replicas[0]
    names: list[str] = []

    def change(name: str, value: str) -> None:
        names.append(name)
        replica.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        replica.execute("SELECT pg_reload_conf()")

    yield change
    for name in names:
        replica.execute(f"ALTER SYSTEM RESET {name}")
    replica.execute("SELECT pg_reload_conf()")


def test_settings_that_only_cost_are_notes(
    doctor: Doctor, indexed: Cluster, changed: Callable[[str, str], None]
) -> None:
    changed("timezone", "Asia/Tokyo")
    changed("wal_retrieve_retry_interval", "5s")
    indexed.shards[0].primary.execute(
        "DO $$ BEGIN CREATE ROLE plain LOGIN; EXCEPTION WHEN duplicate_object THEN END $$"
    )
    result = doctor(user="plain")
    text = said(result, indexed)
    assert result.exit_code == 0, text
    assert "note: first has the time zone Asia/Tokyo, not UTC" in text
    assert "note: first has wal_retrieve_retry_interval at 5 s: a promotion may take as long; set it to 200ms" in text
    assert "note: second does not tell plain from which timeline it receives" in text
    assert "GRANT pg_monitor TO plain" in text
    assert "primary does not tell" not in text


def test_a_member_of_pg_monitor_is_told(doctor: Doctor, indexed: Cluster) -> None:
    primary = indexed.shards[0].primary
    primary.execute(
        "DO $$ BEGIN CREATE ROLE seeing LOGIN IN ROLE pg_monitor; EXCEPTION WHEN duplicate_object THEN END $$"
    )
    assert "does not tell" not in doctor(user="seeing").stdout


def test_the_primary_may_be_any_of_them(indexed: Cluster, tmp_path: Path) -> None:
    primary, first, second = nodes(indexed)
    path = tmp_path / "tidegate.toml"
    hosts = f"host=127.0.0.1:{first.port}&host=127.0.0.1:{primary.port}"
    path.write_text(f'[[shards]]\nname = "s0"\nprimary = "postgresql+psycopg://postgres@/tidegate?{hosts}"\n')
    assert CliRunner().invoke(app, ["doctor", "--config", str(path)]).exit_code == 0
    path.write_text(f'[[shards]]\nname = "s0"\nprimary = "{first.url}"\nreplicas = ["{second.url}"]\n')
    result = CliRunner().invoke(app, ["doctor", "--config", str(path)])
    assert result.exit_code == 1
    assert "the shard has no primary: none of its servers takes writes; promote one" in result.stdout


def test_a_patroni_that_is_away(indexed: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "tidegate.toml"
    url = indexed.shards[0].primary.url
    path.write_text(f'[[shards]]\nname = "s0"\nprimary = "{url}"\npatroni = ["http://127.0.0.1:1"]\n')
    result = CliRunner().invoke(app, ["doctor", "--config", str(path)])
    assert result.exit_code == 1
    assert (
        "Patroni does not answer (http://127.0.0.1:1: <urlopen error [Errno 111] Connection refused>)" in result.stdout
    )


def test_a_configuration_that_cannot_work(tmp_path: Path) -> None:
    path = tmp_path / "tidegate.toml"
    path.write_text("[routing]\npoll_ms = 1\n")
    result = CliRunner().invoke(app, ["doctor", "--config", str(path)])
    assert result.exit_code == 2
    assert "routing.poll_ms" in result.stderr
