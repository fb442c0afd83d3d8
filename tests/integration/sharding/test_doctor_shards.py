"""``tidegate init`` and ``tidegate doctor`` with settings of several shards: each of them, and all together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from real_servers.initialised import initialise
from real_servers.sharded import settings_of
from real_servers.toml import settings_file
from sqlalchemy import text
from typer.testing import CliRunner

import tidegate
from tidegate.cache.redis.url import shown_url
from tidegate.proxy.cli.app import app
from tidegate.proxy.database.identity import cluster_id
from tidegate.proxy.database.schema import missing_tables
from tidegate.proxy.database.serving import Serving, served
from tidegate.repositories.indexes import INDEXES, create_indexes, index_states

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from real_servers.shards import Shards


@pytest.fixture
def there(stocked: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shards]:
    """Shards with a gate behind them; what Tidegate adds is there again for the next test."""
    tidegate.connect(settings_of(stocked, catalogue="s0")).close()
    config = settings_file(stocked, tmp_path, cache_url=stocked.cluster.cache.url)
    monkeypatch.setenv("TIDEGATE_CONFIG", str(config))
    yield stocked
    for engine in stocked.engines.values():
        initialise(engine)
        create_indexes(engine)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def execute(shards: Shards, name: str, sql: str) -> None:
    with shards.engines[name].begin() as connection:
        connection.execute(text(sql))


def test_init_makes_undoes_and_makes_again_what_every_shard_needs(there: Shards) -> None:
    undone = run("init", "--undo")
    assert undone.exit_code == 0, undone.output
    for name, engine in there.engines.items():
        assert f"{name}: dropped: " in undone.output
        assert "tidegate_ownership" in missing_tables(engine)
        assert set(index_states(engine).values()) == {"missing"}
    made = run("init", "--cache-url", "redis://another/0")
    assert made.exit_code == 0, made.output
    again = run("init")
    for name, engine in there.engines.items():
        assert f"{name}: created: tidegate_" in made.output
        assert f"{name}: created: nothing, all are there" in again.output
        assert (missing_tables(engine), served(engine).by) == ([], Serving("redis://another/0"))
        assert set(index_states(engine).values()) == {"valid"}


def test_a_url_goes_before_the_file(there: Shards) -> None:
    assert run("init", "--undo").exit_code == 0
    url = there.engines["s1"].url.render_as_string(hide_password=False)
    made = run("init", "--url", url)
    assert made.exit_code == 0, made.output
    assert "\ncreated: tidegate_" in made.output
    assert [bool(missing_tables(engine)) for engine in there.engines.values()] == [True, False, True]


def test_doctor_says_of_every_shard_that_it_is_well(there: Shards) -> None:
    said = run("doctor")
    assert said.exit_code == 0, said.output
    lines = said.output.splitlines()
    for name in there.engines:
        assert f"{name}: all indexes, tables and triggers are there" in lines
        assert any(line.startswith(f"{name}: the cache {shown_url(there.cluster.cache.url)} answers") for line in lines)
    assert [line.split()[3] for line in lines if "connections at most" in line] == ["23", "22", "22"]  # s0 is followed
    assert lines[-1].endswith("run: tidegate shards check")


def test_doctor_names_the_shard_where_something_is_wrong(there: Shards) -> None:
    execute(there, "s1", "DROP TABLE tidegate_outbox")
    execute(there, "s1", "UPDATE tidegate_state SET value = 'redis://another/0' WHERE name = 'cache'")
    execute(there, "s2", INDEXES[0].drop_sql(concurrently=False))
    execute(there, "s2", "UPDATE tidegate_state SET value = 'another' WHERE name = 'cluster'")
    assert cluster_id(there.engines["s2"], None) == "another"
    said = run("doctor")
    assert said.exit_code == 1
    assert "shard s1, table tidegate_outbox is missing" in said.output
    assert f"shard s1, the cache {shown_url(there.cluster.cache.url)} does not serve this database" in said.output
    assert f"shard s2, index {INDEXES[0].name} is missing" in said.output
    assert "shard s2 belongs to another cluster of shards than s0" in said.output
    assert "shard s0" not in said.output


def test_doctor_names_a_shard_that_is_down_and_goes_on_with_the_others(there: Shards) -> None:
    execute(there, "s2", "DROP TABLE tidegate_closing")
    server = there.cluster.shards[0].primary
    server.kill()
    try:
        said = run("doctor")
    finally:
        server.start()
    assert said.exit_code == 1
    assert "shard s0 cannot be asked (the shard s0 has no primary that answers" in said.output
    assert "shard s2, table tidegate_closing is missing" in said.output
    assert "shard s1" not in said.output


@pytest.mark.parametrize("command", ["init", "doctor"])
def test_settings_that_cannot_work_are_one_line(there: Shards, tmp_path: Path, command: str) -> None:
    config = settings_file(there, tmp_path)
    config.write_text(config.read_text().replace('catalogue = "s0"', 'catalogue = "s9"'))
    said = run(command, "--config", str(config))
    assert said.exit_code == 2
    assert said.stderr == "error: sharding.catalogue names the shard 's9'; known are s0, s1, s2\n"
