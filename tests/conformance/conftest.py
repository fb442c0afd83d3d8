"""One session maker per database the repositories run on, and rows to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import StaticPool, create_engine
from sqlalchemy.orm import Session, sessionmaker

from tidegate.repositories.models import Base, WorkflowRun, new_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TENANT, APP = "7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10", "1b0a1e8e-90c6-4f0e-8a52-5d1f0c7a2b20"


def _engine(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    if kind == "sqlite-memory":
        return create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    if kind == "sqlite-file":
        return create_engine(f"sqlite:///{tmp_path / 'tidegate.db'}")
    return create_engine(request.getfixturevalue("database_url"))


@pytest.fixture(params=["sqlite-memory", "sqlite-file", "postgresql"])
def session_maker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sessionmaker[Session]]:
    engine = _engine(request.param, tmp_path, request)
    Base.metadata.create_all(engine)
    yield sessionmaker(engine)
    engine.dispose()


@pytest.fixture
def make_run(session_maker: sessionmaker[Session]) -> Callable[..., WorkflowRun]:
    """Stores a run and gives it detached and loaded."""

    def make(**overrides: Any) -> WorkflowRun:
        values: dict[str, Any] = {
            "tenant_id": TENANT,
            "app_id": APP,
            "workflow_id": new_id(),
            "type": "workflow",
            "triggered_from": "app-run",
            "version": "1",
            "graph": '{"nodes": []}',
            "inputs": '{"a": 1}',
            "status": "running",
            "created_by_role": "account",
            "created_by": new_id(),
        }
        with session_maker(expire_on_commit=False) as session:
            run = WorkflowRun(**(values | overrides))
            session.add(run)
            session.commit()
            session.refresh(run)
            return run

    return make
