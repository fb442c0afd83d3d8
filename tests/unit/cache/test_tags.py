"""What templates expand to: the same text for every spelling of the same row."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from enum import StrEnum
from typing import Any

import pytest

from tidegate.cache.tags import UNKNOWN, as_day, as_text, template
from tidegate.errors import PolicyError

ID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
NOON = datetime.fromisoformat("2024-03-05T12:00:00")


class Kind(StrEnum):
    INPUTS = "inputs"


@pytest.mark.parametrize("spelling", [ID, ID.upper(), ID.replace("-", ""), f"{{{ID}}}", uuid.UUID(ID)])
def test_ids_have_one_text(spelling: Any) -> None:
    assert as_text(spelling) == ID


@pytest.mark.parametrize(
    ("value", "text"), [("n1", "n1"), ("1711" * 8 + "x", "1711" * 8 + "x"), (7, "7"), (Kind.INPUTS, "inputs"), ("", "")]
)
def test_other_values_are_left_alone(value: Any, text: str) -> None:
    assert as_text(value) == text
    assert type(as_text(value)) is str


@pytest.mark.parametrize(
    ("value", "day"),
    [
        (NOON, "20240305"),
        (NOON.replace(tzinfo=UTC), "20240305"),
        (datetime(2024, 3, 5, 23, tzinfo=timezone(timedelta(hours=-3))), "20240306"),
        (date(2024, 3, 5), "20240305"),
        ("2024-03-05 12:00:00.5", "20240305"),
        ("2024-03-05T23:00:00-03:00", "20240306"),
        (datetime.fromisoformat("0007-01-02"), "00070102"),
    ],
)
def test_days_are_those_of_utc(value: Any, day: str) -> None:
    assert as_day(value) == day


def test_expansion() -> None:
    made = template("runs:{app_id}:{created_at:day}")
    assert made.fields == ("app_id", "created_at")
    assert made.expand({"app_id": ID.upper(), "created_at": NOON}) == f"runs:{ID}:20240305"
    assert made.expand({"app_id": None, "created_at": UNKNOWN}) is None
    assert made.expand({"app_id": ID, "created_at": UNKNOWN}) is UNKNOWN
    assert made.expand({"app_id": ID}) is UNKNOWN
    assert made.expand({"app_id": ID, "created_at": "infinity"}) is UNKNOWN
    assert template("100%:{x}").expand({"x": "%s"}) == "100%:%s"
    assert template("everything").expand({}) == "everything"


@pytest.mark.parametrize("text", ["{}", "{0}", "{a.b}", "{a[0]}", "{a!r}", "{a:month}"])
def test_templates_that_are_none(text: str) -> None:
    with pytest.raises(PolicyError, match="is no template of a tag"):
        template(text)
