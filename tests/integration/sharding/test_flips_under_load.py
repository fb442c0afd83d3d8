"""Slots change hands and come back under load, while one of the gates is cut off from the catalogue.

A trigger of the databases' own says of each run, at its COMMIT, whether the shard owned its slot then.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import pytest
from real_servers.load_during_flips import Done, Load
from real_servers.printed_numbers import show
from real_servers.sharded import EVEN, settings_of, tenant_on
from real_servers.subprocesses import Child
from real_servers.tcp_proxy import Proxy
from sqlalchemy import text

import tidegate
from tidegate.proxy.embedded.process import wait_for
from tidegate.proxy.shard_admin.flip import Flipper
from tidegate.proxy.shards.catalogue import Catalogue
from tidegate.routing.sharding.slots import slot_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from real_servers.shards import Shards

SLOTS: Final = tuple(range(64))
"""They are the first shard's at first, and of no row."""
PROCESSES: Final = 2
A_SECOND: Final = 280
"""Writes of the processes; the gate that is cut off tries 40 more, of which those of tenants that moved are refused."""
WRITES_A_FLIP: Final = 10
"""At least, on average: a flip that nobody writes beside shows nothing."""
WATCH: Final = (
    "CREATE TABLE wrongly (id uuid)",
    """CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
         IF NOT EXISTS (SELECT FROM tidegate_ownership WHERE unit = NEW.version AND owned)
         THEN INSERT INTO wrongly VALUES (NEW.id); END IF;
         RETURN NULL; END $$""",
    """CREATE CONSTRAINT TRIGGER see AFTER INSERT ON workflow_runs DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION see()""",
)
UNWATCH: Final = ("DROP TRIGGER see ON workflow_runs", "DROP FUNCTION see", "DROP TABLE wrongly")


@pytest.fixture
def watched(stocked: Shards) -> Iterator[Shards]:
    _on_all(stocked, WATCH)
    yield stocked
    _on_all(stocked, UNWATCH)


def _on_all(shards: Shards, statements: tuple[str, ...]) -> list[Any]:
    found: list[Any] = []
    for engine in shards.engines.values():
        with engine.begin() as connection:
            for statement in statements:
                result = connection.execute(text(statement))
                found += result.all() if result.returns_rows else []
    return found


def _steady(*shards: str) -> list[str]:
    found = []
    for shard in shards:
        while slot_of(tenant := tenant_on(shard)) in SLOTS:
            pass
        found.append(tenant)
    return found


class CutOff:
    """A gate whose way to the shard with the catalogue, s2, leads through a middleman."""

    def __init__(self, shards: Shards, stack: ExitStack) -> None:
        settings = settings_of(shards, catalogue="s2", poll_s=0.2)
        there = shards.engines["s2"].url
        self.proxy = stack.enter_context(Proxy(there.port or 0))
        around = there.set(host="127.0.0.1", port=self.proxy.port).render_as_string(hide_password=False)
        last = settings.shards[2].model_copy(update={"primary": around})
        settings = settings.model_copy(update={"shards": (*settings.shards[:2], last)})
        gate = stack.enter_context(tidegate.connect(settings))
        gate._shards._maps._question._answer_s = 0.5  # type: ignore[attr-defined]
        self.load = Load(gate, _steady("s0", "s1"), SLOTS, 40, cut_off=True)


def _flips(shards: Shards, seconds: float) -> list[tuple[float, float]]:
    """Slots there and back, again and again; when each began and ended."""
    flipper = Flipper(Catalogue(shards.engines["s2"]), shards.engines, drain_s=20.0)
    here, there, found = "s0", "s1", []
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s or here != "s0":
        began_s = time.monotonic()
        flipper.flip(SLOTS, here, there)
        found.append((began_s, time.monotonic()))
        here, there = there, here
        time.sleep(0.8)  # for the load to go on there
    return found


@pytest.mark.parametrize(
    "seconds", [8, pytest.param(180, marks=[pytest.mark.soak, pytest.mark.timeout(900)])], ids=["ci", "soak"]
)
def test_no_write_goes_astray_and_no_read_fails(watched: Shards, seconds: float) -> None:
    assert {EVEN.slots[slot].shard for slot in SLOTS} == {"s0"}
    settings = settings_of(watched, catalogue="s2", poll_s=0.2, flip_wait_s=20.0).model_dump(mode="json")
    with ExitStack() as stack:
        cut = CutOff(watched, stack)
        given = {"settings": settings, "slots": SLOTS, "writes_a_second": A_SECOND / PROCESSES}
        children = [
            stack.enter_context(Child("load_during_flips", given | {"steady": _steady("s0", "s1", "s2")}))
            for _ in range(PROCESSES)
        ]
        for child in children:
            assert child.hear() == "ready"
        cut.load.start()
        cut.proxy.hold()
        began_s = time.monotonic()
        for child in children:
            child.tell("begin")
        try:
            flips = _flips(watched, seconds)
        finally:
            for child in children:
                child.tell("end")
            alone = cut.load.end()
        took_s = time.monotonic() - began_s
        done = [Done(**child.hear()) for child in children]
        refused = Counter(alone.counted)
        cut.proxy.resume()
        wait_for(lambda: cut.load.write_moving() is not None, "the gate that was cut off has the new map")
    _show(took_s, flips, done, refused, alone)
    found = Counter(str(row[0]) for row in _on_all(watched, ("SELECT id FROM workflow_runs",)))
    written = [run_id for each in (*done, alone) for run_id in each.written]
    assert [each.wrong for each in (*done, alone)] == [[]] * (PROCESSES + 1)
    assert _on_all(watched, ("SELECT id FROM wrongly",)) == []
    assert found == Counter(written)
    assert refused["refused writes"] > 0
    assert len(flips) >= 4
    # How many a second is the machine's to say, and is shown; that there were writes beside every flip is not.
    assert len(written) >= WRITES_A_FLIP * len(flips)
    assert _during(flips, done) > 0


def _during(flips: list[tuple[float, float]], done: list[Done]) -> int:
    """Reads of tenants in the slots that changed hands, that were answered just then."""
    return sum(began <= at <= ended for each in done for at in each.moving_reads_s for began, ended in flips)


def _show(
    took_s: float, flips: list[tuple[float, float]], done: list[Done], refused: Counter[str], alone: Done
) -> None:
    writes = sum(len(each.written) for each in (*done, alone))
    reads = sum(each.counted["reads"] for each in (*done, alone))
    longest_ms = max(ended - began for began, ended in flips) * 1000
    parts = (
        f"{len(flips)} flips of {len(SLOTS)} slots, the longest {longest_ms:.0f} ms",
        f"{writes} writes, {writes / took_s:.0f} a second",
        f"{reads} reads, {_during(flips, done)} of them during flips and of what changed hands",
        f"of the gate that was cut off {len(alone.written)} writes, {refused['refused writes']} refused",
    )
    show("under flips", "; ".join(parts))
