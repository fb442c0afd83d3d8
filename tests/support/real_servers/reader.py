"""A reader: reads through a gate of its own until its standard input ends, and compares with the primary.

Before each read it asks the primary on a connection of its own how many writes are visible: the floor. Says "reading"
first, and at the end reports.
"""

from __future__ import annotations

import os
import select
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import psycopg

import tidegate
from real_servers.subprocesses import argument, tell
from real_servers.versioned_tenant import CALLS, FLOOR, READS, Book
from tidegate.cache.events import Served

if TYPE_CHECKING:
    from tidegate.proxy.observe import Event

_MOST_SHOWN = 5


def main() -> None:
    """Argument: settings, and books."""
    os.nice(5)  # readers never rest: the writers must get on all the same
    given = argument()
    books = [Book(**book) for book in given["books"]]
    settings = tidegate.Settings.model_validate(given["settings"])
    events: Counter[str] = Counter()

    def observe(event: Event) -> None:
        events[f"served by {event.where}" if isinstance(event, Served) else type(event).__name__] += 1

    with tidegate.connect(settings, observe=observe) as gate:
        url = gate.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True) as primary:
            tell(_read_on(gate, primary, books) | {"events": dict(events)})


def _read_on(gate: tidegate.Gate, primary: psycopg.Connection[Any], books: list[Book]) -> dict[str, Any]:
    reads: Counter[str] = Counter()
    stale: list[str] = []
    tell("reading")
    while not _is_over():
        for book in books:
            for name, read in READS.items():
                ((floor,),) = primary.execute(FLOOR, (book.run,)).fetchall()
                seen = read(gate, book, floor)
                reads[name] += CALLS.get(name, 1)
                if seen < floor:
                    stale.append(f"{name} saw {seen} writes, {floor} were visible")
    return {"reads": dict(reads), "stale": len(stale), "examples": stale[:_MOST_SHOWN]}


def _is_over() -> bool:
    return bool(select.select([sys.stdin], [], [], 0)[0])


if __name__ == "__main__":
    main()
