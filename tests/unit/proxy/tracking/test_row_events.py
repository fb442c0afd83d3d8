"""What notes say of single rows, and when observers are told of it."""

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING, Any, Final

from real_servers.deadlines import patient

from tidegate.proxy.tracking.notes import MOST_ROWS, Note, everything_note, note_of, source_of
from tidegate.proxy.tracking.observers import Observers
from tidegate.proxy.tracking.row_events import RowEvent, events_of, sources_of, summaries_of
from tidegate.proxy.tracking.tracked_tables import Tables
from tidegate.repositories.models import WorkflowPause, WorkflowRun
from tidegate.repositories.policies import Tracked

if TYPE_CHECKING:
    from collections.abc import Callable

TABLES: Final = Tables(
    [
        Tracked(WorkflowRun, tags=("runs:{app_id}",)),
        Tracked(WorkflowPause, tenant=None, parent=("workflow_run_id", WorkflowRun)),
    ]
)
RUNS, PAUSES = TABLES
SOURCES: Final = sources_of(TABLES)
OLDER: Final = next(iter(Tables([Tracked(WorkflowRun, tags=("run:{id}",))])))


def run(row_id: str, app: str = "a1", tenant: str = "t") -> dict[str, Any]:
    return {"id": row_id, "app_id": app, "tenant_id": tenant}


def note(did: str, *rows: Any, table: Any = RUNS) -> Note:
    return Note(source_of(table, did), json.dumps([list(row) for row in rows]))


def did(*notes: Note) -> list[tuple[str, Any]]:
    return [(event.did, event.id) for event in events_of(notes, SOURCES)]


def test_versions_are_paired_by_their_key() -> None:
    versions = [run("1"), run("2"), run("2", "a2"), run("1", "a3")]
    first, second = events_of([note("update", *([own] for own in versions))], SOURCES)
    assert first == RowEvent("updated", "workflow_runs", "t", "2", run("2"), run("2", "a2"))
    assert second == RowEvent("updated", "workflow_runs", "t", "1", run("1"), run("1", "a3"))
    assert did(note("update", [run("1")], [run("3")])) == [("deleted", "1"), ("created", "3")]


def test_a_key_that_several_rows_have_is_told_for_each() -> None:
    """As in a table and one that inherits from it."""
    assert did(note("update", *([run("1")] for _ in range(4)))) == [("updated", "1"), ("updated", "1")]


def test_notes_of_another_release_and_those_without_a_table_are_no_events() -> None:
    assert did(Note(source_of(OLDER, "insert"), json.dumps([[run("1")]])), note_of([])) == []
    assert did(note("insert", [run("1")])) == [("created", "1")]


def test_a_row_whose_parent_is_gone_has_the_tenant_of_the_same_transaction() -> None:
    pause = {"id": "p", "workflow_run_id": "1"}
    gone = note("delete", [pause, None], table=PAUSES)
    assert [event.tenant for event in events_of([gone], SOURCES)] == [None]
    assert [event.tenant for event in events_of([note("delete", [run("1")]), gone], SOURCES)] == ["t", "t"]


def test_summaries() -> None:
    source = source_of(RUNS, "insert")
    assert events_of([Note(source, json.dumps({"whole": ["t", "u"]}))], SOURCES) == [
        RowEvent("changed", "workflow_runs", "t"),
        RowEvent("changed", "workflow_runs", "u"),
    ]
    for rows in ({"all": True}, {"failed": "no such column"}):
        assert events_of([Note(source, json.dumps(rows))], SOURCES) == [RowEvent("changed", "workflow_runs")]
    assert events_of([everything_note("a partition is gone")], SOURCES) == [RowEvent("changed")]
    assert events_of([everything_note("a trigger failed", told=True)], SOURCES) == []
    many = note("insert", *([run(str(at))] for at in range(MOST_ROWS)))
    assert summaries_of([many], SOURCES) == [RowEvent("changed", "workflow_runs", "t")]


def observing(**options: Any) -> tuple[Observers, list[RowEvent], Callable[[int], None]]:
    observers, told, came = Observers(TABLES, **options), list[RowEvent](), threading.Condition()

    def tell(event: RowEvent) -> None:
        with came:
            told.append(event)
            came.notify()

    def wait(many: int) -> None:
        with came:
            assert came.wait_for(lambda: len(told) >= many, patient(10))

    observers.add(None, tell)
    return observers, told, wait


def test_a_commit_is_told_in_the_place_that_it_took_before_it_was_sent() -> None:
    observers, told, wait = observing()
    places = [observers.begin([note("insert", [run(str(at))])]) for at in range(4)]
    places[3].committed()
    places[1].rolled_back()
    places[2].lost()
    places[2].committed()  # too late: only the first end counts
    assert told == []
    places[0].committed()
    wait(3)
    observers.close()
    assert [(event.did, event.id) for event in told] == [("created", "0"), ("changed", None), ("created", "3")]


def test_a_commit_that_never_ends_holds_the_others_up_for_a_while_only() -> None:
    observers, told, wait = observing(patience_s=0.05)
    never = observers.begin([note("insert", [run("1")])])
    observers.begin([note("insert", [run("2")])]).committed()
    wait(2)
    assert [(event.did, event.id) for event in told] == [("changed", None), ("created", "2")]
    assert never.known is False
    observers.close()


def test_a_forked_process_tells_its_own_and_not_what_waited() -> None:
    observers, told, wait = observing()
    waits = observers.begin([note("insert", [run("1")])])
    child = os.fork()
    if child == 0:
        ok = False
        try:
            observers.begin([note("insert", [run("2")])]).committed()
            wait(1)
            ok = [event.id for event in told] == ["2"]
        finally:
            os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    waits.committed()
    wait(1)
    assert [event.id for event in told] == ["1"]
    observers.close()


def test_a_closed_gate_takes_nothing_more() -> None:
    observers, _, _ = observing()
    observers.close()
    assert not observers.active
