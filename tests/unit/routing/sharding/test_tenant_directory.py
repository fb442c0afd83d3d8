"""The directory: ids that were found, within bounds."""

from __future__ import annotations

import os
import tracemalloc
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tidegate.routing.sharding.tenant_directory import BYTES_AN_ID, IdDirectory

if TYPE_CHECKING:
    from tidegate.repositories.tenant_directory import TenantDirectory

ID, OTHER = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
TENANT = "4c0fe2c1-2b6d-4a3e-9f57-0d6c2f1b8e90"


def test_what_was_noted_is_known_by_every_spelling_and_nothing_else_is() -> None:
    directory: TenantDirectory = IdDirectory()
    assert directory.tenants("run", [ID]) == {}
    directory.record("run", [(ID.upper(), "{" + TENANT + "}")])
    spelt = ID.replace("-", "")
    assert directory.tenants("run", [spelt, OTHER, "none"]) == {spelt: TENANT}
    assert directory.tenants("node", [ID]) == {}
    directory.record("node", [(ID, "acme")])
    assert (directory.tenants("run", [ID]), directory.tenants("node", [ID])) == ({ID: TENANT}, {ID: "acme"})
    directory.evict("run", [spelt, OTHER])
    assert (directory.tenants("run", [ID]), directory.tenants("node", [ID])) == ({}, {ID: "acme"})


def test_what_was_used_longest_ago_is_forgotten_first() -> None:
    directory = IdDirectory(most_ids=3)
    directory.record("run", [("a", "t"), ("b", "t"), ("c", "t")])
    directory.tenants("run", ["a"])
    directory.record("run", [("b", "t"), ("d", "t")])
    assert set(directory.tenants("run", "abcd")) == {"a", "b", "d"}
    assert len(directory) == 3


def test_an_entry_takes_no_more_than_is_said() -> None:
    count = 20_000
    ids = [str(uuid.UUID(int=i)) for i in range(2 * count)]
    directory = IdDirectory(most_ids=count)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    # Texts of their own, as they come from a database.
    directory.record("run", ((text[:1] + text[1:], TENANT) for text in ids))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(directory) == count
    assert BYTES_AN_ID / 2 < (after - before) / count < BYTES_AN_ID


def test_threads_may_share_it() -> None:
    directory = IdDirectory(most_ids=50)

    def use(start: int) -> bool:
        for i in range(2_000):
            key = str((start + i) % 100)
            directory.record("run", [(key, f"tenant of {key}")])
            found = directory.tenants("run", [key, str(i % 100)])
            assert all(tenant == f"tenant of {key}" for key, tenant in found.items())
            directory.evict("run", [str((i + 7) % 100)])
        return len(directory) <= 50

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(use, range(4)))


def test_a_process_forked_off_does_not_wait_for_a_thread_that_it_does_not_have() -> None:
    directory = IdDirectory()
    directory.record("run", [(ID, TENANT)])
    with directory._lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads is what this is about
        child = os.fork()
        if child == 0:
            os._exit(0 if directory.tenants("run", [ID]) == {ID: TENANT} else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_directory_of_no_ids_remembers_none() -> None:
    directory = IdDirectory(0)
    directory.record("run", [(ID, TENANT)])
    assert directory.tenant("run", ID) is None
    assert len(directory) == 0
