"""The real read and commit paths, explored: no schedule gives a stale read, and every rule is needed."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
from simulation.mutants import MUTANTS, Mutant
from simulation.scheduler import Choices, Scheduler, all_choices
from simulation.world import Shape, World

if TYPE_CHECKING:
    from collections.abc import Iterator

FAULTS = {
    "store away": 1,
    "store answer lost": 1,
    "dies before commit": 1,
    "dies after commit": 1,
    "commit answer lost": 1,
    "lose": 1,
    "drop": 1,
    "regress": 1,
}
SMALL = [
    Shape(readers=1, processes=1, rooted=False),
    Shape(readers=1, faults={"lose": 1}, rooted=False),
    Shape(readers=1, processes=1),
    Shape(readers=1, faults={"lose": 1}),
    Shape(readers=1, faults={"store answer lost": 1}),
    Shape(readers=1, faults={"dies after commit": 1, "drop": 1}),
    Shape(readers=2, processes=1),
    Shape(readers=2, faults={"commit answer lost": 1}),
]
LARGE = [
    Shape(writers=2, readers=3, reads=2, faults=FAULTS, replicas=2),
    Shape(writers=1, readers=3, reads=2, processes=1, faults=FAULTS),
    Shape(writers=3, readers=2, reads=3, faults={"lose": 2, "drop": 2, "commit answer lost": 1}),
    Shape(writers=2, readers=2, reads=3, faults={"promote": 1, "lose": 1, "dies after commit": 1}, replicas=2),
]
# With these, 50,000 distinct traces and more in CI; more runs: TIDEGATE_SIMULATION_RUNS, as `make soak` sets it.
RUNS = int(os.environ.get("TIDEGATE_SIMULATION_RUNS", "6000"))


def run(shape: Shape, choices: Choices, preemptions: int | None = None) -> tuple[World, Scheduler]:
    scheduler = Scheduler(choices, preemptions)
    world = World(shape, scheduler)
    try:
        scheduler.run(world.actions)
    finally:
        scheduler.close()
    return world, scheduler


def explain(shape: Shape, scheduler: Scheduler, world: World) -> str:
    made = [chosen for chosen, _ in scheduler.choices.made]
    steps = "\n  ".join(scheduler.trace)
    return f"{world.stale}\n  {steps}\nreplay with: run({shape!r}, Choices(given={made}))"


@pytest.mark.parametrize("shape", SMALL)
def test_no_schedule_of_a_small_world_gives_a_stale_read(shape: Shape) -> None:
    seen: set[int] = set()

    def one(choices: Choices) -> None:
        world, scheduler = run(shape, choices, preemptions=3)
        seen.add(hash(tuple(scheduler.trace)))
        assert not world.stale, explain(shape, scheduler, world)

    runs = max(all_choices(one, limit=RUNS))
    print(f"{shape}: {runs} runs, {len(seen)} distinct traces, 0 stale")  # noqa: T201  # shown with -rP
    assert len(seen) > runs / 2


def schedules(shape: Shape, runs: int) -> Iterator[tuple[World, Scheduler]]:
    for seed in range(runs):
        yield run(shape, Choices(rng=random.Random(seed)))  # noqa: S311  # no secret


@pytest.mark.parametrize("shape", LARGE)
def test_no_random_schedule_of_a_larger_world_gives_a_stale_read(shape: Shape) -> None:
    seen: set[int] = set()
    reads = 0
    for world, scheduler in schedules(shape, RUNS):
        seen.add(hash(tuple(scheduler.trace)))
        reads += world.reads
        assert not world.stale, explain(shape, scheduler, world)
    print(f"{shape}: {len(seen)} distinct traces, {reads} reads, 0 stale")  # noqa: T201  # shown with -rP
    assert len(seen) > 0.9 * RUNS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.rule)
def test_without_any_one_rule_a_stale_read_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.apply(monkeypatch)
    for tried, (world, scheduler) in enumerate(schedules(mutant.shape, 40_000)):
        if world.stale:
            print(f"without {mutant.rule}: after {tried} schedules\n{explain(mutant.shape, scheduler, world)}")  # noqa: T201
            return
    pytest.fail(f"without {mutant.rule}, no schedule of {mutant.shape} gave a stale read")
