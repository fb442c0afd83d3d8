"""The rows: a seeded generator that makes them in chunks, one by one in any order, and the same each time."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING, Any, Final

from tidegate.benchmarks.data.graphs import Graph, make_graph
from tidegate.benchmarks.data.node_rows import node_rows
from tidegate.benchmarks.data.population import App, Population, Workflow, random_uuid
from tidegate.benchmarks.data.prose import Prose
from tidegate.repositories.base import checked_count
from tidegate.repositories.enums import CreatorUserRole, WorkflowType
from tidegate.repositories.enums import WorkflowExecutionStatus as Status
from tidegate.repositories.enums import WorkflowRunTriggeredFrom as Source

if TYPE_CHECKING:
    from collections.abc import Mapping

LEAST_RUNS: Final = 200
MOST_RUNS: Final = 10_000_000
WEBHOOK_RUNS: Final = 25
"""How many runs of the whale's main app, and of its quiet app, a webhook started."""
PAUSED_RUNS: Final = 10
"""How many runs of the whale's main app are paused."""
CHUNK_RUNS: Final = 250
RUN_COLUMNS: Final = (
    *("id", "tenant_id", "app_id", "workflow_id", "type", "triggered_from", "version", "graph", "inputs", "status"),
    *("outputs", "error", "elapsed_time", "total_tokens", "total_steps", "created_by_role", "created_by"),
    *("created_at", "finished_at", "exceptions_count"),
)
START: Final = datetime(2026, 1, 1)  # noqa: DTZ001  # the columns are naive UTC
SPAN: Final = timedelta(days=90)
_GRAPHS_KEPT: Final = 512
_BURSTS: Final = 0.01
_LARGEST_BURST: Final = 25
_VERSION_BEHIND: Final = 0.1
_LEAST_VALUE_BYTES: Final = 200
_MOST_VALUE_BYTES: Final = 20_000

Row = tuple[Any, ...]


@dataclass(slots=True)
class Chunk:
    """Some runs with their node executions and offloads; each row is in the order of its table's columns."""

    runs: list[Row] = field(default_factory=list)
    nodes: list[Row] = field(default_factory=list)
    offloads: list[Row] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Origin:
    """What starts one run, and how it ends."""

    app: App
    source: Source
    status: Status
    created_at: datetime


class _Law:
    """Choose among values, each with its share."""

    def __init__(self, shares: Mapping[Any, float]) -> None:
        self._values = list(shares)
        self._weights = list(accumulate(shares.values()))

    def pick(self, rng: Random) -> Any:
        return rng.choices(self._values, cum_weights=self._weights)[0]


_MAIN_SOURCES: Final = _Law({Source.APP_RUN: 0.88, Source.DEBUGGING: 0.08, Source.SCHEDULE: 0.03, Source.PLUGIN: 0.01})
_SOURCES: Final = _Law(
    {
        Source.APP_RUN: 0.8,
        Source.DEBUGGING: 0.1,
        Source.SCHEDULE: 0.05,
        Source.PLUGIN: 0.03,
        Source.WEBHOOK: 0.02,
    }
)
_RAG_SOURCES: Final = _Law({Source.RAG_PIPELINE_RUN: 0.8, Source.RAG_PIPELINE_DEBUGGING: 0.2})
_STATES: Final = {
    Status.SUCCEEDED: 0.9,
    Status.FAILED: 0.063,
    Status.PARTIAL_SUCCEEDED: 0.02,
    Status.STOPPED: 0.012,
    Status.RUNNING: 0.003,
    Status.SCHEDULED: 0.002,
}
_MAIN_STATES: Final = _Law(_STATES)
_OTHER_STATES: Final = _Law(_STATES | {Status.PAUSED: 0.001})


class DataSet:
    """Make *runs* runs with their node executions. The same *runs* and *seed* give the same rows, byte for byte.

    Args:
        runs: how many runs, from 200 to 10,000,000.
        seed: any whole number from 0 to 2**63 - 1.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, runs: int, seed: int) -> None:
        self.runs = checked_count("runs", runs, LEAST_RUNS, MOST_RUNS)
        self.seed = checked_count("seed", seed, 0, 2**63 - 1)
        self.population = Population(runs, seed)
        self._prose = Prose(seed)
        self._graph = lru_cache(maxsize=_GRAPHS_KEPT)(self._make_graph)
        self._rare = self._rare_positions()

    @property
    def chunks(self) -> range:
        """Return the numbers of all chunks."""
        return range(-(-self.runs // CHUNK_RUNS))

    def chunk(self, number: int) -> Chunk:
        """Make one chunk; its runs are later than those of the chunks before it."""
        rng = self._rng("chunk", number)
        made = Chunk()
        for origin in self._origins(rng, number):
            workflow = _workflow_of(rng, origin)
            graph = self._graph(workflow)
            run = self._run(rng, origin, workflow, graph)
            made.runs.append(tuple(run[column] for column in RUN_COLUMNS))
            nodes, offloads = node_rows(rng, self._prose, run, graph)
            made.nodes.extend(nodes)
            made.offloads.extend(offloads)
        return made

    def _rare_positions(self) -> dict[int, tuple[App, Source, Status]]:
        """Return the rare runs by position: as many of each kind in any data set, spread over the time of its app."""
        main, quiet, unit = self.population.main_app, self.population.quiet_app, self.runs / (2 * WEBHOOK_RUNS)
        paused = {int((5 * i + 1.25) * unit): (main, Source.APP_RUN, Status.PAUSED) for i in range(PAUSED_RUNS)}
        webhooks = {int((2 * i + 1) * unit): (main, Source.WEBHOOK, Status.SUCCEEDED) for i in range(WEBHOOK_RUNS)}
        # The kinds have different fractions of the unit, so that no run is of two kinds.
        until_quiet = {int((i + 0.75) * unit): (quiet, Source.WEBHOOK, Status.SUCCEEDED) for i in range(WEBHOOK_RUNS)}
        return paused | webhooks | until_quiet

    def _rng(self, *names: object) -> Random:
        return Random(":".join(map(str, (self.seed, *names))))  # noqa: S311  # data, not secrets

    def _make_graph(self, workflow: Workflow) -> Graph:
        return make_graph(self._rng("graph", workflow.id), self._prose, workflow.graph_bytes)

    def _origins(self, rng: Random, number: int) -> list[Origin]:
        positions = range(number * CHUNK_RUNS, min((number + 1) * CHUNK_RUNS, self.runs))
        of_whale = self._positions_of_whale(rng, positions)
        origins = []
        burst_left, burst_app, time = 0, self.population.main_app, START
        for position in positions:
            if burst_left:
                burst_left -= 1
            else:
                time = self._time(rng, position)
                if rng.random() < _BURSTS:
                    burst_left, burst_app = rng.randint(1, _LARGEST_BURST - 1), self.population.other_app(rng)
            if position not in of_whale:
                app = burst_app if burst_left else self.population.other_app(rng)
            else:
                app = self.population.main_app if burst_left else self._whale_app(rng, position)
            origins.append(self._origin(rng, position, app, time))
        return origins

    def _whale_app(self, rng: Random, position: int) -> App:
        app = self.population.whale_app(rng)
        return self.population.main_app if app is self.population.quiet_app and position >= self.runs // 2 else app

    def _positions_of_whale(self, rng: Random, positions: range) -> set[int]:
        """Return exactly half of the positions, and among them those of the rare runs."""
        rare = {position for position in positions if position in self._rare}
        rest = [position for position in positions if position not in rare]
        return rare | set(rng.sample(rest, max(0, len(positions) // 2 - len(rare))))

    def _time(self, rng: Random, position: int) -> datetime:
        share = (position + rng.random()) / self.runs
        return START + timedelta(microseconds=int(share * SPAN / timedelta(microseconds=1)))

    def _origin(self, rng: Random, position: int, app: App, time: datetime) -> Origin:
        if position in self._rare:
            return Origin(*self._rare[position], time)
        known = app in (self.population.main_app, self.population.quiet_app)
        sources = _MAIN_SOURCES if known else _RAG_SOURCES if app.kind is WorkflowType.RAG_PIPELINE else _SOURCES
        states = _MAIN_STATES if known else _OTHER_STATES
        return Origin(app, sources.pick(rng), states.pick(rng), time)

    def _run(self, rng: Random, origin: Origin, workflow: Workflow, graph: Graph) -> dict[str, Any]:
        app, status = origin.app, origin.status
        elapsed_s = round(rng.lognormvariate(1.0, 1.0), 6)
        failed = status in {Status.FAILED, Status.PARTIAL_SUCCEEDED}
        debugged = origin.source in {Source.DEBUGGING, Source.RAG_PIPELINE_DEBUGGING}
        return {
            "id": random_uuid(rng),
            "tenant_id": app.tenant_id,
            "app_id": app.id,
            "workflow_id": workflow.id,
            "type": app.kind.value,
            "triggered_from": origin.source.value,
            "version": workflow.version,
            "graph": graph.text,
            "inputs": self._value(rng, "query", 900),
            "status": status.value,
            "outputs": self._value(rng, "text", 1_200) if status.is_ended() else "{}",
            "error": self._prose.cut(rng, rng.randint(40, 300)) if failed else None,
            "elapsed_time": elapsed_s if status.is_ended() else 0.0,
            "total_tokens": int(rng.lognormvariate(7.0, 1.0)),
            "total_steps": 1 + min(29, int(rng.expovariate(1 / 1.6))),
            "created_by_role": (CreatorUserRole.ACCOUNT if debugged else CreatorUserRole.END_USER).value,
            "created_by": random_uuid(self._rng("creator", app.id, int(app.creators * rng.random() ** 3))),
            "created_at": origin.created_at,
            "finished_at": origin.created_at + timedelta(seconds=elapsed_s) if status.is_ended() else None,
            "exceptions_count": int(status is Status.PARTIAL_SUCCEEDED),
        }

    def _value(self, rng: Random, key: str, median_bytes: int) -> str:
        frame = {key: "", "files": [], "sys.user_id": random_uuid(rng), "sys.locale": rng.choice(("en-US", "zh-Hans"))}
        wanted = min(max(int(rng.lognormvariate(0, 1.1) * median_bytes), _LEAST_VALUE_BYTES), _MOST_VALUE_BYTES - 1_000)
        frame[key] = self._prose.cut(rng, max(80, wanted - len(json.dumps(frame))))
        return json.dumps(frame, ensure_ascii=False)


def _workflow_of(rng: Random, origin: Origin) -> Workflow:
    """Return the draft if the run is debugged; else the version of that time, or for some callers the one before."""
    draft, *published = origin.app.workflows
    if origin.source in {Source.DEBUGGING, Source.RAG_PIPELINE_DEBUGGING}:
        return draft
    newest = int((origin.created_at - START) / SPAN * len(published))
    return published[max(0, min(newest, len(published) - 1) - (rng.random() < _VERSION_BEHIND))]
