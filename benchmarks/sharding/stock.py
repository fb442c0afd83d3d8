"""The databases that gates on shards are compared on: one that has all rows, and three that have them between them."""

from __future__ import annotations

import uuid
from hashlib import md5
from random import Random
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import ARRAY, String, bindparam, create_engine, make_url, text

import tidegate
from tidegate.benchmarks.data.population import random_uuid
from tidegate.proxy.settings import CacheSettings, Settings, ShardSettings
from tidegate.repositories.indexes import create_indexes
from tidegate.repositories.models import Base
from tidegate.routing.sharding.shard_map import even_map

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Engine

    from tidegate.proxy.embedded import Cluster
    from tidegate.proxy.gate import Gate

ONE: Final = "one"
SHARDS: Final = ("s0", "s1", "s2")
TENANTS: Final = 48
_WAIT_MS: Final = 2_000  # a benchmark shares its machine: a late answer is a slow call here, and no failure

# The runs of all tenants with the same number have the same second, so that pages have ties, across shards too.
_RUNS: Final = """
INSERT INTO workflow_runs (id, tenant_id, app_id, workflow_id, type, triggered_from, version, graph, inputs, outputs,
                           status, created_by_role, created_by, created_at)
SELECT CAST(md5('run' || tenant || number) AS uuid), CAST(tenant AS uuid), CAST(md5('app' || tenant) AS uuid),
       CAST(md5('workflow' || tenant) AS uuid), 'workflow', 'app-run', '1', repeat(md5(tenant), 40), '{}', '{}',
       'succeeded', 'account', CAST(md5('user' || tenant) AS uuid),
       TIMESTAMP '2026-01-01' + number * INTERVAL '1 second'
FROM unnest(:tenants) tenant, generate_series(1, :each) number
"""
_NODES: Final = """
INSERT INTO workflow_node_executions (id, tenant_id, app_id, workflow_id, triggered_from, workflow_run_id, index,
                                      node_id, node_type, title, status, created_by_role, created_by, created_at)
SELECT CAST(md5('node' || id) AS uuid), tenant_id, app_id, workflow_id, 'workflow-run', id, 1,
       'start', 'start', 'Start', status, created_by_role, created_by, created_at FROM workflow_runs
"""


class Stock:
    """Make the databases, all on the first server of *cluster*; they end with it.

    Args:
        cluster: a cluster that runs.
        rows: how many runs there are in all.
        seed: decides the ids.
    """

    def __init__(self, cluster: Cluster, rows: int, seed: int) -> None:
        rng = Random(f"{seed}:shards")  # noqa: S311  # data, not secrets
        self.tenants = [random_uuid(rng) for _ in range(TENANTS)]
        self.each = max(1, rows // TENANTS)
        self.home = {tenant: even_map(SHARDS).ownership(tenant).shard for tenant in self.tenants}
        self._cache_url = cluster.cache.url
        self._urls: dict[str, str] = {}
        primary = cluster.shards[0].primary
        for name in (ONE, *SHARDS):
            primary.execute(f"CREATE DATABASE {name}", database="postgres")
            self._urls[name] = make_url(primary.url).set(database=name).render_as_string(hide_password=False)
            mine = [tenant for tenant in self.tenants if name in (ONE, self.home[tenant])]
            _fill(self._urls[name], mine, self.each)

    def run(self, tenant: str, number: int) -> str:
        """Return the id of a tenant's run; each tenant has :attr:`each` runs, counted from 1."""
        return _id(f"run{tenant}{number}")

    def node(self, run_id: str) -> str:
        """Return the id of the one node execution of a run."""
        return _id(f"node{run_id}")

    def app(self, tenant: str) -> str:
        """Return the id of a tenant's only app."""
        return _id(f"app{tenant}")

    def gate(self, names: Sequence[str], cache: Mapping[str, Any] | None) -> Gate:
        """Make a gate on some of the databases, with a cache of these settings; None: with no cache."""
        waits: dict[str, Any] = {"connect_timeout_ms": _WAIT_MS, "read_timeout_ms": _WAIT_MS}
        cached = CacheSettings() if cache is None else CacheSettings(url=self._cache_url, **waits, **cache)
        shards = tuple(ShardSettings(name=name, primary=self._urls[name]) for name in names)
        return tidegate.connect(Settings(shards=shards, cache=cached))

    def several(self, cache: Mapping[str, Any] | None = None) -> Gate:
        """Make a gate on all shards."""
        return self.gate(SHARDS, cache)

    def one(self, cache: Mapping[str, Any] | None = None) -> Gate:
        """Make a gate on the database that has all the rows."""
        return self.gate((ONE,), cache)


def _fill(url: str, tenants: Sequence[str], each: int) -> None:
    engine = create_engine(url)
    try:
        Base.metadata.create_all(engine)
        with engine.begin() as connection:
            runs = text(_RUNS).bindparams(bindparam("tenants", type_=ARRAY(String)))
            connection.execute(runs, {"tenants": list(tenants), "each": each})
            connection.execute(text(_NODES))
        create_indexes(engine)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE workflow_runs, workflow_node_executions"))
    finally:
        engine.dispose()


def _id(text_: str) -> str:
    return str(uuid.UUID(md5(text_.encode(), usedforsecurity=False).hexdigest()))


def engines_of(gate: Gate) -> Mapping[str, Engine]:
    """Return the engine of each shard's primary, by the shard's name."""
    return {shard.name: shard.engine for shard in gate._shards.every}  # noqa: SLF001  # what nobody else has to count
