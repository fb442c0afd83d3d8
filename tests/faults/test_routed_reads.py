"""Processes that write versions and read them back by every route, while replicas lag, die, restart and are promoted.

No read may be older than what its caller wrote or saw, than what anybody's COMMIT had returned for, or than what
anybody had seen before it began. Other rules read the same databases at the same moments: what they get wrong, and
what share of reads each sends to the primary, stands beside.

A machine that cannot keep the pace, or can keep a greater one in CI, runs the same in another time: operations a
second, lag, spikes, pauses and the rule's two seconds are scaled alike, so that the shares stay those of the full size.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest
from real_servers.printed_numbers import show
from real_servers.replica_faults import Fleet
from real_servers.shared_versions import Board
from real_servers.subprocesses import Child
from real_servers.versioned_tenant import Book
from real_servers.wrong_choosers import FORCED, LOST, ROUND_ROBIN, TWO_SECONDS
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from tidegate.proxy.embedded import Cluster
from tidegate.proxy.embedded.process import wait_for
from tidegate.repositories.indexes import create_indexes
from tidegate.repositories.models import Base

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TENANTS: Final = 256
OPERATIONS: Final = 200
LAG_S, SPIKE_S, AGAIN_S, PINNED_S = 0.1, 2.0, 1.0, 2.0
WORKERS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("routed", {"off": ["all"]}),
    ("routed", {"off": ["all"]}),
    ("cached", {"near": True}),
)
"""Whether the entries of the cache may answer, or only its marks are used, so that every read is routed to a node."""
CALLERS: Final = 4
_TRIAL: Final = 1_500


@dataclass(frozen=True)
class Size:
    """How many calls of reads, and how many times the pace above at most."""

    reads: int
    most_speed: float


CI: Final = Size(10_000, 4.0)
SOAK: Final = Size(200_000, 1.0)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster(replicas=2) as running:
        yield running


@pytest.fixture
def books(cluster: Cluster) -> list[Book]:
    engine = create_engine(cluster.shards[0].primary.url)
    Base.metadata.create_all(engine)
    create_indexes(engine)
    made = [Book.new() for _ in range(TENANTS)]
    with Session(engine) as session:
        session.add_all(book.first() for book in made)
        session.commit()
    engine.dispose()
    return made


class Run:
    """One run: the processes, and what befalls the servers meanwhile."""

    def __init__(self, cluster: Cluster, books: list[Book], size: Size, board: str, broken: str = "") -> None:
        self._cluster = cluster
        self._size = size
        self.fleet = Fleet(cluster)
        self._speed = 0.0
        self._begun = 0
        self._board = Board(board, len(WORKERS), len(books))
        conninfos = [f"{n.url.replace('+psycopg', '')}?connect_timeout=2" for n in self.fleet.nodes]
        self._given = {
            "books": [book.plain() for book in books],
            "board": board,
            "workers": len(WORKERS),
            "callers": CALLERS,
            "seed": 7,
            "broken": broken,
            "conninfos": conninfos,
            "operations_a_second": OPERATIONS / len(WORKERS) / CALLERS,
            "again_s": AGAIN_S,
            "pinned_s": PINNED_S,
        }

    def reports(self, fate: list[tuple[float, str, Callable[[], None]]]) -> list[dict[str, Any]]:
        """Let the processes run until there are reads enough; *fate* says what happens at which part of them."""
        with ExitStack() as stack:
            children = [
                stack.enter_context(
                    Child("load_process", self._given | {"worker": n, "settings": self._settings(cache)})
                )
                for n, (_, cache) in enumerate(WORKERS)
            ]
            for child in children:
                assert child.hear() == "ready"
            self._choose_speed()
            for part, what, happens in [*fate, (1.0, "end", self._board.end)]:
                self._wait_for(part, what)
                happens()
            return [child.hear() for child in children]

    def _choose_speed(self) -> None:
        """Of what the machine can do, four fifths."""
        began_s, begun, trial = time.monotonic(), self._board.calls, _TRIAL
        wait_for(lambda: self._board.calls - begun >= trial, "the trial", 300)
        able = trial / (time.monotonic() - began_s)
        self._speed = min(self._size.most_speed, 0.8 * able / OPERATIONS)
        show("pace", f"{able:.0f} reads a second can be had; {self._speed:.2f} times {OPERATIONS} are made")
        self.fleet.lag(LAG_S / self._speed)
        self._begun = self._board.calls
        self._board.speed = self._speed

    def promote(self) -> None:
        self.fleet.promote()
        self._board.primary = self.fleet.nodes.index(self.fleet.primary)

    def spike(self, *numbers: int) -> Callable[[], None]:
        """Of those replicas."""
        return lambda: self.fleet.spike([self.fleet.replicas[n] for n in numbers], SPIKE_S / self._speed)

    def _settings(self, cache: dict[str, Any]) -> dict[str, Any]:
        # Patient with the cache: a slow answer would send writes to the outbox, whose window is allowed.
        patient = {"connect_timeout_ms": 5_000, "read_timeout_ms": 5_000}
        shown = self._cluster.shards[0]
        shard = {"name": "s0", "primary": shown.primary.url, "replicas": [node.url for node in shown.replicas]}
        return {"shards": [shard], "cache": {"url": self._cluster.cache.url} | patient | cache}

    def _wait_for(self, part: float, what: str) -> None:
        target = self._begun + part * self._size.reads
        wait_for(lambda: self._board.calls >= target, f"{part:.0%} of the reads, then {what}", 3_000)
        show("fate", f"{part:.0%} of the reads: {what}")


def _fate(run: Run, cluster: Cluster, spikes: int) -> list[tuple[float, str, Callable[[], None]]]:
    killed = run.fleet.replicas[1]
    happens = [
        (0.30, "a replica is killed", killed.kill),
        (0.36, "and started again", killed.start),
        (0.45, "Redis is flushed", cluster.cache.flush),
        (0.55, "a replica is promoted", run.promote),
    ]
    turns = ((0,), (1,), (0, 1))
    for n in range(spikes):
        at = 0.04 + 0.92 * n / spikes
        if not 0.28 < at < 0.38 and not 0.53 < at < 0.60:
            happens.append((at, f"a spike of replicas {turns[n % 3]}", run.spike(*turns[n % 3])))
    return sorted(happens, key=lambda one: one[0])


def _sum(reports: list[dict[str, Any]], section: str, name: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for report in reports:
        total.update(report[section][name])
    return total


def _show(kind: str, reports: list[dict[str, Any]]) -> dict[str, float]:
    """Print what processes of one kind found; the share of calls on the primary, by rule."""
    reads = _sum(reports, "found", "reads")
    calls = reads.total()
    answered, on_primary = _sum(reports, "found", "answered"), _sum(reports, "found", "on_primary")
    tallied = sum(report["rules"]["calls"] for report in reports)
    show(f"{kind}: reads", reads)
    show(f"{kind}: answered by", ", ".join(f"{who} {n / answered.total():.1%}" for who, n in answered.most_common()))
    show(f"{kind}: on the primary", on_primary)
    events: Counter[str] = Counter()
    for report in reports:
        events.update(report["events"])
    show(f"{kind}: events", events)
    shares = {"tidegate": on_primary.total() / calls, "with marks": (on_primary.total() - on_primary[LOST]) / calls}
    for rule, n in _sum(reports, "rules", "on_primary").items():
        shares[rule] = n / tallied
    stale = _sum(reports, "rules", "stale") | {"tidegate": _sum(reports, "found", "wrong").total()}
    for rule in ("tidegate", FORCED, TWO_SECONDS, ROUND_ROBIN):
        share = shares[rule]
        show(f"{kind}: {rule}", f"{share:.2%} of {calls} reads on the primary, {stale.get(rule, 0)} stale")
    return shares


@pytest.mark.parametrize(
    ("size", "spikes"),
    [
        pytest.param(CI, 8, marks=[pytest.mark.alone, pytest.mark.timeout(600)], id="ci"),
        pytest.param(SOAK, 60, marks=[pytest.mark.soak, pytest.mark.timeout(7_000)], id="soak"),
    ],
)
def test_no_read_is_older_than_what_anybody_had_seen(
    cluster: Cluster, books: list[Book], size: Size, spikes: int, tmp_path: Path
) -> None:
    run = Run(cluster, books, size, str(tmp_path / "board"))
    reports = run.reports(_fate(run, cluster, spikes))
    by_kind = {kind: [r for (k, _), r in zip(WORKERS, reports, strict=True) if k == kind] for kind, _ in WORKERS}
    shares = {kind: _show(kind, found) for kind, found in by_kind.items()}
    wrong, failed = _sum(reports, "found", "wrong"), _sum(reports, "found", "failed")
    seconds = max(report["seconds"] for report in reports)
    show("kept", f"{size.reads / seconds:.0f} reads a second, for {seconds:.0f} s")
    show("writes", f"{sum(report['found']['writes'] for report in reports)} acknowledged")
    show("failed, while there was no primary", failed)
    examples = [example for report in reports for example in report["found"]["examples"]]
    floors = ("own", "acknowledged", "seen")
    show("older than", ", ".join(f"{floor}: {wrong[floor]}" for floor in floors))
    assert wrong.total() == 0, examples
    assert _sum(reports, "found", "reads").total() >= size.reads
    assert _sum(reports, "rules", "stale")[ROUND_ROBIN] > 0, "the replicas must have lagged, or nothing was tried"
    routed = shares["routed"]
    # What a flush and a promotion cost is a number of reads for each tenant, and no part of them all.
    assert routed["with marks"] <= 1.5 * routed[FORCED]
    assert routed["tidegate"] <= routed[TWO_SECONDS] / 2


@pytest.mark.alone
def test_a_gate_that_takes_any_replica_is_found_out(cluster: Cluster, books: list[Book], tmp_path: Path) -> None:
    # The same callers, and a choice that looks at no position: what they would say if the product lacked it.
    size = Size(2_500, 2.0)
    run = Run(cluster, books, size, str(tmp_path / "board"), broken="any replica")
    wrong = _sum(run.reports([]), "found", "wrong")
    show("older than", wrong)
    assert wrong["own"] > 0
    assert wrong["acknowledged"] > 0
