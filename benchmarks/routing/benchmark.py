"""The routing's part of the benchmark, on a primary with two replicas of its own; two of these servers are killed."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import ExitStack, closing, contextmanager
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.exc import SQLAlchemyError

import tidegate
from tidegate.benchmarks.cache.floors import IDLE_POLICIES, Floor, Idle, each_prepared
from tidegate.benchmarks.cache.writes import run_values
from tidegate.benchmarks.data.population import random_uuid
from tidegate.benchmarks.routing.report import Failover, Killed, Offload, RoutingReport
from tidegate.benchmarks.timing import timing
from tidegate.errors import BenchmarkError, RoutingError
from tidegate.proxy.embedded import Cluster
from tidegate.proxy.settings import CacheSettings
from tidegate.repositories.models import Base, WorkflowRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidegate.benchmarks.progress import Steps
    from tidegate.benchmarks.routing.size import RoutingSize
    from tidegate.proxy.embedded import PostgresNode
    from tidegate.proxy.gate import Gate

ROUTING_US: Final = 10.0
OPERATIONS: Final = 200
"""How many calls a second the load has whose reads are counted by the server that answers them."""
WRITES: Final = 0.05
LAG_S: Final = 0.1
TENANTS: Final = 256
_PATIENCE_S: Final = 30.0
_WAIT_MS: Final = 2_000  # a benchmark shares its machine: a late answer is a slow call here, and no failure


class Connecting(Idle):
    """Take a connection and ask nothing, so that the cost of the events on the connection is measured too."""

    def read(self, tenant_id: str, app_id: str) -> None:  # noqa: ARG002  # as the policy has them
        """Begin a transaction without sending anything to a server."""
        with self.session_maker() as session:
            session.connection()


class RoutingBenchmark:
    """Measure everything about the routing.

    Args:
        size: how much is measured.
        seed: decides who is read and written.
        steps: shows what is being done.
    """

    def __init__(self, size: RoutingSize, seed: int, steps: Steps) -> None:
        self._size = size
        self._steps = steps
        self._rng = Random(f"{seed}:routing")  # noqa: S311  # a load, no secret
        self._runs = [self._ids() for _ in range(TENANTS)]
        self._weights = list(accumulate(1 / rank for rank in range(1, TENANTS + 1)))

    def run(self) -> RoutingReport:
        """Start the servers, measure, and end them.

        Raises:
            BenchmarkError: something did not happen in time.
            EmbeddedServerError: a server could not be started.
        """
        cluster = Cluster(replicas=2)
        with self._steps.step("starting a primary with two replicas"):
            cluster.start()
        with closing(cluster), self._gate(cluster) as gate:
            self._fill(gate)
            with self._steps.step("measuring what routing costs a call"):
                overheads = self._overheads(cluster)
            with self._steps.step(f"reading {OPERATIONS} times a second from replicas {LAG_S * 1000:.0f} ms behind"):
                offload = self._offload(gate, cluster)
            alive, killed = cluster.shards[0].replicas
            with self._steps.step("killing a replica among reads"):
                without_one = self._kill_replica(gate, killed)
            with self._steps.step("killing the primary, and promoting the other replica"):
                failover = self._kill_primary(gate, cluster.shards[0].primary, alive)
        return RoutingReport.of(overheads, offload, without_one, failover)

    def _ids(self) -> tuple[str, str, str]:
        return random_uuid(self._rng), random_uuid(self._rng), random_uuid(self._rng)

    def _any(self) -> tuple[str, str, str]:
        return self._rng.choices(self._runs, cum_weights=self._weights)[0]

    @contextmanager
    def _gate(self, cluster: Cluster) -> Iterator[Gate]:
        """Make a gate whose entries are switched off: marks say what a replica must have reached, and nodes answer."""
        marks = CacheSettings(
            url=cluster.cache.url, off=("all",), connect_timeout_ms=_WAIT_MS, read_timeout_ms=_WAIT_MS
        )
        with tidegate.connect(cluster.settings().model_copy(update={"cache": marks})) as gate:
            yield gate

    def _fill(self, gate: Gate) -> None:
        Base.metadata.create_all(gate.engine)
        rng = self._rng
        with gate.session_maker.begin() as session:
            for tenant, app, run in self._runs:
                values = run_values(tenant, app, random_uuid(rng), random_uuid(rng), run)
                session.add(WorkflowRun(**values))
        _until(lambda: all(self._read(gate, ids) is not None for ids in self._runs), "the runs can be read")

    def _read(self, gate: Gate, ids: tuple[str, str, str]) -> Any:
        return gate.workflow_runs.get_workflow_run_by_id(*ids)

    def _write(self, gate: Gate, ids: tuple[str, str, str]) -> None:
        tenant, _, run_id = ids
        with gate.session(tenant) as session:
            run = session.get_one(WorkflowRun, run_id)
            run.total_tokens += 1
            session.commit()

    def _overheads(self, cluster: Cluster) -> list[Floor]:
        """Compare a gate with replicas with one without, both with no cache: the difference is the routing."""
        settings = cluster.settings().model_copy(update={"cache": CacheSettings()})
        shard = settings.shards[0].model_copy(update={"replicas": ()})
        with ExitStack() as stack:
            routed = stack.enter_context(tidegate.connect(settings))
            alone = stack.enter_context(tidegate.connect(settings.model_copy(update={"shards": (shard,)})))
            ways = {"call that asks nothing": Idle, "call that takes a connection": Connecting}
            return [self._overhead(text, repository, routed, alone) for text, repository in ways.items()]

    def _overhead(self, text: str, repository: type[Idle], routed: Gate, alone: Gate) -> Floor:
        calls = {
            name: _calling(gate.wrap(repository, IDLE_POLICIES, ())(gate.session_maker), self._runs[0])
            for name, gate in (("routed", routed), ("alone", alone))
        }
        times = each_prepared(calls, lambda: None, self._size.rounds * 20)
        beside = "on the primary, no replicas"
        return Floor(
            f"{text}, routed to a replica", beside, times["routed"], times["alone"], ROUTING_US, difference=True
        )

    def _offload(self, gate: Gate, cluster: Cluster) -> Offload:
        for replica in cluster.shards[0].replicas:
            replica.delay(LAG_S)
        _until(lambda: all(self._read(gate, ids) is not None for ids in self._runs), "every tenant can be read")
        before, primary = Counter(gate.stats().nodes), _primary(gate)
        writes, began_s = 0, time.monotonic()
        due_s = began_s
        while due_s - began_s < self._size.seconds:
            due_s = max(due_s + self._rng.expovariate(OPERATIONS), time.monotonic() - 1)
            time.sleep(max(0.0, due_s - time.monotonic()))
            if self._rng.random() < WRITES:
                self._write(gate, self._any())
                writes += 1
            else:
                self._read(gate, self._any())
        seconds = time.monotonic() - began_s
        answered = Counter(gate.stats().nodes) - before
        for replica in cluster.shards[0].replicas:
            replica.delay(0)
        return Offload(answered.total(), writes, answered[primary], seconds)

    def _kill_replica(self, gate: Gate, killed: PostgresNode) -> Killed:
        before, failed_before = self._read_on(gate, self._size.seconds)
        killer = threading.Thread(target=killed.kill)
        killer.start()
        after, failed = self._read_on(gate, self._size.seconds)
        killer.join()
        return Killed(timing(before), timing(after), max(after) / 1e6, failed_before + failed)

    def _read_on(self, gate: Gate, seconds: float) -> tuple[list[int], int]:
        samples_ns: list[int] = []
        failed, until_s = 0, time.monotonic() + seconds
        while time.monotonic() < until_s:
            ids, began_ns = self._any(), time.perf_counter_ns()
            try:
                self._read(gate, ids)
            except (SQLAlchemyError, RoutingError):
                failed += 1
            samples_ns.append(time.perf_counter_ns() - began_ns)
        return samples_ns, failed

    def _kill_primary(self, gate: Gate, primary: PostgresNode, promoted: PostgresNode) -> Failover:
        began_s = time.monotonic()
        primary.kill()
        killed_s = time.monotonic()
        promoted.promote()
        promoted_s = time.monotonic()

        def written() -> bool:
            try:
                self._write(gate, self._runs[0])
            except (SQLAlchemyError, RoutingError):
                return False
            return True

        _until(written, "a write is taken on the promoted replica")
        written_s = time.monotonic()
        return Failover(killed_s - began_s, promoted_s - killed_s, written_s - promoted_s)


def _calling(repository: Any, ids: tuple[str, str, str]) -> Callable[[], object]:
    tenant, app, _ = ids
    return lambda: repository.read(tenant, app)


def _primary(gate: Gate) -> str:
    return f"{gate.engine.url.host}:{gate.engine.url.port}"


def _until(done: Callable[[], bool], what: str) -> None:
    """Try until *done* returns True.

    Raises:
        BenchmarkError: it does not within half a minute.
    """
    until_s = time.monotonic() + _PATIENCE_S
    while not done():
        if time.monotonic() > until_s:
            raise BenchmarkError(f"this did not happen within {_PATIENCE_S:g} s: {what}")
        time.sleep(0.002)
