"""The real read and commit paths, explored: no schedule gives a stale read, and every rule is needed."""

from __future__ import annotations

import pytest
from simulation.explore import RUNS, exhaust, explain, schedules, stale_within
from simulation.mutants import MUTANTS, Mutant, take_away
from simulation.one_shard_world import Shape, World

FAULTS = {
    "store away": 1,
    "store answer lost": 1,
    "dies before commit": 1,
    "dies after commit": 1,
    "commit answer lost": 1,
    "lose": 1,
    "drop": 1,
    "lease ends": 2,
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
    Shape(readers=2, faults={"lease ends": 1}),
    Shape(readers=1, processes=1, plain=True),
    Shape(readers=1, faults={"lose": 1}, plain=True),
    Shape(readers=1, faults={"dies after commit": 1, "drop": 1}, plain=True),
]
LARGE = [
    Shape(writers=2, readers=3, reads=2, faults=FAULTS, replicas=2),
    Shape(writers=1, readers=3, reads=2, processes=1, faults=FAULTS),
    Shape(writers=2, readers=3, reads=2, faults=FAULTS, replicas=2, plain=True),
    Shape(writers=3, readers=2, reads=3, faults={"lose": 2, "drop": 2, "commit answer lost": 1}, plain=True),
    Shape(writers=3, readers=2, reads=3, faults={"lose": 2, "drop": 2, "commit answer lost": 1}),
    Shape(writers=2, readers=2, reads=3, faults={"promote": 1, "lose": 1, "dies after commit": 1}, replicas=2),
    # Two that were promoted to timelines of one number; a process may be left on any of them, as on a copy.
    Shape(
        writers=2, readers=3, reads=2, processes=3, faults={"promote beside": 2, "commit answer lost": 1}, replicas=2
    ),
    # A volume that goes back; a history that ends while the server runs on; marks and answers that are lost.
    Shape(
        writers=2,
        readers=2,
        reads=3,
        faults={"restore": 1, "crash": 1, "renew": 1, "lose": 1, "store answer lost": 1, "dies after commit": 1},
        replicas=0,
    ),
]

FOUND_AT = {"pending": 13_250, "nonce": 1_800, "quarantine": 1_450, "maxmerge": 950, "tending and answers": 1_700}
"""Where to begin to look for a stale read, for rules whose first one comes late."""


@pytest.mark.parametrize("shape", SMALL)
def test_no_schedule_of_a_small_world_gives_a_stale_read(shape: Shape) -> None:
    exhaust(World, shape, RUNS)


@pytest.mark.parametrize("shape", LARGE)
def test_no_random_schedule_of_a_larger_world_gives_a_stale_read(shape: Shape) -> None:
    seen: set[int] = set()
    reads = 0
    for world, scheduler in schedules(World, shape, RUNS):
        seen.add(hash(tuple(scheduler.trace)))
        reads += world.reads
        assert not world.stale, explain(World, shape, scheduler, world)
    print(f"{shape}: {len(seen)} distinct traces, {reads} reads, 0 stale")  # noqa: T201  # shown with -rP
    assert len(seen) > 0.9 * RUNS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_without_a_rule_and_those_that_cover_it_a_stale_read_is_found(mutant: Mutant) -> None:
    with pytest.MonkeyPatch.context() as patch:
        take_away(mutant.rules, patch)
        found = stale_within(World, mutant.shape, 40_000, FOUND_AT.get(mutant.name, 0))
    assert found, f"without {mutant.name}, no schedule of {mutant.shape} gave a stale read"
    print(f"without {mutant.name}: after {found[0]} schedules\n{found[1]}")  # noqa: T201
    for kept in mutant.rules if len(mutant.rules) > 1 else ():
        with pytest.MonkeyPatch.context() as patch:
            take_away([rule for rule in mutant.rules if rule != kept], patch)
            alone = stale_within(World, mutant.shape, 5 * found[0] + 200)
        assert alone is None, f"{kept} alone was not enough: {alone}"
