"""A process of callers: threads that write versions and read them back by every route, at a pace, until told to end.

Each read is held against three floors, taken before it began: what its own caller wrote or saw before, what anybody's
COMMIT has returned for, and what anybody's read has returned. Beside it other rules decide the same (see ``rules``).
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import tidegate
from real_servers.shared_versions import Board
from real_servers.subprocesses import argument, tell
from real_servers.versioned_tenant import CALLS, READS, Book
from real_servers.wrong_choosers import LOST, Replicas, Rules, Tally
from tidegate.cache.events import RootAdvanced
from tidegate.proxy import build
from tidegate.proxy.assembly import shard
from tidegate.proxy.layers.routing import UNSURE, Routing
from tidegate.proxy.observe import Counters, Event
from tidegate.routing.replicas import choose

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.cache.request import Answer, AnsweredBy, ReadRequirement
    from tidegate.proxy.call import Call
    from tidegate.routing.replicas.choose import ReplicaRequirement

WRITES: Final = 0.05
_MOST_SHOWN: Final = 5
_CATCH_UP_S: Final = 1.0
_here: Final = threading.local()


class Answered(NamedTuple):
    """Who answered one call, and what is known of why."""

    node: str
    answered_by: str
    only_primary: bool
    advanced: bool


class Witness(Counters):
    """Counters that also tell each thread who answered its calls."""

    def add(self, call: Call, answer: Answer, ns: int) -> None:
        super().add(call, answer, ns)
        self._witness(answer.node, answer.answered_by)

    def add_failed(self, call: Call, ns: int, asked: AnsweredBy) -> None:
        super().add_failed(call, ns, asked)
        self._witness("", "nobody")

    @staticmethod
    def _witness(node: str, answered_by: str) -> None:
        if (answers := getattr(_here, "answers", None)) is not None:
            answers.append(Answered(node, answered_by, _here.only_primary, _here.advanced))
            _here.only_primary = _here.advanced = False


class WitnessedRouting(Routing):
    """Routing that keeps for the witness whether the marks have named the primary."""

    def _required(self, call: Call, ask: Callable[[Call], ReadRequirement]) -> ReplicaRequirement | str:
        required = super()._required(call, ask)
        _here.only_primary = required == UNSURE
        return required


def _why(answer: Answered) -> str:
    """Why a call went to the primary that a replica could have answered."""
    if answer.advanced:
        return LOST
    return "a commit was under way" if answer.only_primary else "no replica was seen to have replayed it"


@dataclass
class Found:
    """What the callers of a process have found, in calls of reads."""

    reads: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    on_primary: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    writes: int = 0


class Caller:
    """One thread.

    Args:
        crew: what it shares with the other callers of its process.
        number: of it, in all processes.
    """

    def __init__(self, crew: Crew, number: int) -> None:
        self._crew = crew
        self._rng = Random(f"{crew.given['seed']} {number}")  # noqa: S311  # a workload, no secret
        self._replicas = Replicas(crew.given["conninfos"])
        self._due: list[tuple[float, int]] = []
        self._known: dict[int, int] = {}
        self.rules = Rules()
        self.found = Found()

    def run(self) -> None:
        crew = self._crew
        _here.answers, _here.advanced, _here.only_primary = [], False, False
        turn_s = time.monotonic()
        while not crew.board.over:
            if speed := crew.board.speed:
                pace = crew.given["operations_a_second"] * speed
                turn_s = max(turn_s + self._rng.expovariate(pace), time.monotonic() - _CATCH_UP_S)
                time.sleep(max(0.0, turn_s - time.monotonic()))  # the pace is what is tried
            if self._rng.random() < WRITES:
                self._write(self._any_tenant())
            else:
                self._read(self._next_tenant())

    def _any_tenant(self) -> int:
        crew = self._crew
        return self._rng.choices(range(len(crew.books)), cum_weights=crew.weights)[0]

    def _next_tenant(self) -> int:
        """Of what this caller wrote, once it is time to look at it; else any."""
        if self._due and self._due[0][0] <= time.monotonic():
            return heapq.heappop(self._due)[1]
        return self._any_tenant()

    def _write(self, tenant: int) -> None:
        crew, book = self._crew, self._crew.books[tenant]
        try:
            with crew.gate.session(book.tenant) as session:
                version = book.write(session)
                crew.board.committing(crew.worker, tenant, 1)
                try:
                    session.commit()
                finally:
                    crew.board.committing(crew.worker, tenant, -1)
        except Exception as error:  # noqa: BLE001  # while there is no primary
            self.found.failed[f"write: {type(error).__name__}"] += 1
            return
        now_ns = time.monotonic_ns()
        crew.board.acknowledge(crew.worker, tenant, version, now_ns)
        self._known[tenant] = max(version, self._known.get(tenant, 0))
        self.found.writes += 1
        again_s = self._rng.expovariate(1 / crew.given["again_s"]) / (crew.board.speed or 1.0)
        heapq.heappush(self._due, (now_ns / 1e9 + again_s, tenant))

    def _read(self, tenant: int) -> None:
        crew, board, book = self._crew, self._crew.board, self._crew.books[tenant]
        name, read = self._rng.choice(tuple(READS.items()))
        calls, counts = CALLS.get(name, 1), board.speed > 0
        own = self._known.get(tenant, 0)
        acknowledged, seen_before = board.acknowledged(tenant), board.seen(tenant)
        floor = max(own, acknowledged, seen_before)
        forced = counts and self._ask_rules(tenant, floor, calls)
        del _here.answers[:]
        _here.advanced = _here.only_primary = False
        try:
            seen = read(crew.gate, book, floor)
        except Exception as error:  # noqa: BLE001  # while there is no primary
            self.found.failed[f"read: {type(error).__name__}"] += calls
            return
        if counts or not board.speed:  # one that began in the trial and ends in the run is of neither
            board.count(crew.worker, calls)
        if counts:
            self.found.reads[name] += calls
            self._note_answers(forced=forced)
        for floor_of, least in (("own", own), ("acknowledged", acknowledged), ("seen", seen_before)):
            if seen < least:
                self.found.wrong[floor_of] += 1
                self.found.examples.append(f"{name} of tenant {tenant} showed {seen}, {floor_of} was {least}")
        self._known[tenant] = max(seen, own)
        board.see(crew.worker, tenant, seen)

    def _ask_rules(self, tenant: int, floor: int, calls: int) -> bool:
        """Whether only the primary can answer."""
        board = self._crew.board
        return self.rules.read(
            calls,
            floor,
            self._replicas.versions(self._crew.books[tenant].run, board.primary),
            since_write_s=(time.monotonic_ns() - board.written_ns(tenant)) / 1e9,
            pinned_s=self._crew.given["pinned_s"] / board.speed,
            committing=board.is_committing(tenant),
        )

    def _note_answers(self, *, forced: bool) -> None:
        primary = self._crew.primary()
        for answer in _here.answers:
            self.found.answered[answer.node or answer.answered_by] += 1
            if answer.node == primary:
                self.found.on_primary["forced" if forced else _why(answer)] += 1


class Crew:
    """The callers of this process, over one gate.

    Args:
        given: what the process was told; see :func:`main`.
    """

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.worker: int = given["worker"]
        self.books = [Book(**book) for book in given["books"]]
        self.weights = list(accumulate(1 / rank for rank in range(1, len(self.books) + 1)))
        self.board = Board(given["board"], given["workers"], len(self.books))
        self.events: Counter[str] = Counter()
        self.gate = tidegate.connect(tidegate.Settings.model_validate(given["settings"]), observe=self._observe)

    def primary(self) -> str:
        """Who the gate takes for the primary."""
        nodes = self.gate._shards.every[0].nodes
        assert nodes is not None
        return nodes.topology.primary.name

    def run(self) -> list[Caller]:
        """Until the board says that it is over."""
        callers = [Caller(self, self.worker * 1000 + n) for n in range(self.given["callers"])]
        threads = [threading.Thread(target=caller.run) for caller in callers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return callers

    def _observe(self, event: Event) -> None:
        self.events[type(event).__name__] += 1
        if isinstance(event, RootAdvanced) and event.step != "resolved":
            _here.advanced = True


def _report(crew: Crew, callers: list[Caller]) -> dict[str, Any]:
    found, tally = Found(), Tally()
    for caller in callers:
        for name in ("reads", "wrong", "answered", "on_primary", "failed"):
            getattr(found, name).update(getattr(caller.found, name))
        found.examples += caller.found.examples[:_MOST_SHOWN]
        found.writes += caller.found.writes
        tally.calls += caller.rules.tally.calls
        tally.on_primary.update(caller.rules.tally.on_primary)
        tally.stale.update(caller.rules.tally.stale)
    return {"found": vars(found), "rules": vars(tally), "events": dict(crew.events)}


def main() -> None:
    """Argument: settings, books, board, workers, worker, callers, seed, conninfos, the times, and what is broken.

    Says "ready" once every tenant has been read, and reports when the board says that it is over.
    """
    composing: Any = build
    assembling: Any = shard
    composing.Counters, assembling.Routing = Witness, WitnessedRouting
    given = argument()
    if given["broken"] == "any replica":
        choose._not_now = lambda *_: None  # type: ignore[assignment]
    crew = Crew(given)
    with crew.gate:
        for book in crew.books[crew.worker :: crew.given["workers"]]:
            crew.gate.workflow_runs.get_workflow_run_by_id(book.tenant, book.app, book.run)
        tell("ready")
        began_s = time.monotonic()
        callers = crew.run()
        tell(_report(crew, callers) | {"seconds": time.monotonic() - began_s})


if __name__ == "__main__":
    main()
