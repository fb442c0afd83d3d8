"""How much memory the near cache of a gate takes, for pages, runs and node executions as they are."""

from __future__ import annotations

import gc
import tracemalloc
from typing import TYPE_CHECKING, Any

from real_servers.gate_vs_plain import Pair
from real_servers.versioned_tenant import SOURCE

from tidegate.proxy.settings import CacheSettings

if TYPE_CHECKING:
    from tidegate.proxy.embedded.valkey import ValkeyNode

BOUND = 400_000
NOISE = 20_000
"""What the threads beside may take or give back meanwhile."""


def freed(cache: Any) -> tuple[int, int]:
    """What emptying *cache* gives back in bytes, and how much it said that it held."""
    gc.collect()
    before, said = tracemalloc.get_traced_memory()[0], cache.size
    cache.clear()  # no collection after it: threads beside would have the time to take memory meanwhile
    return before - tracemalloc.get_traced_memory()[0], said


def test_what_a_gate_keeps_is_within_near_bytes(database_url: str, shared_valkey: ValkeyNode) -> None:
    cache = CacheSettings(
        url=shared_valkey.url,
        near_bytes=BOUND,
        near_modes={"all": "strict"},
        blob_bytes=1_000,
        connect_timeout_ms=5_000,
        read_timeout_ms=5_000,
    )
    pair = Pair(database_url, cache, books=1)
    try:
        book, runs = pair.books[0], pair.gate.workflow_runs
        with pair.gate.session(book.tenant) as session:
            for _ in range(40):
                book.write(session)
            session.commit()
        caching: Any = pair.gate._layers._below._below._below  # type: ignore[attr-defined]
        tracemalloc.start()
        for _ in range(3):  # a miss, a hit that is kept, and one more where the first was read from marks made anew
            pair.differences()
            for number in range(1, 41):
                runs.get_paginated_workflow_runs(book.tenant, book.app, SOURCE, limit=number)
                runs.get_workflow_run_by_id(book.tenant, book.app, book.id_of(number))
                pair.gate.node_executions.get_executions_by_workflow_run(book.tenant, book.app, book.id_of(number))
        assert caching.near.size > 0.8 * BOUND, "the bound is reached"
        for kept in (caching.near, caching.blobs):
            held, said = freed(kept)
            assert held - NOISE <= said <= BOUND
            assert held + NOISE > said / 3 or said < NOISE
    finally:
        tracemalloc.stop()
        pair.close()
