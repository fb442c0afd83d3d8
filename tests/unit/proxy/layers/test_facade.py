"""Gated classes: the plain class to every eye, and a call for every method."""

from __future__ import annotations

import inspect
import sys
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tidegate.cache.request import Answer
from tidegate.errors import PolicyError
from tidegate.ids import canonical_id
from tidegate.proxy.layers.facade import gated
from tidegate.proxy.layers.gated_repositories import NodeExecutions, WorkflowRuns
from tidegate.repositories.base import Bindable, Binding
from tidegate.repositories.node_policies import NODE_EXECUTION_POLICIES
from tidegate.repositories.policies import PolicyTable, Read, Write
from tidegate.repositories.run_policies import WORKFLOW_RUN_POLICIES
from tidegate.repositories.scopes import ByRowId

if TYPE_CHECKING:
    from tidegate.proxy.call import Call

ID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"


class Plain:
    """A repository."""

    def __init__(self, session_maker: str) -> None:
        self.session_maker = session_maker

    def get(self, tenant_id: str, run_id: str, limit: int = 20, *, status: str | None = None) -> list[Any]:
        """Read."""
        return [tenant_id, run_id, limit, status, self.session_maker]

    def both(self, tenant_id: str) -> list[Any]:
        """A public method that calls another."""
        return self.get(tenant_id, "x")

    def with_session(self, session: object, tenant_id: str) -> list[Any]:
        """In the caller's session."""
        return [session, tenant_id]

    @classmethod
    def made_for(cls, maker: str) -> Plain:
        """A constructor of another kind."""
        return cls(maker)

    @staticmethod
    def joined(*words: str) -> str:
        """A helper that needs no repository."""
        return " ".join(words)

    def save(self, *rows: str, **options: str) -> list[Any]:
        """Write."""
        return [rows, options]


POLICIES = PolicyTable(
    {"get": Read(guard="run:{run_id}"), "both": Read(), "with_session": Read(), "save": Write()},
    ids=frozenset({"tenant_id", "run_id"}),
)


@gated(POLICIES)
class Gated(Plain, Bindable):
    """A repository behind a gate."""


def test_static_and_class_methods_are_what_they_were_and_no_calls(repository: Gated, calls: list[Call]) -> None:
    assert Gated.joined("a", "b") == repository.joined("a", "b") == "a b"
    assert type(Gated.made_for("maker")) is type(repository.made_for("maker")) is Gated
    assert calls == []
    named = gated(PolicyTable({**POLICIES, "joined": Read(), "made_for": Write()}, ids=POLICIES.ids))
    made: Any = named(type("Named", (Plain, Bindable), {}))
    assert made.joined("a") == "a", "rows for them are let be"


@pytest.fixture
def calls() -> list[Call]:
    return []


@pytest.fixture
def repository(calls: list[Call]) -> Gated:
    made = Gated("maker")

    def layer(call: Call) -> Answer:
        calls.append(call)
        return Answer(call.run())

    home: Any = "maker"
    made.tidegate_binding = Binding(home, layer)
    return made


def test_a_gated_class_looks_like_its_plain_class() -> None:
    for cls in (Gated, WorkflowRuns, NodeExecutions):
        plain = cls.__mro__[1]
        for name in (*POLICIES,) if cls is Gated else WORKFLOW_RUN_POLICIES if cls is WorkflowRuns else ():
            assert inspect.signature(getattr(cls, name)) == inspect.signature(getattr(plain, name))
            assert getattr(cls, name).__doc__ == getattr(plain, name).__doc__
    assert Gated(session_maker="m").get("t", "r") == ["t", "r", 20, None, "m"]
    NODE_EXECUTION_POLICIES.check(NodeExecutions)


def test_arguments_are_bound_with_defaults_and_ids_in_canonical_form(repository: Gated, calls: list[Call]) -> None:
    assert repository.get(ID.upper(), run_id="{" + ID + "}", status="failed") == [ID, ID, 20, "failed", "maker"]
    (call,) = calls
    assert (call.method.name, call.tenant) == ("get", ID)
    assert list(call.arguments.items()) == [("tenant_id", ID), ("run_id", ID), ("limit", 20), ("status", "failed")]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), (("t",), {}), (("t", "r", 1, 2), {}), (("t", "r"), {"run_id": "r"}), (("t", "r"), {"colour": 1})],
)
def test_a_call_that_does_not_fit_raises_what_the_plain_method_raises(
    repository: Gated, calls: list[Call], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(TypeError) as plain:
        Plain("m").get(*args, **kwargs)
    with pytest.raises(TypeError, match="get") as ours:
        repository.get(*args, **kwargs)
    assert str(ours.value) == str(plain.value)
    assert calls == []


def test_a_public_method_that_a_plain_one_calls_is_no_new_call(repository: Gated, calls: list[Call]) -> None:
    assert repository.both("t") == ["t", "x", 20, None, "maker"]
    assert [call.method.name for call in calls] == ["both"]


def test_a_call_runs_on_a_copy_of_the_same_class_bound_to_the_node(repository: Gated, calls: list[Call]) -> None:
    repository.get("t", "r")
    assert calls[0].run("another") == ["t", "r", 20, None, "another"]  # type: ignore[arg-type]
    assert repository.session_maker == "maker"


def test_a_session_of_the_caller_goes_straight_to_the_plain_method(repository: Gated, calls: list[Call]) -> None:
    assert repository.with_session("s", "t") == ["s", "t"]
    assert repository.save("a", b="c") == [("a",), {"b": "c"}]
    assert calls == []


def test_a_table_that_does_not_fit_the_class_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(PolicyError, match="methods without a policy: both, save, with_session"):
        gated(PolicyTable({"get": Read()}))(type("New", (Plain,), {}))
    with pytest.raises(PolicyError, match="policies without a method on New: gone"):
        gated(PolicyTable({**POLICIES, "gone": Read()}))(type("New", (Plain,), {}))


def test_what_postgresql_reads_as_an_id_is_canonical_and_nothing_else() -> None:
    spellings = [ID, ID.upper(), ID.replace("-", ""), "{" + ID + "}", "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11"]
    assert {canonical_id(spelling) for spelling in [*spellings, uuid.UUID(ID)]} == {ID}
    for other in ("urn:uuid:" + ID, "{" + ID, ID + "-", ID + "\n", "x", "", None, 5):
        assert canonical_id(other) is None


def test_no_other_letter_becomes_a_digit_of_an_id_by_being_made_small() -> None:
    digits = set("0123456789abcdef-{}")
    others = [letter for letter in map(chr, range(sys.maxunicode + 1)) if digits & set(letter.lower())]
    assert "".join(others) == "-0123456789ABCDEFabcdef{}"
    assert canonical_id(ID.replace("a", "\N{CYRILLIC SMALL LETTER A}")) is None


def test_what_is_no_id_reaches_the_plain_method_as_it_was_and_is_not_cached(
    repository: Gated, calls: list[Call]
) -> None:
    assert repository.get(ID, "{" + ID) == [ID, "{" + ID, 20, None, "maker"]
    assert [call.route.cacheable for call in calls] == [False]


def test_a_method_that_may_name_no_tenant_must_say_where_its_rows_are() -> None:
    class New:
        def by_id(self, key: str) -> None: ...

    with pytest.raises(PolicyError, match=r"New\.by_id can be called without tenant_id"):
        gated(PolicyTable({"by_id": Read()}), sharded=True)(New)
    gated(PolicyTable({"by_id": Read(scope=ByRowId("run", "key"))}), sharded=True)(New)
    gated(PolicyTable({"by_id": Read()}))(New)
