"""A pooled connection is asked whether it works where it was idle for a while, and only there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, text

import tidegate
from tidegate.proxy.nodes import idle_ping
from tidegate.proxy.settings import ShardSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from tidegate.proxy.embedded import Cluster

PID = text("SELECT pg_backend_pid()")


@pytest.fixture
def pooled(tables_url: str) -> Iterator[Engine]:
    shards = (ShardSettings(name="s0", primary=tables_url),)
    with tidegate.connect(tidegate.Settings(shards=shards)) as gate:
        yield gate.engine


@pytest.fixture
def pings(pooled: Engine, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    asked: list[Any] = []
    do_ping = pooled.dialect.do_ping

    def noted(raw: Any) -> bool:
        asked.append(raw)
        return do_ping(raw)

    monkeypatch.setattr(pooled.dialect, "do_ping", noted)
    return asked


def pid(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(PID).scalar_one())


def test_a_connection_that_was_in_use_a_moment_ago_is_not_asked(
    pooled: Engine, pings: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle_ping, "IDLE_S", 3_600)
    assert len({pid(pooled) for _ in range(3)}) == 1
    assert pings == []


def test_one_that_its_server_has_ended_is_replaced_however_soon(
    pooled: Engine, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle_ping, "IDLE_S", 3_600)
    first = pid(pooled)
    cluster.shards[0].primary.execute(f"SELECT pg_terminate_backend({first}, 10000)")
    assert pid(pooled) != first


def test_one_that_the_driver_has_closed_is_replaced(pooled: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle_ping, "IDLE_S", 3_600)
    with pooled.connect() as connection:
        first = connection.execute(PID).scalar_one()
        raw: Any = connection.connection.dbapi_connection
    raw.close()
    assert pid(pooled) != first


def test_one_that_was_idle_is_asked_and_replaced_if_it_is_dead(
    pooled: Engine, pings: list[Any], tables_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle_ping, "IDLE_S", 0)
    first = pid(pooled)
    pings.clear()
    assert pid(pooled) == first
    assert len(pings) == 1
    admin = create_engine(tables_url)
    with admin.begin() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": first})
    admin.dispose()
    assert pid(pooled) != first


def test_all_that_were_connected_before_a_dead_one_are_replaced(
    pooled: Engine, tables_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pooled.connect() as one, pooled.connect() as other:
        dead = {connection.execute(PID).scalar_one() for connection in (one, other)}
    admin = create_engine(tables_url)
    with admin.begin() as connection:
        for each in dead:
            connection.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": each})
    admin.dispose()
    monkeypatch.setattr(idle_ping, "IDLE_S", 0)
    with pooled.connect() as one, pooled.connect() as other:
        assert not dead & {connection.execute(PID).scalar_one() for connection in (one, other)}
