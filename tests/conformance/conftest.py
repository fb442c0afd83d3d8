"""One session maker per database the repositories run on, plain and behind a gate; and rows to read.

A test that asks for ``behind`` runs on every database plain, and on PostgreSQL behind a gate: with an empty cache, with
each cached read made twice (so that the second is answered by the cache), and the same with the near cache in both of
its modes; in bounded mode, each read waits until what was written before it has been pushed. Behind a gate with two
replicas that are 300 ms late, without a cache and with one, reads go where they may; the first of a test is made again
once the replicas have got there, and must be the same. The summary at the end says how many calls replicas answered.

So it does on three shards, which the rows of a test are spread over by their tenants: without a cache, with rows that
nobody tells the gate of, and with one, each read made twice. A test that asks for ``across`` instead, in which a cache
would have no part, runs plain and on the shards without one. On shards ``session_maker``, the test's own, reads and
writes on all of them; whoever calls the repositories has sessions by :meth:`Behind.session`.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from real_servers.answer_counts import count
from real_servers.comparable_answers import outcome
from real_servers.databases import Databases
from real_servers.deadlines import patient
from real_servers.sharded_gate import Across
from real_servers.sharded_vs_plain import Oracle
from sqlalchemy import Engine, StaticPool, create_engine
from sqlalchemy.orm import Session, sessionmaker

import tidegate
from tidegate.cache.redis.push_stream import RedisPushes
from tidegate.proxy.embedded import Cluster
from tidegate.proxy.embedded.process import wait_for
from tidegate.proxy.layers.gated_repositories import NodeExecutions, WorkflowRuns
from tidegate.proxy.layers.telemetry import Telemetry
from tidegate.proxy.settings import CacheSettings, ReplicaSettings, RoutingSettings, ShardSettings
from tidegate.repositories import (
    DifyAPISQLAlchemyWorkflowNodeExecutionRepository,
    DifyAPISQLAlchemyWorkflowRunRepository,
    SQLAlchemyWorkflowExecutionRepository,
    SQLAlchemyWorkflowNodeExecutionRepository,
)
from tidegate.repositories.models import Base, WorkflowRun, new_id
from tidegate.repositories.policies import Read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tidegate.cache.request import Answer
    from tidegate.proxy.call import Call, Layer

DATABASES = ["sqlite-memory", "sqlite-file", "postgresql"]
REPLICAS = ["postgresql-replicas", "postgresql-replicas-cached"]
GATES = ["postgresql-cold", "postgresql-warm", "postgresql-near", "postgresql-bounded", "sqlite-file-warm", *REPLICAS]
SHARDED = ["postgresql-shards", "postgresql-shards-cached"]
ALIKE = ["postgresql-cold", "postgresql-near", "postgresql-bounded", "postgresql-replicas-cached", "postgresql-shards"]
"""Kinds that ask nothing of SQLAlchemy which the others do not ask."""
LATE_S = 0.3

TENANT, APP = "7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10", "1b0a1e8e-90c6-4f0e-8a52-5d1f0c7a2b20"


def _engine(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    if kind == "sqlite-memory":
        return create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    if kind.startswith("sqlite-file"):
        place = tmp_path / "tidegate.db"
        shutil.copyfile(request.getfixturevalue("sqlite_file"), place)
        return create_engine(f"sqlite:///{place}")
    return create_engine(request.getfixturevalue("late_tables_url" if kind in REPLICAS else "tables_url"))


@pytest.fixture(scope="session")
def sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the tables in it and nothing else, to be copied."""
    place = tmp_path_factory.mktemp("sqlite") / "tables.db"
    engine = create_engine(f"sqlite:///{place}")
    Base.metadata.create_all(engine)
    engine.dispose()
    return place


@pytest.fixture(scope="session")
def late_databases() -> Iterator[tuple[Cluster, Databases]]:
    """On a cluster with two replicas that are late."""
    with Cluster(replicas=2) as running:
        databases = Databases(running)
        for replica in running.shards[0].replicas:
            replica.delay(LATE_S)
        yield running, databases
        databases.close()


@pytest.fixture
def late_tables_url(late_databases: tuple[Cluster, Databases]) -> Iterator[str]:
    with late_databases[1].one() as url:
        yield url


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "session_maker" in metafunc.fixturenames:
        more = {"across": SHARDED[:1], "behind": GATES + SHARDED}
        kinds = next((kinds for name, kinds in more.items() if name in metafunc.fixturenames), [])
        marks = {
            kind: [pytest.mark.matrix, *([pytest.mark.newest] if kind in ALIKE else [])] for kind in DATABASES + kinds
        }
        cases = [pytest.param(kind, marks=of_kind) for kind, of_kind in marks.items()]
        metafunc.parametrize("session_maker", cases, indirect=True)


@pytest.fixture(scope="session")
def shards(cluster: Cluster) -> Iterator[Across]:
    made = Across(cluster, "plain", None)
    yield made
    made.close()


@pytest.fixture(scope="session")
def cached_shards(cluster: Cluster) -> Iterator[Across]:
    # Near answers have kinds of their own; here they would keep a thread beside all tests that follow in the process.
    cache = CacheSettings(url=cluster.cache.url, near=False, connect_timeout_ms=5_000, read_timeout_ms=5_000)
    made = Across(cluster, "cached", cache)
    yield made
    calls = made.gate.stats().methods.values()
    made.close()
    most = max((counted.calls for counted in calls), default=0)
    assert most < 30 or any(counted.served > 0 for counted in calls), "the cache answered nothing"


@pytest.fixture
def oracle(cached_shards: Across, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Oracle]:
    """A gate on three shards, and one database beside it with the same rows."""
    made = Oracle(cached_shards, database_url, monkeypatch)
    yield made
    made.close()
    cached_shards.empty()


def _on_shards(kind: str, request: pytest.FixtureRequest) -> Across:
    found: Across = request.getfixturevalue("cached_shards" if kind.endswith("cached") else "shards")
    return found


@pytest.fixture
def session_maker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sessionmaker[Session]]:
    if request.param in SHARDED:
        made = _on_shards(request.param, request)
        yield made.sessions
        made.empty()
        return
    engine = _engine(request.param, tmp_path, request)
    if request.param == "sqlite-memory":
        Base.metadata.create_all(engine)
    yield sessionmaker(engine)
    engine.dispose()


class Behind:
    """Makes the repositories that a test is about, plain or behind a gate.

    Args:
        session_maker: for them.
        gate: whose they are; None: plain ones.
        twice: make each cached read a second time.
    """

    def __init__(self, session_maker: sessionmaker[Session], gate: tidegate.Gate | None, *, twice: bool) -> None:
        self.session_maker = session_maker
        self.gate = gate
        self._twice = twice
        self.compared = 0
        self._pushes = None if gate is None else gate._parts.pushes
        if isinstance(self._pushes, RedisPushes):
            self._pushes.beat_s = 0.002

    @property
    def engine(self) -> Engine:
        """Where the rows of the tenant TENANT are written."""
        if self.gate is not None:
            return self.gate._shards.of_tenant(TENANT).engine
        engine: Engine = self.session_maker.kw["bind"]
        return engine

    def session(self, tenant: str | None = TENANT) -> AbstractContextManager[Session]:
        """What a caller of the repositories has a session from: of one tenant, or of none yet."""
        return self.session_maker() if self.gate is None or tenant is None else self.gate.session(tenant)

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

    def executions(self, user: Any, app_id: str, triggered_from: Any) -> SQLAlchemyWorkflowExecutionRepository:
        if self.gate is None:
            return SQLAlchemyWorkflowExecutionRepository(self.session_maker, user, app_id, triggered_from)
        return self.gate.workflow_executions(user, app_id, triggered_from)

    def node_executions(self, user: Any, app_id: str, triggered_from: Any) -> SQLAlchemyWorkflowNodeExecutionRepository:
        if self.gate is None:
            return SQLAlchemyWorkflowNodeExecutionRepository(self.session_maker, user, app_id, triggered_from)
        return self.gate.workflow_node_executions(user, app_id, triggered_from)

    def _gated(self, repository: Any) -> Any:
        assert self.gate is not None
        adopted = self.gate.adopt(repository, self.session_maker)
        layer: Layer = adopted.tidegate_binding.layer

        def there_too(call: Call) -> Answer:
            if self.compared == 0 and isinstance(call.policy, Read) and call.policy.guard and call.tenant is not None:
                self._compare(call, layer)
            return layer(call)

        def twice(call: Call) -> Answer:
            if self._pushes is not None:
                assert self._pushes.caught_up(patient(10))
            if isinstance(call.policy, Read) and call.policy.guard is not None:
                layer(call)
            return layer(call)

        if self.gate._shards.every[0].nodes is not None:
            adopted.tidegate_binding = adopted.tidegate_binding._replace(layer=there_too)
        elif self._twice:
            adopted.tidegate_binding = adopted.tidegate_binding._replace(layer=twice)
        return adopted

    def _compare(self, call: Call, layer: Layer) -> None:
        """See that the answer of now, which replicas are too late for, is the one that they give later."""
        assert self.gate is not None
        shard = self.gate._shards.every[0]
        nodes, routing = shard.nodes, shard.routing
        assert nodes is not None
        position = shard.primary.transaction("")[1]
        at_once = outcome(lambda: layer(call).value)
        nodes.ensure_started()

        def reached() -> bool:
            nodes.want()
            views = [node.view for node in nodes.topology.replicas]
            return all(view is not None and view.position.reached(position) for view in views)

        wait_for(reached, "the replicas show what was written")
        # Below the cache, which would answer.
        below, nodes_asked = Telemetry(self.gate._parts.counters, routing), []

        def later() -> object:
            answer = below(call)
            nodes_asked.append(answer.node)
            return answer.value

        assert outcome(later) == at_once
        assert nodes_asked != [nodes.topology.primary.name] or self.gate._parts.store is not None
        self.compared += 1


@pytest.fixture
def behind(session_maker: sessionmaker[Session], request: pytest.FixtureRequest) -> Iterator[Behind]:
    kind = request.node.callspec.params["session_maker"]
    if kind in DATABASES:
        yield Behind(session_maker, None, twice=False)
        return
    if kind in SHARDED:
        on = _on_shards(kind, request).gate
        yield Behind(on.session_maker, on, twice=kind.endswith("cached"))
        return
    if kind in REPLICAS:
        with _gate_with_replicas(session_maker, request, cached=kind.endswith("cached")) as gate:
            made = Behind(session_maker, gate, twice=False)
            yield made
            count(request.config, kind, gate, made.compared)
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    cache = CacheSettings(
        url=cluster.cache.url,
        near=kind.endswith(("near", "bounded")),
        near_modes={"all": "bounded"} if kind.endswith("bounded") else {},
        connect_timeout_ms=5_000,
        read_timeout_ms=5_000,
        transaction_timeout_s=0,
    )
    with tidegate.gate_on(session_maker.kw["bind"], session_maker, tidegate.Settings(cache=cache)) as gate:
        yield Behind(session_maker, gate, twice=not kind.endswith("cold"))


@pytest.fixture
def across(behind: Behind) -> Behind:
    """The same, for tests in which a cache would have no part."""
    return behind


def _gate_with_replicas(
    session_maker: sessionmaker[Session], request: pytest.FixtureRequest, *, cached: bool
) -> tidegate.Gate:
    cluster: Cluster = request.getfixturevalue("late_databases")[0]
    engine = session_maker.kw["bind"]
    urls = [f"{replica.url.rpartition('/')[0]}/{engine.url.database}" for replica in cluster.shards[0].replicas]
    named = ShardSettings(
        name="s0",
        primary=cluster.shards[0].primary.url,
        replicas=tuple(ReplicaSettings(url=url) for url in urls),
    )
    url = cluster.cache.url if cached else None
    cache = CacheSettings(url=url, connect_timeout_ms=5_000, read_timeout_ms=5_000)
    routing = RoutingSettings(silent_ms=60_000, answer_ms=30_000)  # however busy the machine is
    return tidegate.gate_on(engine, session_maker, tidegate.Settings(shards=(named,), cache=cache, routing=routing))


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
