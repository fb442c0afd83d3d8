"""A writer killed at each step between BEGIN and the return to its caller, and readers that must not notice.

Readers in processes of their own ask the primary, before each read, how many writes are visible, and never may an
answer of the gate know of fewer. What the readers see while, and after, a writer dies is in their reports.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from real_servers.amounts import amount
from real_servers.killed_writer import RETURNED, STEPS
from real_servers.printed_numbers import show
from real_servers.subprocesses import Child
from real_servers.versioned_tenant import FLOOR, Book
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from tidegate.repositories.indexes import create_indexes
from tidegate.repositories.models import Base

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = 3


@pytest.fixture
def books(database_url: str) -> list[Book]:
    engine = create_engine(database_url)
    Base.metadata.create_all(engine)
    create_indexes(engine)
    made = [Book.new() for _ in range(2)]
    with Session(engine) as session:
        session.add_all(book.first() for book in made)
        session.commit()
    engine.dispose()
    return made


@pytest.fixture
def given(database_url: str, valkey_url: str, books: list[Book]) -> dict[str, Any]:
    # Patient with the cache: on a busy machine a slow answer would send writes to the outbox, whose window is allowed.
    cache = {"url": valkey_url, "near": True, "connect_timeout_ms": 5_000, "read_timeout_ms": 5_000}
    settings = {"shards": [{"name": "s0", "primary": database_url}], "cache": cache}
    return {"settings": settings, "books": [book.plain() for book in books], "seed": SEED}


@pytest.fixture
def readers(given: dict[str, Any]) -> Iterator[list[Child]]:
    without_near = given | {"settings": given["settings"] | {"cache": given["settings"]["cache"] | {"near": False}}}
    with ExitStack() as stack:
        children = [stack.enter_context(Child("reader", argument)) for argument in (given, without_near)]
        for child in children:
            assert child.hear() == "reading"
        yield children


@pytest.fixture
def writer(given: dict[str, Any]) -> Iterator[Child]:
    with Child("killed_writer", given) as child:
        assert child.hear() == "ready"
        yield child


def kill_writers(writer: Child, times: int, steps: tuple[str, ...], broken: str = "") -> Counter[str]:
    """Kill *times* children at each step, one step after the other."""
    killed: Counter[str] = Counter()
    for turn in range(times):
        for step in steps:
            assert writer.ask({"step": step, "broken": broken}), f"no child came to: {step}"
            killed[step] += 1
        if turn % 50 == 49:
            show("turns", f"{turn + 1} of {times}")
    return killed


def reports(readers: list[Child]) -> tuple[Counter[str], Counter[str], int, list[str]]:
    """What all readers did together: reads, events, stale reads, examples."""
    found = [reader.ask("end") for reader in readers]
    reads, events = Counter[str](), Counter[str]()
    for report in found:
        reads.update(report["reads"])
        events.update(report["events"])
    return reads, events, sum(report["stale"] for report in found), [e for report in found for e in report["examples"]]


def show_reads(reads: Counter[str], events: Counter[str], stale: int) -> None:
    hits = sum(times for event, times in events.items() if event.startswith("served"))
    show("reads", reads)
    show("of these", f"{hits / reads.total():.0%} from the cache, {stale} stale")
    show("events", events)


SOAK = pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])


@pytest.mark.parametrize("times", [amount(6, 2), SOAK])
def test_no_reader_sees_what_a_killed_writer_left(
    times: int, writer: Child, readers: list[Child], cluster: Any, books: list[Book], database_url: str
) -> None:
    killed = kill_writers(writer, times, (*STEPS, RETURNED))
    reads, events, stale, examples = reports(readers)
    show("kills", killed)
    show_reads(reads, events, stale)
    database = database_url.rsplit("/", 1)[1]
    written = sum(cluster.shards[0].primary.execute(FLOOR, book.run, database=database)[0][0] for book in books)
    show("committed", f"{written} of {killed.total()} writes")
    assert all(killed[step] == times for step in STEPS)
    assert 4 * times <= written <= 5 * times  # COMMIT was sent in five of the steps, and may be carried out in one
    assert stale == 0, examples
    assert events["served by store"] > reads.total() / 20, "the cache must have answered, or nothing was tried"
    assert events["served by near"] > 0
    assert events["RootAdvanced"] > 0, "intents of the dead must have been resolved"


def test_a_writer_that_opens_no_intent_is_found_out(writer: Child, readers: list[Child]) -> None:
    # The same readers, and a protocol that lacks one rule: what they would say if the product lacked it.
    kill_writers(writer, 10, ("after COMMIT",), broken="no intent")
    reads, events, stale, _ = reports(readers)
    show_reads(reads, events, stale)
    assert stale > 0
