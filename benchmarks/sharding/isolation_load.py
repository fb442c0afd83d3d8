"""Threads that call for tenants of two shards at the same time, and the connections that they take."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from tidegate.benchmarks.sharding.stock import engines_of
from tidegate.errors import BenchmarkError, TidegateError
from tidegate.repositories.models import WorkflowRun

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import ExitStack

    from tidegate.proxy.gate import Gate

WELL: Final = "s0"
ILL: Final = "s1"
CALLERS: Final = {WELL: 2, ILL: 8}
"""How many threads call for each shard; for the shard that hangs, more than it has connections."""
PAUSES_S: Final = {WELL: 0.001, ILL: 0.05}
_WRITES: Final = 0.2
_LATEST: Final = 50
_PATIENCE_S: Final = 30.0


class Called(NamedTuple):
    """When a call began and how long it took, both in nanoseconds, and whether it was answered."""

    began_ns: int
    ns: int
    answered: bool


class Load:
    """Run threads that call for tenants of both shards, each one call after another.

    Args:
        gate: the gate that they call.
        ids: tenant, app and run of each tenant, by shard.
        rng: decides what they ask.
    """

    def __init__(self, gate: Gate, ids: Mapping[str, Sequence[tuple[str, str, str]]], rng: Random) -> None:
        self._gate = gate
        self._ids = ids
        self._stop = threading.Event()
        self._may_call = {shard: threading.Event() for shard in CALLERS}
        self._calls: dict[str, list[list[Called]]] = {shard: [[] for _ in range(n)] for shard, n in CALLERS.items()}
        self._threads = [
            threading.Thread(target=self._run, args=(shard, calls, Random(rng.random())), daemon=True)  # noqa: S311
            for shard, of_all in self._calls.items()
            for calls in of_all
        ]

    def start(self) -> None:
        """Start the threads, and return when every one of them has been answered."""
        for shard in CALLERS:
            self._may_call[shard].set()
        for thread in self._threads:
            thread.start()
        self.wait_answered(0)

    def stop(self) -> None:
        """End the threads, and return when the last call has ended.

        Raises:
            BenchmarkError: a call does not end within half a minute: it would be missing in what was measured.
        """
        self._stop.set()
        for may_call in self._may_call.values():
            may_call.set()
        for thread in self._threads:
            thread.join(_PATIENCE_S)
        if any(thread.is_alive() for thread in self._threads):
            raise BenchmarkError(f"this did not happen within {_PATIENCE_S:g} s: the last calls end")

    @contextmanager
    def without(self, shard: str) -> Iterator[None]:
        """Make no new calls for tenants of a shard while the block runs; calls that have begun go on."""
        self._may_call[shard].clear()
        try:
            yield
        finally:
            self._may_call[shard].set()

    def of(self, shard: str) -> list[Called]:
        """Return all calls for tenants of a shard."""
        return [call for calls in self._calls[shard] for call in list(calls)]

    def between(self, shard: str, began_ns: int, ended_ns: int) -> list[Called]:
        """Return the calls for tenants of a shard that began in that time."""
        return [call for call in self.of(shard) if began_ns <= call.began_ns < ended_ns]

    def wait_answered(self, since_ns: int) -> None:
        """Return when every thread has been answered a call that began after *since_ns*.

        Raises:
            BenchmarkError: one of them has not been within half a minute.
        """
        until_s = time.monotonic() + _PATIENCE_S
        for of_all in self._calls.values():
            for calls in of_all:
                while not any(call.answered and call.began_ns > since_ns for call in reversed(calls[-_LATEST:])):
                    if time.monotonic() > until_s:
                        raise BenchmarkError(
                            f"this did not happen within {_PATIENCE_S:g} s: a shard that is well again answers"
                        )
                    time.sleep(0.002)

    def _run(self, shard: str, calls: list[Called], rng: Random) -> None:
        _calling_for.shard = shard
        while not self._stop.wait(PAUSES_S[shard]):
            self._may_call[shard].wait()
            began_ns = time.perf_counter_ns()
            try:
                self._call(rng, *rng.choice(self._ids[shard]))
                answered = True
            except (SQLAlchemyError, TidegateError):
                answered = False
            calls.append(Called(began_ns, time.perf_counter_ns() - began_ns, answered))

    def _call(self, rng: Random, tenant: str, app: str, run_id: str) -> None:
        if rng.random() < _WRITES:
            with self._gate.session(tenant) as session:
                session.get_one(WorkflowRun, run_id).total_tokens += 1
                session.commit()
        else:
            self._gate.workflow_runs.get_workflow_run_by_id(tenant, app, run_id)


@contextmanager
def loaded(gate: Gate, ids: Mapping[str, Sequence[tuple[str, str, str]]], rng: Random) -> Iterator[Load]:
    """Run a load (see :class:`Load`) while the block runs."""
    load = Load(gate, ids, rng)
    try:
        load.start()
        yield load
    finally:
        load.stop()


_calling_for = threading.local()


class Connections:
    """Count the connections that are taken from each shard's pool, and for whose tenants."""

    def __init__(self, gate: Gate, stack: ExitStack) -> None:
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.foreign = 0
        for shard, engine in engines_of(gate).items():
            self._listen(shard, engine, stack)

    def _listen(self, shard: str, engine: Any, stack: ExitStack) -> None:
        def taken(*_: Any) -> None:
            with self._lock:
                self._held[shard] += 1
                self.most[shard] = max(self.most[shard], self._held[shard])
                self.foreign += getattr(_calling_for, "shard", shard) != shard

        def given_back(*_: Any) -> None:
            with self._lock:
                self._held[shard] -= 1

        for name, told in (("checkout", taken), ("checkin", given_back)):
            event.listen(engine, name, told)
            stack.callback(event.remove, engine, name, told)
