"""Random sequences of every public method, on a gate and on plain repositories over the same database.

Reads are made on both and must not differ in anything that a caller can see. Writes go through one of them, or past
both through a watched session.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from real_servers.every_method import CACHED, READS, SESSION_READS, SESSION_WRITES, WRITES, every_method
from real_servers.gate_vs_plain_random import OUTSIDE, POOL, REASONS, Ids, Twins, save_node, save_run
from real_servers.printed_numbers import show
from sqlalchemy import create_engine

import tidegate
from tidegate.proxy.settings import CacheSettings, ShardSettings
from tidegate.repositories.indexes import create_indexes
from tidegate.repositories.models import Base, WorkflowRun

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.proxy.embedded import Cluster

STEPS_A_SEQUENCE: Final = 50
IN_CI: Final = 7

ACTIONS: Final = [
    *(f"read {method}" for method in (*READS, *SESSION_READS)),
    *(f"write {method}" for method in (*WRITES, *SESSION_WRITES)),
    *(f"outside {name}" for name in OUTSIDE),
    *(f"unpause {method}" for method in ("resume_workflow_pause", "delete_workflow_pause")),
    *(f"invalidate {what}" for what in ("tenant", "app", "run")),
    *["save run", "save node", "outside restore", "outside change"] * 3,
    *["pause", "archive", "unpause delete_workflow_pause"] * 2,
]
INDEX = st.integers(0, POOL - 1)


class Calls(RuleBasedStateMachine):
    """One sequence."""

    twins: Twins

    def __init__(self) -> None:
        super().__init__()
        self.ids = Ids()
        self.turn = 0
        for n in range(4):
            save_run(self.twins, self.ids, n, n)
            save_node(self.twins, self.ids, n, n)

    @rule(action=st.sampled_from(ACTIONS), n=INDEX, m=INDEX)
    def do(self, action: str, n: int, m: int) -> None:
        # One rule for all: of several, Hypothesis leaves some out for whole sequences.
        kind, _, name = action.partition(" ")
        self.twins.counted["steps"] += 1
        self.twins.counted[f"steps: {kind}"] += 1
        getattr(self, f"_{kind}")(name, n, m)

    @invariant()
    def nothing_cached_differs(self) -> None:
        # Two of the cached reads, in turn: so whatever a step changes, what was cached before it is read after it.
        for _ in range(2):
            self.turn += 1
            method, n = CACHED[self.turn % len(CACHED)], self.turn // len(CACHED)
            self.twins.compare(method, READS[method](self.ids, n % 3, 1), in_session=False)

    def _read(self, method: str, n: int, m: int) -> None:
        in_session = method in SESSION_READS
        arguments = (SESSION_READS if in_session else READS)[method](self.ids, n, m)
        self.twins.compare(method, arguments, in_session=in_session)

    def _write(self, method: str, n: int, m: int) -> None:
        in_session = method in SESSION_WRITES
        arguments = (SESSION_WRITES if in_session else WRITES)[method](self.ids, n, m)
        self.twins.write(method, arguments, m, in_session=in_session)

    def _save(self, what: str, n: int, m: int) -> None:
        (save_node if what == "node" else save_run)(self.twins, self.ids, n, m)

    def _outside(self, name: str, n: int, m: int) -> None:
        with self.twins.gate.session(self.ids.tenant(n)) as session:
            OUTSIDE[name](session, self.ids, n, m)
            if m != POOL - 1:  # else rolled back
                session.commit()

    def _archive(self, _name: str, n: int, m: int) -> None:
        with self.twins.maker() as session:
            run = session.get(WorkflowRun, self.ids.run(n))
            logs = self.twins.writers[m % 2][0].get_app_logs_by_run_id(session, self.ids.run(n))
            if run is not None:
                self.twins.write("create_archive_logs", (run, logs, None), m, in_session=True)

    def _pause(self, _name: str, n: int, m: int) -> None:
        with self.twins.gate.session(self.ids.tenant(n)) as session:
            if (run := session.get(WorkflowRun, self.ids.run(n))) is not None and m != POOL - 1:
                run.status = "running"
                session.commit()
        arguments = (self.ids.run(n), self.ids.app(n), f"state {m}", REASONS[: 1 + m % 2])
        self.twins.write("create_workflow_pause", arguments, m, in_session=False)
        self._read("get_workflow_pause", n, m)

    def _unpause(self, method: str, n: int, m: int) -> None:
        self._pause(method, n, 0)
        if m == 1:  # a pause that another one of that run is about to replace
            n += 1
        try:
            pause = self.twins.read("plain", "get_workflow_pause", (self.ids.run(n),))
        except ValueError:
            return
        if pause is not None:
            arguments = (pause,) if method == "delete_workflow_pause" else (self.ids.run(n), pause)
            self.twins.write(method, arguments, m, in_session=False)

    def _invalidate(self, what: str, n: int, _m: int) -> None:
        named: dict[str, Any] = {
            "tenant": {},
            "app": {"app_id": self.ids.app(n)},
            "run": {"run_id": self.ids.run(n)},
        }[what]
        self.twins.gate.invalidate(self.ids.tenant(n), **named)


@pytest.fixture(params=["near", pytest.param("far", marks=pytest.mark.soak)])
def twins(request: pytest.FixtureRequest, database_url: str, cluster: Cluster) -> Iterator[Twins]:
    engine = create_engine(database_url)
    Base.metadata.create_all(engine)
    create_indexes(engine)
    engine.dispose()
    cluster.cache.flush()
    cache = CacheSettings(
        url=cluster.cache.url,
        near=request.param == "near",
        blob_bytes=256,
        connect_timeout_ms=5_000,
        read_timeout_ms=5_000,
    )
    shards = (ShardSettings(name="s0", primary=database_url),)
    both = Twins(database_url, tidegate.Settings(shards=shards, cache=cache))
    yield both
    both.close()


@pytest.mark.parametrize(
    "sequences", [IN_CI, pytest.param(260, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])], ids=["ci", "soak"]
)
def test_a_gate_answers_as_the_plain_repositories_do(sequences: int, twins: Twins) -> None:
    Calls.twins = twins
    run_state_machine_as_test(
        Calls,
        settings=settings(
            max_examples=sequences,
            stateful_step_count=STEPS_A_SEQUENCE,
            deadline=None,
            database=None,
            derandomize=sequences == IN_CI,
            # A sequence takes a second: to shrink one takes longer than CI has.
            phases=[Phase.generate] if sequences == IN_CI else [Phase.generate, Phase.shrink],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            verbosity=Verbosity.quiet,
        ),
    )
    steps = Counter({name: n for name, n in twins.counted.items() if name.startswith("steps: ")})
    show("steps", steps)
    show("all", Counter(twins.counted))
    assert every_method() <= set(twins.counted), every_method() - set(twins.counted)
    assert twins.counted["Served"] > twins.counted["steps"]
    assert twins.counted["steps"] > sequences * STEPS_A_SEQUENCE / 2
