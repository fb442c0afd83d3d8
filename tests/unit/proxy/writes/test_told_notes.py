"""What is made of the notices that triggers tell notes by; a notice may be anybody's, and say anything."""

from __future__ import annotations

import json
from typing import Any

import pytest
from psycopg.pq import DiagnosticField

from tidegate.proxy.database.note_functions import FEW, TOLD_STATE
from tidegate.proxy.writes.told_notes import ToldNotes

PLACE = ["0/17EB318", "000000010000000000000001", "1796004121.463298"]
RECORD = "1 8d80f2192fe5f76b 1 1796004121.463298 1796004121.036690 d31b94f131c29751"


class Notice:
    def __init__(self, state: str, detail: bytes | None) -> None:
        self._fields = {DiagnosticField.SQLSTATE: state.encode(), DiagnosticField.MESSAGE_DETAIL: detail}

    def error_field(self, field: DiagnosticField) -> bytes | None:
        return self._fields[field]


def one(number: int = 0, xid: str = "800", place: Any = None, rows: str = "[]") -> list[Any]:
    return [xid, number, place or f"(0,{number})", 100 + number, *PLACE, RECORD, "source", rows]


def after(*details: Any) -> ToldNotes:
    found = ToldNotes(None)
    for detail in details:
        found(Notice(TOLD_STATE, detail if isinstance(detail, bytes) else json.dumps(detail).encode()))
    return found


def test_notes_places_and_transaction_are_those_that_were_told() -> None:
    told = after(one(0, rows="[1]"), one(1, rows="[2]")).told("utf-8")
    assert told is not None
    assert (told.places, told.ids) == (["(0,0)", "(0,1)"], [100, 101])
    assert [note.rows for note in told.notes] == ["[1]", "[2]"]
    assert told.transaction.xid == "800"
    assert told.transaction.position.text() == "00000001.00000000017eb318"
    assert told.transaction.history is not None


def test_a_note_that_a_savepoint_took_back_counts_as_heard() -> None:
    told = after(one(0), one(1, place="(0,5)"), one(1), one(2)).told("utf-8")
    assert told is not None
    assert told.places == ["(0,0)", "(0,5)", "(0,1)", "(0,2)"]


def test_a_record_of_another_life_tells_no_history() -> None:
    told = after([*one()[:7], RECORD.replace("1 1796004121.463298", "2 1796004121.463298"), "source", "[]"]).told(
        "utf-8"
    )
    assert told is not None
    assert told.transaction.history is None


@pytest.mark.parametrize(
    "details",
    [
        pytest.param([], id="nothing"),
        pytest.param([one(1)], id="the first was not heard"),
        pytest.param([one(0), one(2)], id="one between was not heard"),
        pytest.param([one(number) for number in range(FEW + 1)], id="too many"),
        pytest.param([one(0), b""], id="one that is too long to be told"),
        pytest.param([one(0, xid="799"), one(0)], id="another transaction's"),
        pytest.param([one(0, place="(0,1)', '{}'); DROP TABLE plain; --")], id="no place"),
        pytest.param([one(0, place=7)], id="a number for a place"),
        pytest.param([[*one(0)[:3], "1}'); DROP TABLE plain; --", *one(0)[4:]]], id="no id"),
        pytest.param([b"no JSON"], id="no JSON"),
        pytest.param([b"[]"], id="an empty list"),
        pytest.param([b"{}"], id="a mapping"),
        pytest.param([b"\xff\xfe"], id="no text"),
        pytest.param([[*one(0)[:4], None, None, None, None, "source", "[]"]], id="no position"),
    ],
)
def test_without_all_of_it_the_notes_must_be_asked_for(details: list[Any]) -> None:
    assert after(*details).told("utf-8") is None


def test_what_has_ended_is_forgotten() -> None:
    found = after(one())
    found.forget()
    assert found.told("utf-8") is None


def test_a_notice_of_somebody_else_is_passed_on() -> None:
    heard: list[object] = []
    found, other = ToldNotes(heard.append), Notice("00000", b"detail")
    found(other)
    found(Notice(TOLD_STATE, json.dumps(one()).encode()))
    assert heard == [other]
    ToldNotes(None)(other)


def test_text_is_of_the_connection_s_encoding() -> None:
    told = after(json.dumps(one(rows="é"), ensure_ascii=False).encode("latin-1")).told("iso8859-1")
    assert told is not None
    assert told.notes[0].rows == "é"
