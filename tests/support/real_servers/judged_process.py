"""A process of callers on servers that are promoted: threads that write notes, and judge what they read.

Before a read the primary is asked what it shows, and after it once more. What it showed before must be in the answer.
What the answer has and the primary has not was lost by a failover: no answer may have it once its gate knows of that.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import psycopg
from sqlalchemy.exc import SQLAlchemyError

import tidegate
from real_servers.failovers import Stage
from real_servers.replicated import Note, Scene
from real_servers.subprocesses import argument, tell
from tidegate.cache.events import Served
from tidegate.cache.store import Miss
from tidegate.errors import TidegateError
from tidegate.position import AskedFor
from tidegate.proxy.database.history_record import HERE, here_of
from tidegate.proxy.tracking.notes import Note as Changed
from tidegate.proxy.tracking.notes import found_in

if TYPE_CHECKING:
    from tidegate.cache.redis.store import RedisStore
    from tidegate.cache.store import Lookup
    from tidegate.position import History
    from tidegate.proxy.observe import Event

_TENANTS: Final = 5
_ERA_S: Final = 10.0
"""After which tenants are new ones, so that answers stay small."""
_WRITES: Final = 0.15
_CALM_S: Final = 0.05
"""Between the calls of a thread while nothing befalls the servers that these have not been judged for."""
_ASK: Final = (
    "SELECT (SELECT array_agg(words) FROM notes WHERE tenant_id = %s),"
    " (SELECT json_agg(json_build_array(source, rows)) FROM tidegate_outbox),"
    f" {HERE.format(state='tidegate_state')}"
)
_here: Final = threading.local()


class Shown(NamedTuple):
    """What the primary shows: a tenant's rows, whether changes of them wait in the outbox, and which history it has."""

    words: frozenset[str]
    waiting: bool
    history: History | None


class Primary:
    """What one thread asks the primary by, past all gates."""

    def __init__(self, conninfos: list[str], stage: Stage) -> None:
        self._conninfos = conninfos
        self._stage = stage
        self._line: psycopg.Connection[Any] | None = None
        self._of = -1

    def shows(self, tenant: str, turn: int) -> Shown | None:
        """None if it is away, or changes."""
        if turn % 2:
            return None
        try:
            if self._line is None or self._of != turn:
                conninfo = self._conninfos[self._stage.primary]
                self._line, self._of = psycopg.connect(conninfo, autocommit=True), turn
            row = self._line.execute(_ASK.encode(), (tenant,)).fetchone()
        except psycopg.Error:
            self._line = None
            return None
        assert row is not None
        found = found_in([Changed(*one) for one in row[1] or ()])
        waiting = bool(found.everything) or tenant in {change.tenant for change in found.changes}
        return Shown(frozenset(row[0] or ()), waiting, here_of(row[2:]).history)


class Caller:
    """One thread.

    Args:
        crew: what it shares with the others.
        number: of it.
    """

    def __init__(self, crew: Crew, number: int) -> None:
        self._crew = crew
        self._name = f"{crew.player}.{os.getpid()}.{number}"
        self._rng = Random(self._name)  # noqa: S311  # a workload, no secret
        self._primary = Primary(crew.given["conninfos"], crew.stage)
        self._written = 0

    def run(self) -> None:
        while not self._crew.stage.over:
            tenant = f"{int(time.monotonic() / _ERA_S)} {self._rng.randrange(_TENANTS)}"
            try:
                if self._rng.random() < _WRITES:
                    self._write(tenant)
                else:
                    self._read(tenant)
            except (SQLAlchemyError, TidegateError):  # while there is no primary
                self._crew.count("failed")
            if self._crew.stage.calm:
                time.sleep(_CALM_S)

    def _write(self, tenant: str) -> None:
        self._written += 1
        words = f"{self._name}.{self._written}"
        if self._written % 2:
            self._crew.scene.notes.write(tenant, words)
        else:
            with self._crew.scene.gate.session(tenant) as session:
                session.add(Note(tenant_id=tenant, words=words))
                session.commit()
        self._crew.count("writes")

    def _read(self, tenant: str) -> None:
        crew, turn = self._crew, self._crew.stage.turn
        before = self._primary.shows(tenant, turn)
        knew = before is not None and before.history is not None and crew.history == before.history
        doubt = crew.stage.doubt
        _here.hit = False
        answer = frozenset(crew.scene.notes.of(tenant))
        after = self._primary.shows(tenant, turn)
        crew.count("reads", *(["hits"] if _here.hit else []))
        if before is None or after is None or crew.stage.turn != turn:
            return
        if not before.waiting and (knew or not doubt):
            crew.count("judged")
            if not before.words <= answer:
                crew.wrong("stale", f"{tenant}: without {set(before.words - answer)}, knew: {knew}, {before.history}")
        if knew:
            crew.count("after")
            if not answer <= after.words:
                crew.wrong("lost", f"{tenant}: with {set(answer - after.words)}, {before.history}")


class Crew:
    """The callers of this process, over one gate.

    Args:
        given: what the process was told; see :func:`main`.
    """

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.player: int = given["player"]
        self.stage = Stage(given["stage"], given["players"])
        self._lock = threading.Lock()
        gate = tidegate.connect(tidegate.Settings.model_validate(given["settings"]), observe=_observe)
        self.scene = Scene(gate)
        store: Any = gate._parts.store
        if given["broken"] == "no intent":
            store.open = lambda *_: None
        if given["broken"] == "any root":
            _take_any_root(store)

    @property
    def history(self) -> History:
        """Whose marks the gate asks for."""
        return self.scene.gate._shards.every[0].histories.asked.history

    def count(self, *what: str) -> None:
        """One more of each."""
        with self._lock:
            for one in what:
                self.stage.count(self.player, one)

    def wrong(self, what: str, words: str) -> None:
        """Count an answer that should not be, and keep what it was."""
        self.count(what)
        with Path(f"{self.stage.path}.wrong").open("a", encoding="utf-8") as file:
            file.write(f"{what} in turn {self.stage.turn}, player {self.player}: {words}\n")

    def run(self) -> None:
        """Until the stage says that it is over."""
        threads = [threading.Thread(target=Caller(self, n).run) for n in range(self.given["callers"])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _observe(event: Event) -> None:
    if isinstance(event, Served):
        _here.hit = True


def _take_any_root(store: RedisStore) -> None:
    """What was looked up for one history is found in the marks of another: the rule that is taken away."""
    lookup = store.lookup

    def looked_up(tenant: str, entry: str, guard: str, asked: AskedFor, *, refresh: bool = False) -> Lookup:
        found = lookup(tenant, entry, guard, asked, refresh=refresh)
        if isinstance(found, Miss) and found.foreign:
            return lookup(tenant, entry, guard, AskedFor(found.origin.history), refresh=refresh)
        return found

    store.lookup = looked_up  # type: ignore[method-assign]


def main() -> None:
    """Argument: settings, conninfos of the nodes, stage, players, player, callers, and what is broken."""
    given = argument()
    while True:
        with suppress(SQLAlchemyError, TidegateError):  # it comes while there is no primary
            crew = Crew(given)
            break
    with crew.scene.gate:
        tell("ready")
        crew.run()
        tell("ended")


if __name__ == "__main__":
    main()
