"""Asking many shards at once: exact answers, errors that name the shard, and budgets of threads."""

from __future__ import annotations

import contextvars
import copy
import os
import threading
import uuid
import warnings
from datetime import datetime, timedelta
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_servers.deadlines import patient
from sqlalchemy.exc import OperationalError

from tidegate.errors import PartialResult
from tidegate.routing.sharding.scatter import Scatter, merged, summed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BEGIN = datetime(2026, 1, 1)  # noqa: DTZ001  # columns are naive


@pytest.fixture
def scatter() -> Iterator[Scatter]:
    made = Scatter(threads_each=2, timeout_s=patient(30))
    yield made
    made.close()


def fails(error: Exception) -> Callable[[], str]:
    def function() -> str:
        raise error

    return function


def down(text: str = "connection refused\nis the server running?") -> OperationalError:
    return OperationalError("SELECT 1", {}, Exception(text))


# Few moments, so that most rows share theirs with others, on one shard and on several.
rows_of_three = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3), st.uuids()), max_size=40, unique_by=lambda r: r[2]
)


@settings(deadline=None)
@given(rows_of_three, st.none() | st.integers(0, 12))
def test_the_first_rows_of_all_shards_are_those_of_one_database(
    drawn: list[tuple[int, int, uuid.UUID]], limit: int | None
) -> None:
    rows = [(shard, BEGIN + timedelta(seconds=second), str(id_)) for shard, second, id_ in drawn]
    # PostgreSQL compares ids as 16 bytes.
    everything = sorted(rows, key=lambda row: (row[1], uuid.UUID(row[2]).bytes))
    parts = [[row for row in everything if row[0] == shard][:limit] for shard in range(3)]
    assert merged(parts, itemgetter(1, 2), limit=limit) == everything[:limit]


def test_all_are_asked_at_once_with_the_callers_context(scatter: Scatter) -> None:
    variable = contextvars.ContextVar("variable", default="")
    variable.set("mine")
    together = threading.Barrier(3, timeout=patient(30))

    def ask(shard: str) -> tuple[str, str]:
        together.wait()
        return shard, variable.get()

    asked = {name: lambda name=name: ask(name) for name in "abc"}
    assert scatter("asking", asked) == {"a": ("a", "mine"), "b": ("b", "mine"), "c": ("c", "mine")}


def test_a_shard_that_fails_is_named_and_what_the_others_said_is_there(scatter: Scatter) -> None:
    with pytest.raises(PartialResult) as raised:
        scatter("get_run", {"a": lambda: 1, "b": fails(down()), "c": lambda: 3})
    assert str(raised.value) == "get_run failed on 1 of 3 shards (b: connection refused); succeeded on: a, c"
    assert (raised.value.succeeded, list(raised.value.failed)) == ({"a": 1, "c": 3}, ["b"])
    assert raised.value.__cause__ is raised.value.failed["b"]
    copied = copy.copy(PartialResult("x", {"a": 1}, {"b": ValueError("no")}))  # as workers hand errors on
    assert (str(copied), copied.succeeded) == ("x failed on 1 of 2 shards (b: no); succeeded on: a", {"a": 1})


def test_what_all_raise_of_the_call_itself_passes_unchanged(scatter: Scatter) -> None:
    wrong = ValueError("limit must be a whole number")
    with pytest.raises(ValueError, match="limit must be") as raised:
        scatter("x", {"a": fails(wrong), "b": fails(ValueError("limit must be"))})
    assert raised.value is wrong
    with pytest.raises(PartialResult):
        scatter("x", {"a": fails(wrong), "b": fails(KeyError("other"))})
    with pytest.raises(PartialResult):
        scatter("x", {"a": fails(wrong), "b": lambda: 1})


def test_a_slow_shard_ends_in_an_error_and_takes_no_thread_of_another(scatter: Scatter) -> None:
    go_on = threading.Event()
    began = threading.Semaphore(0)
    late: list[str] = []

    def slow() -> None:
        began.release()
        go_on.wait(patient(30))

    for _ in range(2):
        with pytest.raises(PartialResult, match="b: the shard b did not answer in time"):
            scatter("x", {"a": lambda: 1, "b": slow}, timeout_s=0.05)
    assert began.acquire(timeout=patient(30))
    assert began.acquire(timeout=patient(30))
    # Both threads of b are busy now. Others answer as ever, and what waits for b is not begun once nobody waits.
    for _ in range(20):
        assert scatter("x", {"a": lambda: 1, "c": lambda: 3}) == {"a": 1, "c": 3}
    answers = scatter.all_of({"a": lambda: 1, "b": lambda: late.append("b")}, timeout_s=0.05)
    assert (answers.succeeded, list(answers.failed)) == ({"a": 1}, ["b"])
    assert isinstance(answers.failed["b"], TimeoutError)
    go_on.set()
    assert scatter("x", {"b": lambda: 2}) == {"b": 2}
    assert late == []


def test_threads_are_made_when_they_are_needed_and_again_in_a_process_forked_off(scatter: Scatter) -> None:
    assert scatter._threads == {}
    scatter("x", {"a": lambda: 1})
    assert list(scatter._threads) == ["a"]
    with scatter._lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads is what this is about
        child = os.fork()
        if child == 0:
            os._exit(0 if scatter("x", {"a": os.getpid}, timeout_s=patient(20)) == {"a": os.getpid()} else 1)
    assert os.waitpid(child, 0)[1] == 0
    scatter.close()
    assert scatter("x", {"a": lambda: 1}) == {"a": 1}


def test_counts_are_added_name_by_name() -> None:
    assert summed([{"runs": 1, "pauses": 2}, {"runs": 3}, {}]) == {"runs": 4, "pauses": 2}


def test_nobody_is_waited_for_when_there_is_enough(scatter: Scatter) -> None:
    ended = threading.Event()
    asked: dict[str, Callable[[], Any]] = {"s0": lambda: "there", "s1": ended.wait, "s2": fails(down())}
    answers = scatter.all_of(asked, timeout_s=patient(30), enough=lambda some: "there" in some.values())
    assert not ended.is_set()
    assert answers.succeeded["s0"] == "there"
    ended.set()
    assert scatter.all_of(asked, enough=lambda some: len(some) > 2).failed.keys() == {"s2"}
