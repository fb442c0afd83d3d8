"""Dify brings one engine: several shards are refused there, before anything is done with it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from tidegate.errors import SettingsError
from tidegate.proxy.dify import (
    CoreWorkflowExecutionRepository,
    CoreWorkflowNodeExecutionRepository,
    WorkflowNodeExecutionRepository,
    WorkflowRunRepository,
    gate_for,
)
from tidegate.proxy.gate import Gate

if TYPE_CHECKING:
    from pathlib import Path

SHARD = """
[[shards]]
name = "{}"
primary = "postgresql+psycopg://dify:hunter2@{}/dify"
"""


def test_several_shards_are_refused_and_what_to_do_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "tidegate.toml"
    config.write_text("".join(SHARD.format(name, name) for name in ("east", "west")))
    monkeypatch.setenv("TIDEGATE_CONFIG", str(config))
    engine = create_engine(f"sqlite:///{tmp_path / 'dify.db'}")
    maker: Any = sessionmaker(engine)
    user = SimpleNamespace(id="user", tenant_id="tenant")
    for make in (
        lambda: WorkflowRunRepository(maker),
        lambda: WorkflowNodeExecutionRepository(maker),
        lambda: CoreWorkflowExecutionRepository(maker, user, None, None),
        lambda: CoreWorkflowNodeExecutionRepository(maker, user, None, None),
        lambda: gate_for(engine),
    ):
        with pytest.raises(
            SettingsError, match=r"TIDEGATE_CONFIG names a file with 2 .*east, west.*give Dify's"
        ) as said:
            make()
        assert "hunter2" not in str(said.value)
    assert not (tmp_path / "dify.db").exists()
    config.write_text("")
    assert isinstance(gate_for(engine), Gate)
    gate_for(engine).close()
    engine.dispose()
