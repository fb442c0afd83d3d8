"""A gate in a program under gevent, as Dify's is: 50 greenlets, everything patched, on real servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from real_servers.printed_numbers import show
from real_servers.subprocesses import Child
from real_servers.versioned_tenant import Book
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

if TYPE_CHECKING:
    from tidegate.proxy.embedded import Cluster


@pytest.fixture
def given(tables_url: str, cluster: Cluster) -> dict[str, Any]:
    books = [Book.new() for _ in range(10)]
    engine = create_engine(tables_url)
    with Session(engine) as session:
        session.add_all([book.first() for book in books])
        session.commit()
    engine.dispose()
    # Patient: 50 greenlets share one thread, and what is shown is not how long each waits for its turn.
    cache = {"url": cluster.cache.url, "connect_timeout_ms": 5_000, "read_timeout_ms": 5_000}
    settings = {"shards": [{"name": "s0", "primary": tables_url}], "cache": cache}
    bounded = settings | {"cache": cache | {"near": True, "near_modes": {"all": "bounded"}}}
    return {"settings": settings, "bounded": bounded, "books": [book.plain() for book in books]}


def test_fifty_greenlets_share_a_gate(given: dict[str, Any]) -> None:
    with Child("greenlets", given, fresh=True) as child:
        told = child.hear()
    show("reads", f"{told['reads']}, of which the cache served {told['served']}")
    assert told["stale"] == []
    assert told["served"]["store"] > 0
    assert told["queries"] == 1
    assert told["blocked"] >= 10  # at the same time: one thread that waits for the server would be the only one
    assert told["invalidated"] == [1, 0]
    assert told["near"] == [0, 0]
