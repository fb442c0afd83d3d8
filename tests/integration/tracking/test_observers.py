"""Observers are told of committed rows: by whom, how often, in which order, and never in a writer's way."""

from __future__ import annotations

import logging
import threading
from collections import deque
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import pytest
from real_servers.deadlines import patient
from real_servers.shaped_gate import Shaped, shaped, wrapped
from real_servers.tracked_shapes import Kid, Plain, Side
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

import tidegate
from tidegate import AuditLog, PolicyError, RowEvent
from tidegate.proxy.embedded.process import wait_for
from tidegate.proxy.tracking import observers as module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

A: Final = {"id": "a", "tenant_id": "ann", "grp": "g1"}


class Told:
    """Keep what it is told."""

    def __init__(self) -> None:
        self.events: deque[RowEvent] = deque()

    def __call__(self, event: RowEvent) -> None:
        self.events.append(event)

    def take(self, many: int) -> list[RowEvent]:
        """Wait until there are so many, and no fewer."""
        wait_for(lambda: len(self.events) >= many, f"{many} events", patient(10))
        return [self.events.popleft() for _ in range(len(self.events))]


@pytest.fixture
def outside(database_url: str, valkey_url: str) -> Iterator[Shaped]:
    with shaped(database_url, valkey_url) as found:
        yield found


@pytest.fixture
def told(outside: Shaped) -> Told:
    made = Told()
    outside.gate.observe(Plain, made)
    return made


def watched(outside: Shaped, sql: str) -> None:
    with outside.gate.engine.begin() as connection:
        connection.execute(text(sql))


def beside(outside: Shaped, sql: str) -> None:
    outside.outside.execute(sql.encode())


WHO: Final = [watched, beside]


@pytest.mark.fast
@pytest.mark.parametrize("write", WHO)
def test_each_row_is_told_once_with_what_it_was_and_is(
    outside: Shaped, told: Told, write: Callable[[Shaped, str], None]
) -> None:
    write(outside, "INSERT INTO plain VALUES ('a', 'ann', 'g1', 0), ('b', 'bob', 'g1', 0)")
    made = told.take(2)
    assert made[0] == RowEvent("created", "plain", "ann", "a", None, A)
    assert [(event.did, event.tenant, event.id) for event in made] == [("created", "ann", "a"), ("created", "bob", "b")]
    write(outside, "UPDATE plain SET grp = 'g2' WHERE id = 'a'")
    assert told.take(1) == [RowEvent("updated", "plain", "ann", "a", A, {**A, "grp": "g2"})]
    write(outside, "UPDATE plain SET id = 'c', tenant_id = 'bob' WHERE id = 'a'")
    gone, come = told.take(2)
    assert (gone.did, gone.tenant, gone.id, come.did, come.tenant, come.id) == (
        *("deleted", "ann", "a"),
        *("created", "bob", "c"),
    )
    write(outside, "DELETE FROM plain WHERE id = 'b'")
    assert told.take(1) == [
        RowEvent("deleted", "plain", "bob", "b", {"id": "b", "tenant_id": "bob", "grp": "g1"}, None)
    ]
    write(
        outside,
        "UPDATE other.side SET value = 1; UPDATE plain SET value = 9 WHERE false; INSERT INTO kid VALUES ('k', 'c', 1)",
    )
    write(outside, "DELETE FROM plain")
    assert [(event.did, event.id) for event in told.take(1)] == [("deleted", "c")]


@pytest.mark.parametrize("write", WHO)
def test_rows_of_a_parent_are_told_with_its_tenant(outside: Shaped, write: Callable[[Shaped, str], None]) -> None:
    told = Told()
    outside.gate.observe(Kid, told)
    write(outside, "INSERT INTO plain VALUES ('a', 'ann', 'g1', 0), ('b', 'bob', 'g1', 0)")
    write(outside, "INSERT INTO kid SELECT 'k' || i, 'a', 1 FROM generate_series(1, 200) i")
    assert {(event.did, event.tenant) for event in told.take(200)} == {("created", "ann")}
    write(outside, "UPDATE kid SET owner_id = 'b'")
    updates = told.take(200)
    assert {event.did for event in updates} == {"updated"}
    assert {(event.before or {})["owner_id"] for event in updates} == {"a"}
    assert {(event.after or {})["owner_id"] for event in updates} == {"b"}
    assert {event.tenant for event in updates} == {"bob"}
    write(outside, "DELETE FROM plain WHERE id = 'b'")  # the cascade deletes the children after their parent
    assert {(event.did, event.tenant) for event in told.take(200)} == {("deleted", "bob")}


def test_what_a_subscription_applies_is_told(outside: Shaped, told: Told) -> None:
    outside.outside.execute("SET session_replication_role = replica")
    for sql in (
        "INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)",
        "UPDATE plain SET grp = 'g2'",
        "DELETE FROM plain",
    ):
        outside.outside.execute(sql.encode())
    assert [(event.did, event.id) for event in told.take(3)] == [("created", "a"), ("updated", "a"), ("deleted", "a")]


@pytest.mark.fast
def test_what_is_not_committed_is_not_told(outside: Shaped, told: Told) -> None:
    with outside.gate.engine.connect() as connection:
        connection.execute(text("INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)"))
        connection.rollback()
        savepoint = connection.begin_nested()
        connection.execute(text("INSERT INTO plain VALUES ('b', 'ann', 'g1', 0)"))
        savepoint.rollback()
        connection.execute(text("INSERT INTO plain VALUES ('c', 'ann', 'g1', 0)"))
        assert not told.events
        connection.commit()
    outside.outside.execute("ALTER TABLE plain ADD UNIQUE (grp, value) DEFERRABLE INITIALLY DEFERRED")
    with pytest.raises(IntegrityError, match="duplicate key"):  # at COMMIT
        watched(outside, "INSERT INTO plain VALUES ('d', 'ann', 'g1', 0)")
    watched(outside, "INSERT INTO plain VALUES ('e', 'ann', 'g2', 0)")
    assert [event.id for event in told.take(2)] == ["c", "e"]


@pytest.mark.parametrize("write", WHO)
def test_summaries_say_that_they_are(outside: Shaped, told: Told, write: Callable[[Shaped, str], None]) -> None:
    write(outside, "INSERT INTO plain SELECT 'x' || i, 'ann', 'g1', 0 FROM generate_series(1, 1001) i")
    assert told.take(1) == [RowEvent("changed", "plain", "ann")]
    write(outside, "TRUNCATE plain CASCADE")
    write(outside, "INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)")
    assert [(event.did, event.entity, event.tenant) for event in told.take(2)] == [
        ("changed", "plain", None),
        ("created", "plain", "ann"),
    ]
    outside.outside.execute("ALTER TABLE plain RENAME grp TO grp2")
    write(outside, "UPDATE plain SET value = 1")
    assert told.take(1) == [RowEvent("changed", "plain")]
    outside.comparison.settle()
    assert not told.events


def test_of_two_gates_exactly_one_is_told(outside: Shaped, told: Told) -> None:
    with tidegate.connect(outside.settings) as other:
        wrapped(other)
        told_other = Told()
        other.observe(Plain, told_other)
        for at in range(20):
            watched(outside, f"INSERT INTO plain VALUES ('w{at}', 'ann', 'g1', 0)")
            beside(outside, f"INSERT INTO plain VALUES ('o{at}', 'ann', 'g1', 0)")
        wait_for(lambda: len(told.events) + len(told_other.events) >= 40, "40 events", patient(10))
    ids = [event.id for event in (*told.events, *told_other.events)]
    assert sorted(ids) == sorted([f"w{at}" for at in range(20)] + [f"o{at}" for at in range(20)])
    assert {f"w{at}" for at in range(20)} <= {event.id for event in told.events}, "who commits is who tells"


def test_changes_of_a_row_are_told_in_their_order_whoever_makes_them(outside: Shaped, told: Told) -> None:
    beside(outside, "INSERT INTO plain VALUES ('a', 'ann', 'g0', 0)")
    told.take(1)

    def write(times: int) -> None:
        for _ in range(times):
            watched(outside, "UPDATE plain SET grp = 'g' || (substr(grp, 2)::int + 1)")

    writers = [threading.Thread(target=write, args=(50,)) for _ in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    events = told.take(300)
    assert [(event.after or {})["grp"] for event in events] == [f"g{at}" for at in range(1, 301)]


def test_a_commit_that_returns_late_is_told_before_what_came_after_it(
    outside: Shaped, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside(outside, "INSERT INTO plain VALUES ('a', 'ann', 'g0', 0)")
    told.take(1)
    commit: Any = outside.gate.engine.dialect.do_commit
    after, returned, go_on = commit.watch._after_commit, threading.Event(), threading.Event()

    def late(raw: Any) -> None:
        if threading.current_thread().name == "first":
            returned.set()
            assert go_on.wait(patient(20))
        after(raw)

    monkeypatch.setattr(commit.watch, "_after_commit", late)
    raise_group = "UPDATE plain SET grp = 'g' || (substr(grp, 2)::int + 1)"
    first = threading.Thread(target=watched, args=(outside, raise_group), name="first")
    first.start()
    assert returned.wait(patient(20))
    watched(outside, raise_group)
    go_on.set()
    first.join()
    assert [(event.after or {})["grp"] for event in told.take(2)] == ["g1", "g2"]


def test_an_observer_that_raises_breaks_nothing_and_is_logged_once(
    outside: Shaped, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_event: RowEvent) -> None:
        raise ValueError("no such queue")

    outside.gate.observe(None, fails)
    after = Told()
    stop = outside.gate.observe(Plain, after)
    for at in range(3):
        watched(outside, f"INSERT INTO plain VALUES ('a{at}', 'ann', 'g1', 0)")
    assert [event.id for event in after.take(3)] == ["a0", "a1", "a2"]
    assert len([r for r in caplog.records if "no such queue" in r.getMessage()]) == 1
    assert outside.gate.stats().events["ObserverFailed: ValueError"] == 3
    stop()
    told.events.clear()
    watched(outside, "DELETE FROM plain")
    told.take(3)
    assert not after.events


def test_an_observer_that_hangs_holds_no_writer_up_and_misses_what_does_not_fit(
    database_url: str, valkey_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module.Observers.__init__, "__kwdefaults__", {"most_bytes": 400, "patience_s": 60.0})
    go_on, events = threading.Event(), Told()

    def hangs(event: RowEvent) -> None:
        events(event)
        go_on.wait(patient(60))

    with ExitStack() as stack:
        outside = stack.enter_context(shaped(database_url, valkey_url))
        stack.callback(go_on.set)
        outside.gate.observe(Plain, hangs)
        for at in range(30):
            watched(outside, f"INSERT INTO plain VALUES ('a{at}', 'ann', 'g1', 0)")
        assert outside.outside.execute("SELECT count(*) FROM plain").fetchall() == [(30,)]
        missed = outside.gate.stats().events["ObserversMissed"]
        assert 0 < missed < 30
        assert "observers are too slow" in caplog.text
        go_on.set()
        found = events.take(30 - missed + 1)
        assert [event.did for event in found].count("changed") == 1
        watched(outside, "DELETE FROM plain WHERE id = 'a29'")
        assert [(event.did, event.id) for event in events.take(1)] == [("deleted", "a29")]


def test_what_waits_is_told_when_the_gate_is_closed(outside: Shaped, told: Told) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow(_event: RowEvent) -> None:
        entered.set()
        go_on.wait(patient(10))

    outside.gate.observe(Plain, slow)
    for at in range(5):
        watched(outside, f"INSERT INTO plain VALUES ('a{at}', 'ann', 'g1', 0)")
    assert entered.wait(patient(10))
    go_on.set()
    outside.gate.close()
    assert len(told.events) == 5


def test_nothing_is_kept_or_started_while_nobody_observes(outside: Shaped) -> None:
    watched(outside, "INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)")
    beside(outside, "INSERT INTO plain VALUES ('b', 'ann', 'g1', 0)")
    outside.comparison.settle()
    observers: Any = outside.gate._parts.observers
    assert (len(observers._queue), observers._thread.started) == (0, False)


def test_only_what_the_gate_tracks_can_be_observed(outside: Shaped) -> None:
    class Stranger:
        pass

    with pytest.raises(PolicyError, match="Stranger is not tracked by this gate"):
        outside.gate.observe(Stranger, Told())
    with pytest.raises(TypeError, match="a function is expected, not 'tell'"):
        outside.gate.observe(None, "tell")  # type: ignore[arg-type]
    everything = Told()
    outside.gate.observe(None, everything)
    watched(outside, "INSERT INTO other.side VALUES ('s', 'ann', 'g1', 0)")
    assert [(event.entity, event.id) for event in everything.take(1)] == [("other.side", "s")]
    assert Side.__tablename__ == "side"


def test_the_audit_log(outside: Shaped, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tidegate.audit")
    outside.gate.observe(None, AuditLog())
    done = Told()
    outside.gate.observe(None, done)
    watched(outside, "INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)")
    beside(outside, "TRUNCATE plain CASCADE")
    done.take(2)
    lines = [record.getMessage() for record in caplog.records if record.name == "tidegate.audit"]
    assert lines[:2] == ["created: plain a of ann", "changed: plain of any tenant"]
