"""Writers and readers of one gate while slots change hands, and a process of them.

Half of the writes are of tenants in slots that stay. The others are of tenants in the slots that change hands, each of
one writer, which takes a new one once the old one's slot has moved: the rows that it had are left behind then, as a
flip does not move any. As long as it has not, all that the writer wrote must be there, and nothing else.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import tidegate
from real_servers.gate_vs_plain_random import DAYS
from real_servers.sharded import save_run
from real_servers.subprocesses import argument, hear, tell
from tidegate.errors import StaleShardMap
from tidegate.routing.sharding.slots import slot_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.routing.sharding.shard_map import Ownership

WRITERS: Final = 4
_READS_A_SECOND: Final = 30
_MOST_OF_ONE: Final = 40
_READ_EACH: Final = 5
_MOST_SHOWN: Final = 5


@dataclass
class Done:
    """What was done through one gate.

    Args:
        written: ids of runs whose save has returned.
        counted: of everything else.
        moving_reads_s: when reads of tenants whose slots change hands have ended, monotonic.
        wrong: what should not be, in words.
    """

    written: list[str] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)
    moving_reads_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@dataclass
class _Moving:
    tenant: str
    ownership: Ownership
    writes: int = 0


class Load:
    """Writers and readers of one gate.

    Args:
        gate: whose.
        steady: tenants in slots that stay, which nobody else writes.
        slots: that change hands.
        writes_a_second: that are tried.
        cut_off: whether the gate cannot read the map, and is refused where it is old.
    """

    def __init__(
        self,
        gate: tidegate.Gate,
        steady: Sequence[str],
        slots: Sequence[int],
        writes_a_second: float,
        *,
        cut_off: bool = False,
    ) -> None:
        self._gate = gate
        self._steady = steady
        self._slots = frozenset(slots)
        self._pause_s = WRITERS / writes_a_second
        self._cut_off = cut_off
        self._app = str(uuid4())
        self._begun: Counter[str] = Counter()
        self._returned: Counter[str] = Counter()
        self._last = dict.fromkeys(steady, "")
        self._recent: deque[str] = deque(maxlen=8)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.done = Done()

    def start(self) -> None:
        """Begin."""
        for run, arguments in [(self._write, (number,)) for number in range(WRITERS)] + [(self._read, ())]:
            thread = threading.Thread(target=self._kept, args=(run, *arguments))
            thread.start()
            self._threads.append(thread)

    def end(self) -> Done:
        """End, and tell what was done."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.done

    def write_moving(self, had: _Moving | None = None) -> _Moving | None:
        """One write of a tenant whose slot changes hands; who it was, if another may follow."""
        moving = had
        if moving is None or moving.writes == _MOST_OF_ONE or self._ownership(moving.tenant) != moving.ownership:
            tenant = self._new_tenant()
            moving = _Moving(tenant, self._ownership(tenant))
        if not self._save(moving.tenant):
            return None
        moving.writes += 1
        self._recent.append(moving.tenant)
        total = self._total(moving.tenant) if moving.writes % _READ_EACH == 1 else moving.writes
        if self._ownership(moving.tenant) != moving.ownership:
            return None
        if total not in (None, moving.writes):
            self._is_wrong(
                f"{moving.tenant} has {moving.writes} runs on {moving.ownership.shard}, and {total} are read"
            )
        return moving

    def _kept(self, run: object, *arguments: object) -> None:
        try:
            run(*arguments)  # type: ignore[operator]
        except Exception as error:  # noqa: BLE001  # whatever it is, it should not be
            self._is_wrong(repr(error))

    def _write(self, number: int) -> None:
        """At the pace, and faster to catch up; each writer has tenants of one sort: a flip stops half of them."""
        moving: _Moving | None = None
        due_s = time.monotonic() + self._pause_s * number / WRITERS
        for turn in count(number // 2):
            if self._stop.wait(max(0.0, due_s - time.monotonic())):
                return
            due_s += self._pause_s
            if number % 2:
                moving = self.write_moving(moving)
            else:
                self._write_steady(self._steady[turn % len(self._steady)])

    def _write_steady(self, tenant: str) -> None:
        with self._lock:
            self._begun[tenant] += 1
        if not self._save(tenant):
            self._is_wrong(f"a write of {tenant} was refused, whose slot stays")
            return
        with self._lock:
            self._returned[tenant] += 1
            self._last[tenant] = self.done.written[-1]

    def _save(self, tenant: str) -> bool:
        run_id = str(uuid4())
        try:
            save_run(self._gate, tenant, self._app, DAYS[0], run_id, version=f"slot:{slot_of(tenant)}")
        except StaleShardMap:
            if not self._cut_off:
                raise
            self.done.counted["refused writes"] += 1
            return False
        self.done.written.append(run_id)
        return True

    def _read(self) -> None:
        for turn in count():
            if self._stop.wait(1 / _READS_A_SECOND):
                return
            if turn % 2 and self._recent:
                self._total(self._recent[-1])
                self.done.moving_reads_s.append(time.monotonic())
            else:
                self._read_steady(self._steady[turn // 2 % len(self._steady)])

    def _read_steady(self, tenant: str) -> None:
        runs, least, last = self._gate.workflow_runs, self._returned[tenant], self._last[tenant]
        total = self._total(tenant)
        most = self._begun[tenant]
        if total is None or not least <= total <= most:
            self._is_wrong(f"{tenant} has from {least} to {most} runs, and {total} are read")
        if last and runs.get_workflow_run_by_id_without_tenant(last) is None:
            self._is_wrong(f"{last} was written and not found")

    def _total(self, tenant: str) -> int | None:
        self.done.counted["reads"] += 1
        try:
            return self._gate.workflow_runs.get_workflow_runs_count(tenant, self._app, "app-run")["total"]
        except StaleShardMap:
            if not self._cut_off:
                raise
            self.done.counted["refused reads"] += 1
            return None

    def _ownership(self, tenant: str) -> Ownership:
        routed = self._gate._shards
        assert routed is not None
        return routed.ownership(tenant)

    def _new_tenant(self) -> str:
        while slot_of(tenant := str(uuid4())) not in self._slots:
            pass
        return tenant

    def _is_wrong(self, what: str) -> None:
        self.done.counted["wrong"] += 1
        if len(self.done.wrong) < _MOST_SHOWN:
            self.done.wrong.append(what)


def main() -> None:
    """Argument: settings, steady, slots and writes_a_second. Told to begin, and to end, it tells what was done."""
    given = argument()
    with tidegate.connect(tidegate.Settings.model_validate(given.pop("settings"))) as gate:
        load = Load(gate, **given)
        tell("ready")
        hear()
        load.start()
        with suppress(KeyboardInterrupt):
            hear()
        tell(vars(load.end()))


if __name__ == "__main__":
    main()
