"""The digest of a call: what makes two calls the same, and what does not."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import pytest

from tidegate.proxy.call import Call, Method
from tidegate.proxy.layers.fingerprint import DIGEST_BYTES, WRAPPED, _begun, _own_name, fingerprint_of
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


def of_factory(only: str) -> type[Runs]:
    class Made(Runs):
        filtered_by = only

    return Made


def test_classes_of_one_name_are_told_apart_and_each_is_itself() -> None:
    red, blue = of_factory("red"), of_factory("blue")
    assert fingerprint({"a": 1}, cls=red) != fingerprint({"a": 1}, cls=blue)
    assert fingerprint({"a": 1}, cls=red) == fingerprint({"a": 1}, cls=red)
    below = [type("Below", (made,), {"__module__": __name__, "__qualname__": "Runs"}) for made in (red, blue)]
    assert fingerprint({"a": 1}, cls=below[0]) != fingerprint({"a": 1}, cls=below[1])
    wrapped = [type("Made", (made,), {WRAPPED: made, "__qualname__": made.__qualname__}) for made in (red, red, blue)]
    first, again, other = [fingerprint({"a": 1}, cls=made) for made in wrapped]
    assert first == again != other, "two gates that wrap one class share its answers"


def test_a_class_that_has_a_name_is_the_same_in_every_process() -> None:
    named = fingerprint({"a": 1}, cls=Runs)
    _begun.cache_clear()
    _own_name.cache_clear()  # as in another process
    assert fingerprint({"a": 1}, cls=Runs) == named
    local = of_factory("red")
    own = fingerprint({"a": 1}, cls=local)
    _begun.cache_clear()
    _own_name.cache_clear()
    assert fingerprint({"a": 1}, cls=local) != own


class Slotted(Runs):
    __slots__ = ("only_open",)


@pytest.mark.parametrize("cls", [Runs, Slotted])
def test_an_attribute_that_is_set_later_counts(cls: type[Any]) -> None:
    call = call_on(cls(), (), {"a": 1})
    found = [fingerprint_of(call)]
    for value in (True, False, ["x"], "text"):
        call.repository.only_open = value
        found.append(fingerprint_of(call))
    call.repository.only_open = object()
    assert fingerprint_of(call) is None, "nobody can tell what it is"
    del call.repository.only_open
    assert None not in found
    assert len(set(found)) == 5
    assert fingerprint_of(call) == found[0]


def test_what_was_there_when_the_repository_was_made_follows_from_what_it_was_made_with() -> None:
    def made() -> Call:
        repository: Any = Runs()
        repository.log, repository.options = object(), ["red"]
        home: Any = None
        repository.tidegate_binding = Binding(home, attributes=dict(repository.__dict__))
        return Call(repository, Method("read", "Runs.read", lambda: None), Read(), {"a": 1}, "t", None)

    assert fingerprint_of(made()) == fingerprint_of(made()) is not None
    changed: Any = made()
    changed.repository.options.append("blue")
    assert fingerprint_of(changed) != fingerprint_of(made())
    changed.repository.log = object()
    assert fingerprint_of(changed) is None


@pytest.mark.parametrize("argument", [object(), {1: object()}, 2**64, "\ud800", [[object()]]])
def test_what_cannot_be_told_apart_has_none_and_spoils_nothing(argument: object) -> None:
    expected = fingerprint({"a": 1})
    assert fingerprint({"before": "x" * 100, "a": argument}) is None
    assert fingerprint({"a": 1}) == expected
