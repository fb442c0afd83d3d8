"""The digest of a call: what makes two calls the same, and what does not."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import pytest

from tidegate.proxy.call import Call, Method
from tidegate.proxy.layers.fingerprint import DIGEST_BYTES, fingerprint_of
from tidegate.repositories.base import Bindable, Binding
from tidegate.repositories.policies import Read

NOON = datetime.fromisoformat("2024-03-05T12:00:00")


class Source(StrEnum):
    APP = "app-run"


class Runs(Bindable):
    """A repository."""


class OtherRuns(Runs):
    """A subclass, which may override what its methods use."""


def fingerprint(
    arguments: dict[str, Any],
    *,
    name: str = "Runs.read",
    cls: type[Runs] = Runs,
    made_with: tuple[Any, ...] = (),
) -> bytes | None:
    return fingerprint_of(call_on(cls(), made_with, arguments, name))


def call_on(repository: Runs, made_with: tuple[Any, ...], arguments: dict[str, Any], name: str = "Runs.read") -> Call:
    home: Any = None
    repository.tidegate_binding = Binding(home, made_with=made_with)
    return Call(repository, Method("read", name, lambda: None), Read(), arguments, "t", None)


def test_calls_that_may_have_other_answers_have_other_digests() -> None:
    found = [
        fingerprint({"a": 1}),
        fingerprint({"a": True}),
        fingerprint({"a": 1.0}),
        fingerprint({"a": "1"}),
        fingerprint({"a": b"1"}),
        fingerprint({"a": [1]}),
        fingerprint({"a": None}),
        fingerprint({"a": 1, "b": None}),
        fingerprint({"a": NOON}),
        fingerprint({"a": NOON.replace(tzinfo=UTC)}),
        fingerprint({"a": NOON.isoformat()}),
        fingerprint({"a": 1}, name="Runs.count"),
        fingerprint({"a": 1}, cls=OtherRuns),
        fingerprint({"a": 1}, made_with=(1,)),
        fingerprint({}, made_with=(1,)),
    ]
    assert all(digest is not None and len(digest) == DIGEST_BYTES for digest in found)
    assert len(set(found)) == len(found)


def test_the_same_call_has_the_same_digest() -> None:
    assert fingerprint({"a": Source.APP}) == fingerprint({"a": "app-run"})
    assert fingerprint({"a": [Source.APP], "b": NOON}) == fingerprint({"a": ("app-run",), "b": NOON})


def test_what_a_repository_was_made_with_counts_as_it_is_now() -> None:
    options = ["red"]
    call = call_on(Runs(), (options,), {"a": 1})
    before = fingerprint_of(call)
    options[0] = "blue"
    assert fingerprint_of(call) != before


@pytest.mark.parametrize("argument", [object(), {1: object()}, 2**64, "\ud800", [[object()]]])
def test_what_cannot_be_told_apart_has_none_and_spoils_nothing(argument: object) -> None:
    expected = fingerprint({"a": 1})
    assert fingerprint({"before": "x" * 100, "a": argument}) is None
    assert fingerprint({"a": 1}) == expected
