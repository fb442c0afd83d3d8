"""Lists of frozen dataclasses as columns, and what bodies that nobody here has made may not do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import pytest

from tidegate.cache.codec.encode_rows import MOST_ROWS
from tidegate.cache.codec.records import Records
from tidegate.cache.codec.values import NotThisAnswer, Uncacheable, Undecodable, pack


class State(StrEnum):
    RUNNING = "running"


class Other(StrEnum):
    RUNNING = "running"


@dataclass(frozen=True)
class Snapshot:
    index: int
    state: State | str | None
    at: datetime


@dataclass
class Loose:
    index: int


AT = datetime.fromisoformat("2026-03-05T12:00:00")
RECORDS = Records([Snapshot], [State])


def test_records_come_back_as_they_were() -> None:
    given = [Snapshot(1, State.RUNNING, AT), Snapshot(2, None, AT)]
    back = RECORDS.together(RECORDS.checked(RECORDS.apart(given)))
    assert back == given
    assert type(back[0].state) is State


@pytest.mark.parametrize("answer", [[], (Snapshot(1, None, AT),), [Loose(1)], [1], None])
def test_other_answers_are_no_records(answer: object) -> None:
    assert not RECORDS.are(answer)


def test_what_would_not_come_back_is_refused() -> None:
    with pytest.raises(Uncacheable):
        RECORDS.apart([Snapshot(1, Other.RUNNING, AT)])
    with pytest.raises(Uncacheable):
        RECORDS.apart([Snapshot(1, None, AT)] * (MOST_ROWS + 1))
    with pytest.raises(TypeError, match="no frozen dataclass"):
        Records([Loose])


def test_a_forged_body_makes_no_records() -> None:
    name, names, kinds, packed = RECORDS.apart([Snapshot(1, State.RUNNING, AT)])
    many = MOST_ROWS + 1
    for forged in (
        [name, names, kinds, pack([[1] * many, ["running"] * many, [AT.isoformat()] * many])],
        [name, names, kinds, pack([[{"index": 1}], ["running"], [AT.isoformat()]])],
        [name, names, kinds, pack([[1, 2], ["running"], [AT.isoformat()]])],
    ):
        with pytest.raises(Undecodable):
            RECORDS.checked(forged)
    for strange in (
        ["os.system", names, kinds, packed],
        [name, ["other"], kinds, packed],
        [name, names, ["p"] * 2 + ["e?"], packed],
    ):
        with pytest.raises(NotThisAnswer):
            RECORDS.checked(strange)
