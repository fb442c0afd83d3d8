"""Running worlds by many schedules, and telling a schedule so that it can be run again."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from real_servers.amounts import amount
from simulation.scheduler import Choices, Scheduler, all_choices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RUNS = int(os.environ.get("TIDEGATE_SIMULATION_RUNS") or amount(3_150, 600))
"""Of each world. The larger number gives 50,000 distinct traces in all; `make soak` sets more."""


class Explored(Protocol):
    """A world as it is when all of its actors have ended."""

    stale: Any
    """What was read that was older than it might be."""

    def actions(self) -> Any:
        """What may happen between the steps of the actors."""
        ...


S = TypeVar("S")
W = TypeVar("W", bound=Explored)


def run(
    kind: Callable[[S, Scheduler], W], shape: S, choices: Choices, preemptions: int | None = None
) -> tuple[W, Scheduler]:
    """A world of *shape*, by one schedule."""
    scheduler = Scheduler(choices, preemptions)
    world = kind(shape, scheduler)
    try:
        scheduler.run(world.actions)
    finally:
        scheduler.close()
    return world, scheduler


def explain(kind: Any, shape: object, scheduler: Scheduler, world: Explored) -> str:
    """What happened, and how to see it happen again."""
    made = [chosen for chosen, _ in scheduler.choices.made]
    steps = "\n  ".join(scheduler.trace)
    return f"{world.stale}\n  {steps}\nreplay with: run({kind.__name__}, {shape!r}, Choices(given={made}))"


def schedules(kind: Callable[[S, Scheduler], W], shape: S, runs: int, first: int = 0) -> Iterator[tuple[W, Scheduler]]:
    """Worlds by so many random schedules, the same each time, from the *first* on."""
    for seed in range(first, first + runs):
        yield run(kind, shape, Choices(rng=random.Random(seed)))  # noqa: S311  # no secret


def exhaust(
    kind: Callable[[S, Scheduler], W], shape: S, runs: int, refused: Callable[[W], object] = lambda _world: None
) -> None:
    """See that no schedule with three preemptions at most gives a stale read; *refused* tells what else must not be."""
    seen: set[int] = set()

    def one(choices: Choices) -> None:
        world, scheduler = run(kind, shape, choices, preemptions=3)
        seen.add(hash(tuple(scheduler.trace)))
        assert not world.stale, explain(kind, shape, scheduler, world)
        assert not refused(world), (refused(world), explain(kind, shape, scheduler, world))

    tried = max(all_choices(one, limit=runs))
    print(f"{shape}: {tried} runs, {len(seen)} distinct traces, 0 stale")  # noqa: T201  # shown with -rP
    assert len(seen) > tried / 2


def stale_within(kind: Callable[[S, Scheduler], W], shape: S, runs: int, first: int = 0) -> tuple[int, str] | None:
    """After how many schedules, from the *first* on, there was a stale read, and which; None if there was none."""
    for tried, (world, scheduler) in enumerate(schedules(kind, shape, runs, first)):
        if world.stale:
            return tried, explain(kind, shape, scheduler, world)
    return None
