"""One session maker per database the repositories run on, plain and behind a gate; and rows to read.

A test that asks for ``behind`` runs on every database plain, and on PostgreSQL behind a gate: with an empty cache, with
each cached read made twice (so that the second is answered by the cache), and the same with the near cache in both of
its modes; in bounded mode, each read waits until what was written before it has been pushed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import StaticPool, create_engine
from sqlalchemy.orm import Session, sessionmaker

import tidegate
from tidegate.cache.redis_pushes import RedisPushes
from tidegate.proxy.gate import NodeExecutions, WorkflowRuns
from tidegate.proxy.settings import CacheSettings
from tidegate.repositories import (
    DifyAPISQLAlchemyWorkflowNodeExecutionRepository,
    DifyAPISQLAlchemyWorkflowRunRepository,
)
from tidegate.repositories.models import Base, WorkflowRun, new_id
from tidegate.repositories.policies import Read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tidegate.proxy.call import Call
    from tidegate.proxy.embedded import Cluster

DATABASES = ["sqlite-memory", "sqlite-file", "postgresql"]
GATES = ["postgresql-cold", "postgresql-warm", "postgresql-near", "postgresql-bounded", "sqlite-file-warm"]

TENANT, APP = "7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10", "1b0a1e8e-90c6-4f0e-8a52-5d1f0c7a2b20"


def _engine(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    if kind == "sqlite-memory":
        return create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    if kind.startswith("sqlite-file"):
        return create_engine(f"sqlite:///{tmp_path / 'tidegate.db'}")
    return create_engine(request.getfixturevalue("tables_url"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "session_maker" in metafunc.fixturenames:
        kinds = DATABASES + (GATES if "behind" in metafunc.fixturenames else [])
        metafunc.parametrize("session_maker", kinds, indirect=True)


@pytest.fixture
def session_maker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sessionmaker[Session]]:
    engine = _engine(request.param, tmp_path, request)
    if not request.param.startswith("postgresql"):
        Base.metadata.create_all(engine)
    yield sessionmaker(engine)
    engine.dispose()


class Behind:
    """Makes the repositories that a test is about, plain or behind a gate."""

    def __init__(self, session_maker: sessionmaker[Session], gate: tidegate.Gate | None, *, twice: bool) -> None:
        self.session_maker = session_maker
        self.gate = gate
        self._twice = twice
        self._pushes = None if gate is None else gate._parts.pushes
        if isinstance(self._pushes, RedisPushes):
            self._pushes.beat_s = 0.002

    def runs(self, **kwargs: Any) -> DifyAPISQLAlchemyWorkflowRunRepository:
        if self.gate is None:
            return DifyAPISQLAlchemyWorkflowRunRepository(self.session_maker, **kwargs)
        gated: WorkflowRuns = self._gated(WorkflowRuns(self.session_maker, **kwargs))
        return gated

    def nodes(self) -> DifyAPISQLAlchemyWorkflowNodeExecutionRepository:
        if self.gate is None:
            return DifyAPISQLAlchemyWorkflowNodeExecutionRepository(self.session_maker)
        gated: NodeExecutions = self._gated(NodeExecutions(self.session_maker))
        return gated

    def _gated(self, repository: Any) -> Any:
        assert self.gate is not None
        adopted = self.gate.adopt(repository, self.session_maker)
        pipeline = adopted.__dict__["_tidegate_pipeline"]

        def twice(call: Call) -> object:
            if self._pushes is not None:
                assert self._pushes.caught_up(10)
            if isinstance(call.policy, Read) and call.policy.guard is not None:
                pipeline(call)
            return pipeline(call)

        if self._twice:
            adopted.__dict__["_tidegate_pipeline"] = twice
        return adopted


@pytest.fixture
def behind(session_maker: sessionmaker[Session], request: pytest.FixtureRequest) -> Iterator[Behind]:
    kind = request.node.callspec.params["session_maker"]
    if kind in DATABASES:
        yield Behind(session_maker, None, twice=False)
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    cache = CacheSettings(
        url=cluster.cache.url,
        near=kind.endswith(("near", "bounded")),
        near_modes={"all": "bounded"} if kind.endswith("bounded") else {},
        connect_timeout_ms=2000,
        read_timeout_ms=2000,
        transaction_timeout_s=0,
    )
    with tidegate.gate_on(session_maker.kw["bind"], session_maker, tidegate.Settings(cache=cache)) as gate:
        yield Behind(session_maker, gate, twice=not kind.endswith("cold"))


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
