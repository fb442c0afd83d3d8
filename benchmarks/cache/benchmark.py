"""The cache's part of the benchmark, on the database and the rows that the plain repositories were measured on."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from sqlalchemy.orm import Session, sessionmaker

from tidegate.benchmarks.agreement import check_agreement
from tidegate.benchmarks.cache.costs import FEW_PAGES, CachedPages, measure_invalidation
from tidegate.benchmarks.cache.floors import Floors
from tidegate.benchmarks.cache.goals import cache_goals
from tidegate.benchmarks.cache.hydration import Page
from tidegate.benchmarks.cache.outside_writes import WAYS, measure_outside_writes
from tidegate.benchmarks.cache.report import CacheReport
from tidegate.benchmarks.cache.under_writes import DEEP, ENDED, RATES, measure_under_writes
from tidegate.benchmarks.cache.writes import measure_writes, wait_until_applied, without_triggers
from tidegate.benchmarks.contenders.behind_gate import CONTENDERS, HIT, Gated, gated
from tidegate.benchmarks.contenders.contender import ScenarioCall
from tidegate.benchmarks.data.targets import Targets
from tidegate.benchmarks.scenarios import FIRST_PAGE, PAGE, page_call, page_name, scenarios
from tidegate.benchmarks.timing import measure
from tidegate.repositories.enums import WorkflowExecutionStatus as Status
from tidegate.repositories.enums import WorkflowRunTriggeredFrom as Source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from tidegate.benchmarks.cache.under_writes import UnderWrites
    from tidegate.benchmarks.cache.writes import WriteTimes
    from tidegate.benchmarks.contenders.contender import Repositories
    from tidegate.benchmarks.data.data_set import DataSet
    from tidegate.benchmarks.data.databases import Databases
    from tidegate.benchmarks.progress import Advance, Steps
    from tidegate.benchmarks.scenarios import Scenario
    from tidegate.benchmarks.timing import Measured

_DEEP_PAGES: Final = 10
_NAMED: Final = (FIRST_PAGE, "run by id", "nodes of a run", "last execution of a node")
_COUNTED: Final = ("count ", "runs a day", "creators a day", "tokens a day", "interactions a day")


@dataclass(frozen=True, slots=True)
class Size:
    """How much of the cache is measured.

    Args:
        rounds: how many rounds of the scenarios.
        floor_rounds: how many rounds of what is compared with its floor.
        writes: how many transactions of one row, of each kind.
        bulks: as many of many rows.
        pages: how many cached pages the app has that is invalidated.
        seconds: how long to read at each rate of writes, in seconds.
        outside: how many outside writes of each way.
    """

    rounds: int
    floor_rounds: int
    writes: int
    bulks: int
    pages: int
    seconds: float
    outside: int


DEMO: Final = Size(rounds=10, floor_rounds=60, writes=60, bulks=2, pages=10_000, seconds=3.0, outside=100)
BENCH: Final = Size(rounds=40, floor_rounds=300, writes=300, bulks=8, pages=100_000, seconds=10.0, outside=500)


class CacheBenchmark:
    """Measure everything about the cache.

    Args:
        places: the databases.
        data_set: the rows that they hold.
        cache_url: the URL of an empty cache.
        size: how much is measured.
        steps: shows what is being done.
    """

    def __init__(self, places: Databases, data_set: DataSet, cache_url: str, size: Size, steps: Steps) -> None:
        self._url = places.plain
        self._data_set = data_set
        self._cache_url = cache_url
        self._size = size
        self._steps = steps

    def run(self, contenders: Sequence[Repositories], asked: Sequence[Scenario], deepest_page: int) -> CacheReport:
        """Measure, and return the report.

        Args:
            contenders: the plain repositories and the baseline.
            asked: all scenarios.
            deepest_page: the number of the deepest page that the scenarios read.
        """
        plain, chosen = sessionmaker(contenders[0].engine), [s for s in asked if _is_cached(s.name, deepest_page)]
        with self._gate(HIT) as hit:
            with ExitStack() as near:  # their threads hear of each write
                gates = {HIT: hit} | {name: near.enter_context(self._gate(name)) for name in CONTENDERS if name != HIT}
                every = [*contenders, *(one.contender for one in gates.values())]
                measured = self._scenarios(chosen, every)
                with self._step("measuring floors", 1) as advance:
                    floors = Floors(plain, self._cache_url, gates).measure(self._size.floor_rounds, advance)
            writes = self._writes(plain, hit.gate.session_maker)
            pages = [(n, Page(plain)) for n in (FEW_PAGES, self._size.pages)]
            wait_until_applied(contenders[0].engine)  # else what made the apps' rows voids their pages a moment later
            apps = [CachedPages(hit, self._cache_url, page, n) for n, page in pages]
            with self._step(f"caching {self._size.pages:,} pages", self._size.pages) as advance:
                memory = [app.fill(advance) for app in apps][-1]
            with self._step("measuring invalidation", 200) as advance:
                invalidation = measure_invalidation(apps, advance=advance, rounds=200)
        with self._step("measuring when outside writes are seen", self._size.outside * WAYS) as advance:
            outside = measure_outside_writes(
                self._url, self._cache_url, seed=self._data_set.seed, rounds=self._size.outside, advance=advance
            )
        under_writes = self._under_writes(contenders[0])
        return CacheReport(
            contenders=[one.name for one in every],
            measured=measured,
            floors=floors,
            writes=writes,
            invalidation=invalidation,
            memory=memory,
            outside_writes=outside,
            under_writes=under_writes,
            goals=cache_goals(floors, writes, under_writes, outside),
        )

    def _gate(self, name: str) -> AbstractContextManager[Gated]:
        return gated(self._url, self._cache_url, name, **CONTENDERS[name])

    def _writes(self, plain: sessionmaker[Session], behind: sessionmaker[Session]) -> list[WriteTimes]:
        size, engine = self._size, plain.kw["bind"]
        steps = 2 * (size.writes + 1) + 2 * 2 * (size.bulks + 1)
        with self._step("measuring writes", steps) as advance, without_triggers(engine) as bare:
            return measure_writes(
                bare,
                plain,
                behind,
                seed=self._data_set.seed,
                rounds=size.writes,
                bulks=size.bulks,
                settle=partial(wait_until_applied, engine),
                advance=advance,
            )

    def _step(self, title: str, total: float) -> AbstractContextManager[Advance]:
        return self._steps.step(title, total)

    def _scenarios(self, chosen: Sequence[Scenario], every: Sequence[Repositories]) -> list[Measured]:
        with self._step("comparing the answers of the cache, missed and hit", 2 * len(chosen)) as advance:
            for scenario in (*chosen, *chosen):
                check_agreement(scenario, every)
                advance(1)
        rounds = self._size.rounds
        with self._step(f"measuring {len(chosen)} scenarios of the cache", rounds * len(chosen)) as advance:
            return measure(chosen, every, rounds=rounds, seed=self._data_set.seed, advance=advance)

    def _under_writes(self, plain: Repositories) -> list[UnderWrites]:
        with Session(plain.engine) as session:
            targets = Targets(session, self._data_set.population)
            kinds = _kinds(targets, plain)
        seconds = self._size.seconds
        with self._step("reading while an app is written to", seconds * len(RATES)) as advance:
            return measure_under_writes(
                self._url, self._cache_url, targets.main, kinds, seconds=seconds, advance=advance
            )


def _is_cached(name: str, deepest_page: int) -> bool:
    return name in {*_NAMED, page_name(deepest_page)} or name.startswith(_COUNTED)


def _kinds(targets: Targets, plain: Repositories) -> dict[str, list[ScenarioCall]]:
    """Return calls by kind, all of the main app."""
    main, runs = targets.main, targets.runs_of_main()
    depths = [max(PAGE, runs * (i + 1) // (_DEEP_PAGES + 2)) for i in range(_DEEP_PAGES)]
    deep = [page_call(main, Source.APP_RUN, last_id=targets.cursor(depth)) for depth in depths]
    ended = frozenset(Status.ended_values())
    found = [run for call in deep for run in plain.run(call).data if run.status in ended]
    by_id = [ScenarioCall("runs", "get_workflow_run_by_id", (main.tenant_id, main.app_id, run.id)) for run in found]
    asked = {scenario.name: list(scenario.calls) for scenario in scenarios(targets)}
    return {
        "first page": [page_call(main, Source.APP_RUN)],
        DEEP: deep,
        ENDED: by_id,
        "count by state": asked["count by state"],
        "statistics of a past month": [call for name, calls in asked.items() if "one month" in name for call in calls],
    }
