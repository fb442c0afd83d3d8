"""What doctor finds on real servers, and that it changes nothing there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
import redis
from sqlalchemy import create_engine, func, insert, select, text
from typer.testing import CliRunner

from tidegate.cache.redis.url import shown_url
from tidegate.cache.store import Change
from tidegate.proxy.cli.app import app
from tidegate.proxy.database.schema import OUTBOX, STATE
from tidegate.proxy.database.serving import replace_serving_cache
from tidegate.proxy.doctor import rules as doctor
from tidegate.proxy.doctor.facts import collect
from tidegate.proxy.doctor.rules import findings
from tidegate.proxy.embedded import Cluster
from tidegate.proxy.embedded.process import free_port, wait_for
from tidegate.proxy.settings import CacheSettings
from tidegate.proxy.tracking.notes import note_of
from tidegate.repositories.indexes import INDEXES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Engine

    from tidegate.proxy.embedded.valkey import ValkeyNode


WAITING: Final = note_of([Change("t", whole=True)])._asdict()


@pytest.fixture
def engine(tables_url: str) -> Iterator[Engine]:
    made = create_engine(tables_url)
    with made.begin() as connection:
        for spec in INDEXES:
            connection.execute(text(spec.create_sql(concurrently=False)))
    yield made
    with made.begin() as connection:
        for spec in INDEXES:
            connection.execute(text(spec.drop_sql(concurrently=False)))
    made.dispose()


def run(engine: Engine, *arguments: str) -> Any:
    url = engine.url.render_as_string(hide_password=False)
    return CliRunner().invoke(app, ["doctor", "--url", url, *arguments])


def said(engine: Engine, url: str | None) -> list[str]:
    return [finding.text() for finding in findings(collect(engine, CacheSettings(url=url, read_timeout_ms=2000)))]


def rows(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        return [*connection.execute(select(STATE)).all(), *connection.execute(select(OUTBOX)).all()]


def test_a_database_and_its_cache_that_are_well_are_left_as_they_are(
    engine: Engine, start_valkey: Callable[..., ValkeyNode], tmp_path: Path
) -> None:
    valkey_url = start_valkey().url  # of its own: a gate that another test has left may give a shared one its id back
    config = tmp_path / "tidegate.toml"
    url = engine.url.render_as_string(hide_password=False)
    config.write_text(
        f'[cache]\nurl = "{valkey_url}"\nread_timeout_ms = 5000\n[[shards]]\nname = "s0"\nprimary = "{url}"\n'
    )
    done = CliRunner().invoke(app, ["doctor", "--config", str(config)])
    assert (done.exit_code, done.stderr) == (0, "")
    assert "all indexes, tables and triggers are there\n" in done.stdout
    assert f"the cache {shown_url(valkey_url)} answers in " in done.stdout
    assert rows(engine) == []
    with redis.Redis.from_url(valkey_url) as client:
        assert client.dbsize() == 0


def test_a_cache_that_is_not_there_is_said_without_its_password(engine: Engine) -> None:
    done = run(engine, "--cache-url", f"redis://dify:hunter2@127.0.0.1:{free_port()}/0")
    assert done.exit_code == 1
    assert "cannot be reached (" in done.stdout
    assert "hunter2" not in done.output


def test_a_cache_that_answers_nothing_is_given_up(engine: Engine, start_valkey: Callable[..., ValkeyNode]) -> None:
    node = start_valkey()
    node.pause()
    try:
        (line,) = said(engine, node.url)
    finally:
        node.resume()
    assert "cannot be reached (TimeoutError" in line


def test_another_cache_serves_this_database(engine: Engine, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_serving_cache(engine, "redis://other:6379/0")
    (line,) = said(engine, valkey_url)
    assert line.startswith(f"the cache {valkey_url} does not serve this database: the one at redis://other:6379/0 does")
    monkeypatch.delenv("TIDEGATE_CACHE_URL", raising=False)
    unasked = run(engine)
    assert unasked.exit_code == 0
    assert "the cache redis://other:6379/0, which serves this database, was not asked" in unasked.stdout
    replace_serving_cache(engine, valkey_url)
    assert said(engine, valkey_url) == []


def test_an_eviction_policy_is_read_off_the_server(engine: Engine, start_valkey: Callable[..., ValkeyNode]) -> None:
    node = start_valkey("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
    (line,) = said(engine, node.url)
    assert "may evict marks when it is full (maxmemory-policy allkeys-lru)" in line
    done = run(engine, "--cache-url", node.url)
    assert done.exit_code == 0, "it only costs"
    assert done.stdout.startswith(f"note: {line}\nall indexes, tables and triggers are there\nthe cache ")
    with redis.Redis.from_url(node.url) as client:
        client.config_set("maxmemory-policy", "volatile-ttl")
    assert said(engine, node.url) == []


def test_a_replica_of_a_cache_is_told_from_its_master(engine: Engine, start_valkey: Callable[..., ValkeyNode]) -> None:
    master = start_valkey()
    replica = start_valkey("--replicaof", f"127.0.0.1 {master.port}")
    with redis.Redis.from_url(replica.url) as client:
        wait_for(lambda: client.info("replication")["master_link_status"] == "up", "it replicates")
        (line,) = said(engine, replica.url)
    assert line.startswith(f"the cache {replica.url} is a replica: ")
    assert said(engine, master.url) == []


def test_a_user_without_the_rights_is_refused(engine: Engine, start_valkey: Callable[..., ValkeyNode]) -> None:
    node = start_valkey()
    with redis.Redis.from_url(node.url) as client:
        client.execute_command("ACL", "SETUSER", "poor", "on", ">secret", "~tg:*", "+info", "+get")
    (line,) = said(engine, node.url.replace("redis://", "redis://poor:secret@"))
    assert "refuses what a gate asks (" in line
    assert "secret" not in line


def test_every_master_of_a_cluster_is_asked(engine: Engine, valkey_cluster: list[ValkeyNode]) -> None:
    url = f"redis+cluster://127.0.0.1:{valkey_cluster[0].port}"
    assert said(engine, url) == []
    with redis.Redis.from_url(valkey_cluster[2].url) as client:
        client.config_set("maxmemory-policy", "allkeys-random")
        try:
            (line,) = said(engine, url)
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert line.startswith(f"the cache's server 127.0.0.1:{valkey_cluster[2].port} may evict marks")


def test_the_oldest_transaction_with_an_id_is_named(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LONG_S", 0.0)
    with engine.connect() as reader, engine.connect() as elder, engine.connect() as younger:
        reader.execute(text("SELECT 1"))  # older than both, and holds up nothing: it has no id
        elder.execute(text("SET application_name = 'the elder'"))
        xid, pid = elder.execute(text("SELECT pg_current_xact_id()::text, pg_backend_pid()")).one()
        younger.execute(text("SELECT pg_current_xact_id()"))
        (line,) = said(engine, None)
        assert line.startswith(f"transaction {xid} has been running for ")
        assert f" s (process {pid}, the elder, idle in trans" in line
        younger.rollback()
        elder.rollback()
    assert said(engine, None) == []


def test_a_prepared_transaction_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LONG_S", 0.0)
    with Cluster(cache=False, postgres_settings={"max_prepared_transactions": "5"}) as cluster:
        engine = create_engine(cluster.shards[0].primary.url)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("CREATE TABLE t ()"))
            connection.exec_driver_sql("BEGIN")
            connection.exec_driver_sql("INSERT INTO t DEFAULT VALUES")
            connection.exec_driver_sql("PREPARE TRANSACTION 'forgotten'")
            lines = [line for line in said(engine, None) if line.startswith("transaction")]
            connection.exec_driver_sql("ROLLBACK PREPARED 'forgotten'")
        engine.dispose()
    assert len(lines) == 1
    assert "prepared as 'forgotten'" in lines[0]


def test_what_waits_in_the_outbox_is_counted_with_its_age_in_any_time_zone(engine: Engine) -> None:
    with engine.begin() as connection:
        utc = func.timezone("UTC", func.now())
        old = utc - func.make_interval(0, 0, 0, 0, 0, 0, 90)
        for at in (utc, old):
            values = {"created_at": at, **WAITING}
            connection.execute(insert(OUTBOX).values(values))
    elsewhere = create_engine(engine.url, connect_args={"options": "-c timezone=Asia/Tokyo"})
    (line,) = said(elsewhere, None)
    elsewhere.dispose()
    assert run(engine).exit_code == 1
    assert line.startswith("the outbox has 2 changes that the cache was not told of, the oldest for 9")


def test_a_user_who_may_not_read_the_tables_is_told_so_and_the_rest(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DO $$ BEGIN CREATE ROLE poor LOGIN; EXCEPTION WHEN duplicate_object THEN END $$"))
        connection.execute(insert(OUTBOX).values(created_at=func.to_timestamp(0), **WAITING))
    poor = create_engine(engine.url.set(username="poor"))
    state, outbox = said(poor, None)
    assert state.startswith("table tidegate_state may not be read by this user: ")
    assert outbox.startswith("table tidegate_outbox may not be read by this user: ")
    assert run(poor).exit_code == 0, "only who runs a gate must"
    poor.dispose()


def test_a_url_that_cannot_work_is_refused_before_anything_is_asked(engine: Engine) -> None:
    refused = run(engine, "--cache-url", "http://dify:hunter2@cache")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: cache.url is http://...")
    assert "hunter2" not in refused.output
