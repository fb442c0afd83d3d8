"""The real paths over two shards: old maps and flips give no stale read, and every rule is needed, or covered twice."""

from __future__ import annotations

import pytest
from simulation.explore import RUNS as RUNS_OF_ONE
from simulation.explore import exhaust, explain, schedules, stale_within
from simulation.shard_mutants import MUTANTS, ShardMutant, take_away
from simulation.two_shard_world import ShardedShape, ShardedWorld

SMALL = [
    ShardedShape(readers=1, maps=(1,)),
    ShardedShape(readers=1, maps=(2, 1), faults={}, rooted=0),
]
LARGE = [
    ShardedShape(writers=2, readers=3, reads=2, replicas=1, faults={"flip": 2}),
    ShardedShape(writers=2, readers=3, reads=2, maps=(3, 1), replicas=1, faults={"flip": 1}, uncached=True),
    ShardedShape(
        writers=2,
        readers=2,
        reads=3,
        maps=(2, 1),
        replicas=1,
        faults={
            "flip": 2,
            "lose": 1,
            "store away": 1,
            "catalogue away": 1,
            "dies after commit": 1,
            "commit answer lost": 1,
        },
    ),
]
RUNS = RUNS_OF_ONE // 4


@pytest.mark.parametrize("shape", SMALL)
def test_no_schedule_of_a_small_world_gives_a_stale_read(shape: ShardedShape) -> None:
    exhaust(ShardedWorld, shape, RUNS, refused=lambda world: world.refused)


@pytest.mark.parametrize("shape", LARGE)
def test_no_random_schedule_of_a_larger_world_gives_a_stale_read(shape: ShardedShape) -> None:
    seen: set[int] = set()
    reads = flips = refused = 0
    for world, scheduler in schedules(ShardedWorld, shape, RUNS):
        seen.add(hash(tuple(scheduler.trace)))
        reads, refused = reads + world.reads, refused + len(world.refused)
        flips += world.catalogue.epoch - max(shape.maps)
        assert not world.stale, explain(ShardedWorld, shape, scheduler, world)
        if world.faults.get("catalogue away", 0) == shape.faults.get("catalogue away", 0):
            assert not world.refused, (world.refused, explain(ShardedWorld, shape, scheduler, world))
    print(f"{shape}: {len(seen)} distinct traces, {reads} reads, {refused} refused, {flips} flips, 0 stale")  # noqa: T201
    assert len(seen) > 0.9 * RUNS
    assert flips > 0.1 * RUNS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_without_a_rule_and_those_that_cover_it_a_stale_read_is_found(mutant: ShardMutant) -> None:
    with pytest.MonkeyPatch.context() as patch:
        take_away(mutant.rules, patch)
        found = stale_within(ShardedWorld, mutant.shape, 20_000)
    assert found, f"without {mutant.name}, no schedule of {mutant.shape} gave a stale read"
    print(f"without {mutant.name}: after {found[0]} schedules\n{found[1]}")  # noqa: T201
    for kept in mutant.rules if len(mutant.rules) > 1 else ():
        with pytest.MonkeyPatch.context() as patch:
            take_away([rule for rule in mutant.rules if rule != kept], patch)
            alone = stale_within(ShardedWorld, mutant.shape, 5 * found[0] + 200)
        assert alone is None, f"{kept} alone was not enough: {alone}"
