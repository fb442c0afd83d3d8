"""Slots that change hands on real servers: killed at each step, under load, obstructed, and back from the dead."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count, pairwise, takewhile
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from tidegate.errors import RoutingError, SettingsError, StaleShardMap
from tidegate.proxy.database.ownership import check_ownership
from tidegate.proxy.shard_admin.flip import Flipper
from tidegate.proxy.shards.catalogue import Catalogue, Follower
from tidegate.routing.sharding.shard_map import Ownership, ShardMap, slot_unit

if TYPE_CHECKING:
    from collections.abc import Callable

    from real_servers.shards import Shards

STEPS = ("_plan", "_close", "_fence", "_grant", "_publish")
SLOTS = [5, 6, 7]


def around(flipper: Flipper, step: str, *, before: Callable[[], Any]) -> None:
    """Have *before* called when *flipper* comes to *step*."""
    method = getattr(flipper, step)

    def hooked(*args: Any, **kwargs: Any) -> Any:
        before()
        return method(*args, **kwargs)

    setattr(flipper, step, hooked)


def fork_and_kill(shards: Shards, step: str, moment: str) -> None:
    """A process that flips, and is killed inside a step, when all of it is done but the COMMIT, or after it."""
    engines = {name: create_engine(engine.url, poolclass=NullPool) for name, engine in shards.engines.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child uses nothing that the parent's threads hold
        child = os.fork()
    if child == 0:
        try:
            flipper = Flipper(Catalogue(engines["s0"]), engines)
            method = getattr(flipper, step)

            def end(*_args: Any) -> NoReturn:
                os.kill(os.getpid(), signal.SIGKILL)
                raise AssertionError

            def killed(*args: Any, **kwargs: Any) -> None:
                if moment == "inside":
                    for engine in engines.values():
                        engine.dialect.do_commit = end  # type: ignore[method-assign,assignment]
                method(*args, **kwargs)
                end()

            setattr(flipper, step, killed)
            flipper.flip(SLOTS, "s0", "s1")
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the child was not killed at {step}"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("moment", ["inside", "after"])
def test_a_flip_killed_at_any_step_is_finished_by_the_next(shards: Shards, step: str, moment: str) -> None:
    first = shards.begin()
    fork_and_kill(shards, step, moment)
    unplanned = (step, moment) in {("_plan", "inside"), ("_publish", "after")}
    entry = shards.catalogue.load()
    assert entry is not None
    assert (entry.flip is None) == unplanned
    done = step == "_publish" and moment == "after"
    assert entry.shard_map.slots[5] == (("s1", 2) if done else ("s0", 1))
    accepting = shards.accepting(5)
    assert accepting in ([], [entry.shard_map.slots[5].shard])
    assert len(shards.owners(5)) <= 1
    if not unplanned:
        with pytest.raises(RoutingError, match="3 slots are on their way from s0 to s1: finish that flip first"):
            shards.flipper().flip([1], "s0", "s2")
    again = (
        shards.flipper().finish() if moment == "after" and not unplanned else shards.flipper().flip(SLOTS, "s0", "s1")
    )
    assert again == shards.map()
    for slot in SLOTS:
        assert (again.slots[slot].shard, shards.accepting(slot), shards.owners(slot)) == ("s1", ["s1"], ["s1"])
        assert not shards.accepts(Ownership(slot_unit(slot), *first.slots[slot]))
    assert again.slots[8] == first.slots[8]
    assert shards.accepting(8) == ["s0"]
    assert shards.flipper().flip(SLOTS, "s0", "s1") == again == shards.flipper().finish()
    back = shards.flipper().flip(SLOTS, "s1", "s0")
    assert (shards.accepting(5), shards.owners(5), back.slots[5].shard) == (["s0"], ["s0"], "s0")


class Writer:
    """Writes into one slot, by its own map, and notes between which moments it had the shard's word; see ``run``."""

    def __init__(self, shards: Shards, slot: int, follower: Follower, slow_s: float = 0) -> None:
        self._shards = shards
        self._slot = slot
        self._follower = follower
        self._slow_s = slow_s
        self.accepted: list[tuple[str, float, float]] = []
        self.refused = 0

    def write(self) -> None:
        number = len(self.accepted)
        while True:
            held = self._follower.current().slots[self._slot]
            try:
                with self._shards.engines[held.shard].begin() as connection:
                    check_ownership(connection, [Ownership(slot_unit(self._slot), *held)])
                    begins = time.monotonic()
                    row = {"slot": self._slot, "number": number}
                    connection.execute(text("INSERT INTO writes VALUES (:slot, :number)"), row)
                    if self._slow_s:  # longer than a flip takes that does not wait for it
                        connection.execute(text("SELECT pg_sleep(:s)"), {"s": self._slow_s})
                    ends = time.monotonic()
            except StaleShardMap:
                self.refused += 1
                self._follower.refresh()
                continue
            self.accepted.append((held.shard, begins, ends))
            return

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self.write()


def test_under_load_one_shard_at_most_accepts_a_slot_and_no_write_is_lost(shards: Shards) -> None:
    first = shards.begin()
    stop = threading.Event()
    with closing(shards.follower(poll_s=0.05)) as follower, ThreadPoolExecutor(7) as pool:
        writers = [Writer(shards, slot, follower) for slot in (*SLOTS, 8)] + [Writer(shards, 5, follower, 0.1)]
        running = [pool.submit(writer.run, stop) for writer in writers]
        cut_off = Ownership("slot:5", *first.slots[5])
        misled = pool.submit(lambda: [shards.accepts(cut_off) for _ in takewhile(lambda _: not stop.is_set(), count())])
        for source, target in pairwise(["s0", "s1", "s2", "s0", "s1"]):
            shards.flipper().flip(SLOTS, source, target)
            before = [len(writer.accepted) for writer in writers[:4]]  # not those that came before the flip was done
            while any(len(w.accepted) < b + 5 for w, b in zip(writers, before, strict=False)) and not stop.wait(0.01):
                assert all(not task.done() for task in running), [task.exception() for task in running if task.done()]
        stop.set()
        for task in running:
            task.result(30)
        seen = misled.result(30)
    assert seen[0] is True
    assert seen == sorted(seen, reverse=True), "a map of the first epoch was accepted again after its slot had gone"
    assert {shard for writer in writers[:3] for shard, _, _ in writer.accepted} == {"s0", "s1", "s2"}
    assert {shard for shard, _, _ in writers[3].accepted} == {"s0"}
    assert sum(writer.refused for writer in writers[:3]) > 0
    for slot in (*SLOTS, 8):
        ended: dict[str, float] = {}
        words = (word for w in writers if w._slot == slot for word in w.accepted)
        for shard, begins, ends in sorted(words, key=lambda word: word[1]):
            assert all(begins >= end for other, end in ended.items() if other != shard), f"two shards had slot {slot}"
            ended[shard] = max(ends, ended.get(shard, 0))
    sql = text("SELECT slot, number FROM writes")
    written = []
    for engine in shards.engines.values():
        with engine.connect() as connection:
            written += [tuple(row) for row in connection.execute(sql)]
    assert sorted(written) == sorted((w._slot, number) for w in writers for number in range(len(w.accepted)))


def test_writes_that_overlap_without_end_do_not_keep_a_slot(shards: Shards) -> None:
    ownership = Ownership("slot:5", *shards.begin().slots[5])
    turns = [threading.Semaphore(1), threading.Semaphore(0)]
    refused = threading.Event()

    def write(me: int) -> None:
        """Begin once the other has the row, and end once the other has it again: it is never without one of them."""
        while turns[me].acquire(timeout=30) and not refused.is_set():
            with shards.engines["s0"].begin() as connection:
                try:
                    check_ownership(connection, [ownership])
                except StaleShardMap:
                    refused.set()
                    turns[1 - me].release()
                    return
                turns[1 - me].release()
                turns[me].acquire(timeout=30)
                turns[me].release()

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write, me) for me in (0, 1)]
        try:
            flipped = shards.flipper(drain_s=3).flip([5], "s0", "s1")
            assert refused.wait(30)
        finally:
            refused.set()
            for turn in turns:
                turn.release(3)
        for writer in writers:
            writer.result(60)
    assert (flipped.slots[5], shards.accepting(5)) == (("s1", 2), ["s1"])


def test_writes_that_do_not_end_keep_their_slots_and_new_ones_are_let_in_again(shards: Shards) -> None:
    ownership = Ownership("slot:5", *shards.begin().slots[5])
    with shards.engines["s0"].begin() as connection:
        check_ownership(connection, [ownership])
        connection.execute(text("INSERT INTO writes VALUES (5, 0)"))
        flipper = shards.flipper(drain_s=0.1)
        refused: list[bool] = []
        around(flipper, "_fence", before=lambda: refused.append(shards.accepts(ownership)))
        with pytest.raises(RoutingError, match=r"writes on s0 that had begun did not end within 0.1 s"):
            flipper.flip(SLOTS, "s0", "s1")
        assert refused == [False]
        assert shards.accepting(5) == ["s0"]
    entry = shards.catalogue.load()
    assert entry is not None
    assert (entry.flip, entry.shard_map.epoch, entry.next_epoch) == (None, 1, 3)
    assert shards.flipper().flip(SLOTS, "s0", "s1").slots[5] == ("s1", 3)
    assert (shards.accepting(5), shards.accepting(8)) == (["s1"], ["s0"])


def stopped_at(shards: Shards, step: str, meanwhile: Callable[[], Any], drain_s: float = 5.0) -> None:
    """A flipper that is slow, not dead: it comes to *step*, and goes on with it after all of *meanwhile*."""
    slow = shards.flipper(drain_s)
    around(slow, step, before=meanwhile)
    with pytest.raises(StaleShardMap):
        slow.flip(SLOTS, "s0", "s1")


@pytest.mark.parametrize("step", STEPS[1:])
def test_who_comes_back_after_others_went_on_changes_nothing(shards: Shards, step: str) -> None:
    shards.begin()
    after: list[ShardMap] = []

    def meanwhile() -> None:
        shards.flipper().finish()
        after.append(shards.flipper().flip(SLOTS, "s1", "s0"))

    stopped_at(shards, step, meanwhile)
    assert shards.map() == after[0]
    assert (shards.accepting(5), shards.owners(5)) == (["s0"], ["s0"])
    assert shards.flipper().flip(SLOTS, "s0", "s2").slots[5].shard == "s2"


@pytest.mark.parametrize("step", ["_close", "_fence"])
def test_who_comes_back_after_another_gave_up_changes_nothing(shards: Shards, step: str) -> None:
    ownership = Ownership("slot:5", *shards.begin().slots[5])

    def meanwhile() -> None:
        with shards.engines["s0"].begin() as connection:
            check_ownership(connection, [ownership]) if step == "_close" else connection.execute(
                text("SELECT FROM tidegate_ownership WHERE unit = 'slot:5' FOR SHARE")
            )
            with pytest.raises(RoutingError, match="nothing was flipped"):
                shards.flipper(drain_s=0.1).finish()

    stopped_at(shards, step, meanwhile)
    assert shards.accepts(ownership)
    assert shards.owners(5) == ["s0"]


def test_where_the_catalogue_has_lost_its_newest_map_nothing_is_flipped_by_the_old_one(shards: Shards) -> None:
    first = shards.begin()
    shards.flipper().flip([5], "s0", "s1")
    with shards.engines["s0"].begin() as connection:  # as a failover of its shard may
        lost = text("UPDATE tidegate_catalogue SET epoch = 1, last_epoch = 1, map = :map")
        connection.execute(lost, {"map": first.as_text()})
    # Followers that have the newest map write to s1; by the old one s2 would be given the slot beside it.
    with pytest.raises(
        StaleShardMap, match="s0 owns slot 5 since epoch 1; by its own table it does not own it, since epoch 2"
    ):
        shards.flipper().flip([5], "s0", "s2")
    assert shards.owners(5) == ["s1"]


def test_what_cannot_be_flipped_is_refused_before_anything_is_done(shards: Shards) -> None:
    with pytest.raises(SettingsError, match="no shard map yet"):
        shards.flipper().finish()
    shards.begin()
    with pytest.raises(SettingsError, match="slot 4000 is held by s2, not by s0"):
        shards.flipper().flip([5, 4000], "s0", "s1")
    with pytest.raises(SettingsError, match="names the shard 's7'; known are s0, s1, s2"):
        shards.flipper().flip([5], "s0", "s7")
    away = {**shards.engines, "s1": create_engine("postgresql+psycopg://127.0.0.1:1/dify")}
    with pytest.raises(Exception, match="connection failed"):
        Flipper(shards.catalogue, away).flip([5], "s0", "s1")
    del away["s1"]
    with pytest.raises(SettingsError, match="no database is known of the shard 's1'"):
        Flipper(shards.catalogue, away).flip([5], "s0", "s1")
    entry = shards.catalogue.load()
    assert entry is not None
    assert (entry.flip, entry.next_epoch, shards.accepting(5)) == (None, 2, ["s0"])


def test_a_shard_that_is_added_takes_slots_from_each_of_the_others(shards: Shards) -> None:
    shards.begin("s0", "s1")
    known = shards.map().with_shard_known("s2")
    shards.catalogue.publish(known, 1)
    planned = shards.map()
    given = ShardMap(planned.epoch, ("s0", "s1"), planned.slots).slots_to_add("s2")
    for name, slots in given.items():
        shards.flipper().flip(slots, name, "s2")
    sizes = {name: len(shards.map().slots_of(name)) for name in ("s0", "s1", "s2")}
    assert sizes == {"s0": 1365, "s1": 1366, "s2": 1365}
    assert shards.accepting(2047) == ["s2"]
