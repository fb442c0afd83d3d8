"""The real paths where the cache's URL may lead to another server: no stale read, and each rule is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from simulation.explore import RUNS, explain, schedules, stale_within
from simulation.two_caches_world import CacheShape, TwoCachesWorld

from tidegate.cache.redis.same_server import ExpectedServer
from tidegate.proxy.assembly import serving
from tidegate.proxy.assembly.serving import ServingCache, _Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

LARGE = [
    CacheShape(writers=6, readers=1, reads=8, replicas=0, faults={"led": 1}),
    CacheShape(writers=3, readers=3, reads=4, processes=3, replicas=0, faults={"led": 2, "lose": 1}),
    CacheShape(writers=4, readers=2, reads=4, replicas=0, clone=True, faults={"led": 2, "dies after commit": 1}),
    CacheShape(writers=4, readers=2, reads=4, replicas=0, faults={"led": 1, "emptied": 1}),
]
CLONE = CacheShape(writers=6, readers=1, reads=8, replicas=0, clone=True, faults={"led": 1})


@pytest.fixture(autouse=True)
def _silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving._log, "disabled", True)


@pytest.mark.parametrize("shape", LARGE)
def test_no_random_schedule_gives_a_stale_read(shape: CacheShape) -> None:
    seen: set[int] = set()
    reads = moved = 0
    for world, scheduler in schedules(TwoCachesWorld, shape, RUNS // 4):
        seen.add(hash(tuple(scheduler.trace)))
        reads += world.reads
        moved += world.facts.by is not None and world.facts.by.life != "a" * 40
        assert not world.stale, explain(TwoCachesWorld, shape, scheduler, world)
    print(f"{shape}: {len(seen)} distinct traces, {reads} reads, {moved} change over, 0 stale")  # noqa: T201
    assert len(seen) > 0.9 * (RUNS // 4)


def _use_any(patch: pytest.MonkeyPatch) -> None:
    """A connection is used whichever server it leads to."""
    patch.setattr(ExpectedServer, "check", lambda *_args: None)


def _take_at_once(patch: pytest.MonkeyPatch) -> None:
    """What may be what became of the right one is taken for it, and no objection is waited for."""
    verdict = ServingCache._verdict

    def taken(self: Any, *args: Any) -> _Verdict:
        found = verdict(self, *args)
        return _Verdict.TAKE if found is _Verdict.CLAIM else found

    patch.setattr(ServingCache, "_verdict", taken)


@pytest.mark.parametrize("shape", [LARGE[0], CLONE], ids=["stranger", "clone"])
@pytest.mark.parametrize("without", [_use_any, _take_at_once])
def test_without_any_one_rule_a_stale_read_is_found(
    without: Callable[[pytest.MonkeyPatch], None], shape: CacheShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch)
    found = stale_within(TwoCachesWorld, shape, 10_000)
    assert found, f"without {without.__name__}, no schedule of {shape} gave a stale read"
    print(f"without {without.__name__}: after {found[0]} schedules\n{found[1]}")  # noqa: T201
