"""How many functions of Python a call runs on its way through the gate: what it costs, on any machine.

Time is measured by ``tidegate demo``; here is what most of it goes with.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from real_servers.printed_numbers import show
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

import tidegate
from tidegate.cache.events import Served
from tidegate.proxy.settings import CacheSettings, Settings
from tidegate.repositories.policies import PolicyTable, Read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType

    from sqlalchemy import Engine

    from tidegate.proxy.embedded import Cluster
    from tidegate.proxy.gate import Gate

TENANT, APP = (f"{n}f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10" for n in range(2))
HIT, NEAR, OFF = 52, 30, 20
"""The most that there may be: for an answer of the cache server, for one of this process, and with the cache off."""


class Idle:
    """Does nothing, so that only the gate is counted."""

    def __init__(self, session_maker: Any) -> None:
        self.session_maker = session_maker

    def read(self, tenant_id: str, app_id: str) -> None:
        """Do nothing."""


POLICIES = PolicyTable({"read": Read(guard="app:{app_id}")}, ids=frozenset({"tenant_id", "app_id"}))


def calls_of(call: Callable[[], object]) -> Counter[CodeType]:
    """The functions of Python that *call* runs in this thread."""
    found: Counter[CodeType] = Counter()

    def note(frame: Any, happened: str, _arg: object) -> None:
        if happened == "call":
            found[frame.f_code] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return found


def least(call: Callable[[], object]) -> int:
    """What most calls run: some also look at what is due now and then."""
    counts = [calls_of(call) for _ in range(20)]
    fewest = min(counts, key=Counter.total)
    for code, times in fewest.most_common():
        show(f"{code.co_filename.rpartition('/')[2]}:{code.co_qualname}", f"{times}")
    show("in all", f"{fewest.total()}")
    return fewest.total()


@pytest.fixture
def engine(tables_url: str) -> Iterator[Engine]:
    made = create_engine(tables_url)
    yield made
    made.dispose()


@pytest.fixture
def gates(engine: Engine, cluster: Cluster) -> Iterator[Callable[..., Gate]]:
    made: list[Gate] = []
    events: list[Any] = []

    def make(**cache: Any) -> Gate:
        waits: dict[str, Any] = {"connect_timeout_ms": 5_000, "read_timeout_ms": 5_000}
        settings = Settings(cache=CacheSettings(url=cluster.cache.url, **(waits | cache)))
        made.append(tidegate.gate_on(engine, sessionmaker(engine), settings, observe=events.append))
        return made[-1]

    make.events = events  # type: ignore[attr-defined]
    yield make
    for gate in made:
        gate.close()


def warmed(gates: Any, gate: Gate, where: str) -> Callable[[], object]:
    """A call that the cache answers from there."""

    def call() -> object:
        return gate.workflow_runs.get_paginated_workflow_runs(TENANT, APP, "app-run")  # type: ignore[arg-type]

    for _ in range(50):
        gates.events.clear()
        call()
        if [event.where for event in gates.events if isinstance(event, Served)] == [where]:
            call()
            return call
    pytest.fail(f"never answered from the {where}: {gates.events}")


def test_a_hit_runs_few_functions(gates: Any) -> None:
    assert least(warmed(gates, gates(near=False), "store")) <= HIT


def test_a_near_answer_runs_few_functions(gates: Any) -> None:
    gate = gates(near=True, near_modes={"all": "bounded"})
    assert least(warmed(gates, gate, "near")) <= NEAR


def test_a_call_with_the_cache_off_runs_few_functions(gates: Any) -> None:
    gate = gates(near=False, off=("all",))
    repository: Any = gate.wrap(Idle, POLICIES, ())(gate.session_maker)
    assert least(lambda: repository.read(TENANT, APP)) <= OFF
