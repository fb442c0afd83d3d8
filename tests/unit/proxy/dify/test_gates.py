"""Which engines of a host get a gate."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from tidegate.proxy.dify.gates import gate_of

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_another_database_is_refused_with_one_sentence_once(caplog: pytest.LogCaptureFixture) -> None:
    driver: Any = SimpleNamespace(paramstyle="format", version_info=(2, 2, 0), Error=Exception)
    maker = sessionmaker(create_engine("mysql+mysqldb://dify:hunter2@db/dify", module=driver))
    assert [gate_of(maker), gate_of(maker)] == [None, None]
    said = "the database is mysql, and in Dify Tidegate knows what changes on postgresql alone"
    off = f"Tidegate is off in this process: {said}: nothing is cached or routed"
    assert [record.message for record in caplog.records] == [off]


def test_what_is_bound_to_no_engine_has_no_gate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'host.db'}")
    with engine.connect() as connection:
        assert gate_of(sessionmaker(connection)) is None
    assert gate_of(sessionmaker()) is None
    assert gate_of(None) is None
    assert caplog.records == []
    engine.dispose()
