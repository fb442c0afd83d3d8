"""What a process knows of its database's history, with servers and a cache in memory."""

from __future__ import annotations

from simulation.servers import Node, Raw, SimHistories

from tidegate.cache.memory_store import MemoryStore
from tidegate.position import UNKNOWN, History, HistoryRecord


def node(ordinal: int, started: str, timeline: int = 1) -> Node:
    record = HistoryRecord(History(ordinal, "aa"), timeline, started, "0", "d1").text()
    return Node(started, [record], 1, timeline=timeline, started=started)


def test_a_new_primary_whose_history_is_below_what_was_seen_gets_a_newer_one() -> None:
    store = MemoryStore()  # it was flushed: it does not know of the fifth
    before, now = node(5, "1"), node(2, "2")
    known = SimHistories(store, "", before)
    assert known.asked.history == History(5, "aa")
    known.forget()
    known.ask(Raw(now))
    assert known.asked.history == UNKNOWN
    rival = known.meet()
    assert rival is not None
    known.make_newer(Raw(now), rival)
    assert known.asked.history.ordinal == 6
    assert known.meet() is None


def test_what_a_server_that_was_left_still_answers_asks_for_no_newer_one() -> None:
    store = MemoryStore()
    before, now = node(5, "1"), node(6, "2", timeline=2)
    known = SimHistories(store, "", before)
    known.forget()
    known.ask(Raw(now))
    known.note(before.here)
    assert known.asked.history == History(6, "aa")
    assert known.meet() is None
