"""A deterministic scheduler: actors are greenlets that run the real code, and stop at every store or database step.

A run is a list of choices: who goes next, and which fault strikes. Given the same choices it is the same run. What is
not given is chosen by a policy: first of all (for exhausting a small world) or at random (beyond it).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from greenlet import getcurrent, greenlet

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    Action: TypeAlias = "tuple[str, Callable[[], None]]"


class Died(BaseException):
    """Thrown into an actor that is killed."""


@dataclass
class Choices:
    """The choices of one run: *given* first, then by *rng*, or the first of all where that is None."""

    given: list[int] = field(default_factory=list)
    rng: random.Random | None = None
    made: list[tuple[int, int]] = field(default_factory=list)

    def choose(self, options: int, *, first: float = 0.0, more: Callable[[], int] | None = None) -> int:
        """One of *options*; at random, the first of all with a probability of *first*, else one of the others.

        With two options or more, *more* says how many there are beyond them. It is asked only where that matters.
        """
        at = len(self.made)
        rng = self.rng if at >= len(self.given) and options > 1 else None
        if rng is not None and rng.random() < first:
            self.made.append((0, options))
            return 0
        options += more() if more else 0
        chosen = rng.randrange(1 if first else 0, options) if rng is not None else 0
        if at < len(self.given):
            chosen = min(self.given[at], options - 1)
        self.made.append((chosen, options))
        return chosen


class Actor:
    """One greenlet, by name."""

    def __init__(self, name: str, run: Callable[[], None], hub: greenlet) -> None:
        self.name = name
        self.at = "begin"
        self.ended = False
        self._greenlet = greenlet(run, hub)

    def go_on(self) -> None:
        self._greenlet.switch()
        self.ended = self._greenlet.dead

    def die(self) -> None:
        self._greenlet.throw(Died)
        self.ended = True


class Scheduler:
    """Runs actors one step at a time, and lets the world act between them.

    Args:
        choices: who decides.
        preemptions: how often an actor that could go on may be put off; None: without bound.
        most_steps: a run longer than this is a live-lock.
    """

    def __init__(self, choices: Choices, preemptions: int | None = None, most_steps: int = 2_000) -> None:
        self.choices = choices
        self.trace: list[str] = []
        self._preemptions = preemptions
        self._most_steps = most_steps
        self._actors: list[Actor] = []
        self._hub = getcurrent()
        self._now: Actor | None = None

    def add(self, name: str, run: Callable[[], None]) -> None:
        self._actors.append(Actor(name, run, self._hub))

    def step(self, what: str) -> None:
        """A switch point: called by an actor before each store or database step."""
        if self._now is not None:
            self._now.at = what
            self._hub.switch()
            self.trace.append(f"{self._now.name}: {what}")

    def fault(self, kinds: list[str], budget: dict[str, int]) -> str | None:
        """Whether one of *kinds* strikes here; each at most as often as *budget* says."""
        possible = [kind for kind in kinds if budget.get(kind, 0) > 0]
        if not possible:
            return None
        chosen = self.choices.choose(len(possible) + 1, first=0.8)
        if chosen == 0:
            return None
        kind = possible[chosen - 1]
        budget[kind] -= 1
        self.trace.append(f"{self._now.name if self._now else 'world'}: ! {kind}")
        return kind

    def run(self, world: Callable[[], list[Action]]) -> None:
        """Until every actor has ended; *world* gives what else may happen now."""
        for _ in range(self._most_steps):
            alive = [actor for actor in self._actors if not actor.ended]
            if not alive:
                return
            if self._now in alive:  # first, so that the first choice of all is to go on
                alive = [self._now, *(actor for actor in alive if actor is not self._now)]
            may_switch = self._preemptions is None or self._preemptions > 0 or self._now not in alive
            chosen, actions = self._next(len(alive), world) if may_switch else (0, [])
            if chosen and self._preemptions and self._now in alive:
                self._preemptions -= 1
            if chosen >= len(alive):
                name, act = actions[chosen - len(alive)]
                self.trace.append(f"world: {name}")
                act()
                continue
            self._now = alive[chosen]
            self._now.go_on()
        raise AssertionError("live-lock: " + "; ".join(self.trace[-40:]))

    def _next(self, alive: int, world: Callable[[], list[Action]]) -> tuple[int, list[Action]]:
        """Who or what is next; the actions of the world are made a list of only where that matters, for it is slow."""
        actions: list[Action] = []

        def more() -> int:
            actions.extend(world())
            return len(actions)

        if alive > 1:
            return self.choices.choose(alive, first=0.7, more=more), actions
        options = alive + more()
        return (self.choices.choose(options, first=0.7) if options > 1 else 0), actions

    def close(self) -> None:
        """End what a failed run left."""
        for actor in self._actors:
            if not actor.ended:
                self._now = None
                actor.die()


def all_choices(run: Callable[[Choices], None], limit: int) -> Iterator[int]:
    """Run with every list of choices there is, depth first, at most *limit*; yields how many runs were made."""
    given: list[int] = []
    for count in range(1, limit + 1):
        choices = Choices(given=given)
        run(choices)
        yield count
        made = choices.made
        while made and made[-1][0] + 1 >= made[-1][1]:
            made.pop()
        if not made:
            return
        given = [chosen for chosen, _ in made[:-1]] + [made[-1][0] + 1]
