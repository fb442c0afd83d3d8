"""Models of every kind that can be tracked: no answer is older than a watched write; outside writes are followed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest
from real_servers.deadlines import patient
from real_servers.model_kinds import (
    ARGUMENTS,
    KINDS_POLICIES,
    METHODS,
    STEPS,
    TENANTS,
    TRACKED_KINDS,
    Audio,
    Book,
    Booking,
    Film,
    Kinds,
    KindsBase,
    Leaf,
    Seat,
    Team,
    team_label,
)
from sqlalchemy import create_engine, event, insert, inspect, text
from sqlalchemy.orm import Session, sessionmaker

import tidegate
from tidegate.cache.events import NotFilled, TriggerFailed, Voided
from tidegate.proxy.settings import CacheSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine

    from tidegate import Gate

WINDOW_S: Final = 10.0


@dataclass
class Compared:
    """A gate over the kinds, a plain repository beside it, and an engine that nobody watches."""

    gate: Gate
    gated: Kinds
    plain: Kinds
    outside: Engine
    not_filled: list[Any]
    before: dict[Any, Any] = field(default_factory=dict)

    def answers(self, repository: Kinds, kind: str) -> dict[Any, Any]:
        return {
            (method, tenant, *arguments): shown(getattr(repository, method)(tenant, *arguments))
            for method in METHODS[kind]
            for arguments in ARGUMENTS[method]
            for tenant in TENANTS
        }

    def check(self, kind: str) -> int:
        """See that the gate answers what the database has; return how many answers have changed."""
        now = self.answers(self.plain, kind)
        assert self.answers(self.gated, kind) == now
        for method, *arguments in now:  # the next step finds all of them cached
            if not lacks_columns(now[method, *arguments]):
                assert shown(self.hit(method, *arguments)) == now[method, *arguments]
        changed = len([call for call in now if now[call] != self.before.get(call)])
        self.before = now
        return changed

    def settle(self) -> None:
        until, only = time.monotonic() + patient(WINDOW_S), self.gate._parts.shards.only
        assert only is not None
        assert only.applier is not None
        with self.outside.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while connection.scalar(text("SELECT count(*) FROM tidegate_outbox")) or only.applier._untold._waiting:
                assert time.monotonic() < until, "notes stay in the outbox"

    def hit(self, method: str, *arguments: Any) -> Any:
        """Call a method until the cache answers."""
        until, before, answer = time.monotonic() + patient(WINDOW_S), self.hits(method), None
        while self.hits(method) == before:
            answer = getattr(self.gated, method)(*arguments)
            assert time.monotonic() < until, (method, arguments)
        return answer

    def hits(self, method: str) -> int:
        found = self.gate.stats().methods
        named = (stats for name, stats in found.items() if name.endswith(f"Kinds.{method}"))
        return sum(stats.served for stats in named)


def shown(answer: Any) -> Any:
    if isinstance(answer, list):
        return [shown(one) for one in answer]
    state = inspect(answer, raiseerr=False)
    if state is None:
        return answer
    loaded = {key: value for key, value in state.dict.items() if key in state.mapper.column_attrs}
    return type(answer), state.identity_key, state.detached, frozenset(state.unloaded), loaded


def lacks_columns(answer: Any) -> bool:
    """Tell of a list of rows, as :func:`shown`, whether some have columns that were not loaded: it is not cached."""
    return isinstance(answer, list) and any(isinstance(row, tuple) and row[3] for row in answer)


@pytest.fixture(params=["postgresql", "sqlite"])
def engines(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Engine, Engine]]:
    """One that is going to be watched, and one that is not."""
    file = f"sqlite:///{tmp_path / 'kinds.db'}"
    url = file if request.param == "sqlite" else request.getfixturevalue("database_url")
    made = create_engine(url), create_engine(url)
    for engine in made:
        if request.param == "sqlite":
            event.listen(engine, "connect", lambda driver, _: driver.execute("PRAGMA foreign_keys = ON"))
    yield made
    for engine in made:
        engine.dispose()


def _settings(cache_url: str) -> Settings:
    # What has no transaction ids trusts new marks only after this time.
    return Settings(cache=CacheSettings(url=cache_url, transaction_timeout_s=0.1))


@pytest.fixture
def compared(engines: tuple[Engine, Engine], valkey_url: str) -> Iterator[Compared]:
    watched, outside = engines
    KindsBase.metadata.create_all(outside)
    settings, not_filled, voided = _settings(valkey_url), list[Any](), list[Any]()

    def observe(what: object) -> None:
        if isinstance(what, NotFilled):
            not_filled.append(what)
        if isinstance(what, Voided | TriggerFailed):
            voided.append(what)

    with tidegate.gate_on(watched, sessionmaker(watched), settings, observe=observe) as gate:
        gated = gate.wrap(Kinds, KINDS_POLICIES, TRACKED_KINDS)(gate.session_maker)
        found = Compared(gate, gated, Kinds(sessionmaker(outside)), outside, not_filled)
        found.settle()
        voided.clear()  # the tables had no triggers
        yield found
        found.settle()
        assert voided == []


def _run(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement))


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("is_watched", [True, False], ids=["watched", "outside"])
def test_each_change_is_seen(compared: Compared, kind: str, is_watched: bool) -> None:
    compared.check(kind)
    for at, statement in enumerate(STEPS[kind]):
        _run(compared.gate.engine if is_watched else compared.outside, statement)
        if not is_watched:
            compared.settle()
        assert compared.check(kind) or at < 2, statement  # an insert of a part alone changes nothing
    compared.settle()


def _association(session: Session) -> Iterator[None]:
    session.add(Team(id="t1", tenant_id="ann"))
    session.flush()
    session.execute(insert(team_label), [{"team": "t1", "label": "red"}, {"team": "t1", "label": "blue"}])
    yield
    session.execute(team_label.update().where(team_label.c.label == "red").values(label="green"))
    yield
    session.execute(team_label.delete().where(team_label.c.team == "t1"))
    yield


def _composite(session: Session) -> Iterator[None]:
    session.add(Seat(room="r", number=1, tenant_id="ann", words="one"))
    session.flush()
    session.add(Booking(id="k1", room="r", place=1, words="mine"))
    yield
    session.get_one(Seat, ("r", 1)).words = "other"
    yield
    session.get_one(Booking, "k1").words = "other"
    yield
    session.delete(session.get_one(Booking, "k1"))
    yield


def _joined(session: Session) -> Iterator[None]:
    session.add(Audio(id="a1", tenant_id="ann", shelf="s1", author="x", words="w", voice="v1"))
    session.add(Book(id="b1", tenant_id="ann", shelf="s1", author="x", words="w"))
    yield
    session.get_one(Audio, "a1").words = "other"
    session.get_one(Book, "b1").words = "other"
    yield
    session.get_one(Audio, "a1").voice = "v2"
    yield
    for row in (session.get_one(Audio, "a1"), session.get_one(Book, "b1")):
        row.shelf, row.author = "s2", "y"
    yield
    session.delete(session.get_one(Audio, "a1"))
    yield
    session.delete(session.get_one(Book, "b1"))
    yield


def _single(session: Session) -> Iterator[None]:
    session.add(Film(id="f1", tenant_id="ann", shelf="s1", studio="u"))
    yield
    session.get_one(Film, "f1").studio = "w"
    yield
    session.delete(session.get_one(Film, "f1"))
    yield


def _in_child(session: Session) -> Iterator[None]:
    session.add(Leaf(id="l1", tenant_id="ann", words="p"))
    yield
    session.get_one(Leaf, "l1").words = "o"
    yield
    session.delete(session.get_one(Leaf, "l1"))
    yield


UNITS: Final = {
    "association": _association,
    "composite key": _composite,
    "joined": _joined,
    "single table": _single,
    "tenant in the child": _in_child,
}


@pytest.mark.parametrize("kind", UNITS)
def test_each_change_by_the_unit_of_work_is_seen(compared: Compared, kind: str) -> None:
    compared.check(kind)
    with compared.gate.session("ann") as session:
        for _ in UNITS[kind](session):
            session.commit()
            assert compared.check(kind)


@pytest.mark.parametrize("kind", ["composite key", "joined", "single table", "tenant in the child"])
def test_answers_with_such_rows_are_cached_and_rebuilt(compared: Compared, kind: str) -> None:
    for statement in STEPS[kind][: {"composite key": 2, "joined": 3}.get(kind, 1)]:
        _run(compared.gate.engine, statement)
    plain = compared.answers(compared.plain, kind)
    for method in METHODS[kind]:
        for arguments in ARGUMENTS[method]:
            if lacks_columns(plain[method, "ann", *arguments]):
                continue
            assert shown(compared.hit(method, "ann", *arguments)) == plain[method, "ann", *arguments]


def test_rows_of_which_the_class_has_unloaded_columns_are_not_cached_and_say_so(compared: Compared) -> None:
    for statement in STEPS["joined"][:3]:
        _run(compared.gate.engine, statement)
    compared.not_filled.clear()
    before = compared.hits("items")
    until = time.monotonic() + patient(WINDOW_S)
    while len(compared.not_filled) < 3:
        assert len(compared.gated.items("ann", "a1")) == 1
        assert time.monotonic() < until
    assert compared.hits("items") == before
    assert "as a query leaves it" in str(compared.not_filled[0])


@pytest.mark.parametrize("engines", ["postgresql"], indirect=True)
def test_two_transactions_that_change_two_parts_of_one_row_at_once(compared: Compared) -> None:
    """Neither sees what the other does, and afterwards the row has a tag that neither could have known."""
    for statement in STEPS["joined"][:3]:
        _run(compared.gate.engine, statement)
    compared.check("joined")
    with compared.gate.engine.connect() as one, compared.gate.engine.connect() as other:
        one.execute(text("UPDATE item SET shelf = 's2'"))
        other.execute(text("UPDATE book SET author = 'y'"))
        for each in (one, other):
            each.commit()
            assert compared.check("joined")
    assert compared.gated.on_shelf("ann", "s2", "y") == ["words", "words"]
