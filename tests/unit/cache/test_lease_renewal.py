"""Leases are renewed while their holders live, and no longer."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest
from real_servers.deadlines import patient

from tidegate.cache.lease_renewal import Renewals
from tidegate.cache.request import Limits
from tidegate.cache.store import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMITS = Limits(lease_ms=15, longest_ms=1_000_000)


class Lease:
    """Counts its renewals; tells whether it is still held."""

    def __init__(self, *, held: bool = True, away: bool = False) -> None:
        self.held, self.away = held, away
        self.renewals = 0
        self._news = threading.Condition()

    def __call__(self) -> bool:
        with self._news:
            self.renewals += 1
            self._news.notify_all()
        if self.away:
            raise StoreUnavailable("away")
        return self.held

    def wait_for(self, renewals: int) -> None:
        with self._news:
            assert self._news.wait_for(lambda: self.renewals >= renewals, patient(10))


@pytest.fixture
def renewals() -> Iterator[Renewals]:
    made = Renewals(LIMITS)
    yield made
    made.close()


def thread_runs() -> bool:
    return any(thread.name == "tidegate-leases" for thread in threading.enumerate())


def test_a_lease_is_renewed_while_it_is_held_and_never_after(renewals: Renewals) -> None:
    lease, other = Lease(), Lease()
    with renewals.renewed("k", lease):
        lease.wait_for(3)
    renewed = lease.renewals
    with renewals.renewed("k2", other):
        other.wait_for(3)
    assert lease.renewals == renewed


def test_a_store_that_is_away_is_asked_again_and_a_lease_that_is_lost_is_not(renewals: Renewals) -> None:
    away, lost, other = Lease(away=True), Lease(held=False), Lease()
    with renewals.renewed("a", away), renewals.renewed("b", lost), renewals.renewed("c", other):
        other.wait_for(4)
    assert away.renewals >= 3
    assert lost.renewals == 1


def test_a_lease_is_not_renewed_for_ever() -> None:
    renewals = Renewals(Limits(lease_ms=15, longest_ms=20))
    lease, other = Lease(), Lease()
    with renewals.renewed("k", lease):
        lease.wait_for(3)
        with renewals.renewed("k2", other):
            other.wait_for(3)
        assert lease.renewals == 3
    renewals.close()


def test_the_thread_ends_when_there_is_nothing_to_renew_and_begins_anew() -> None:
    renewals = Renewals(Limits(lease_ms=3, longest_ms=1_000_000))
    for _ in range(2):
        lease = Lease()
        with renewals.renewed("k", lease):
            lease.wait_for(1)
            assert thread_runs()
        for thread in threading.enumerate():
            if thread.name == "tidegate-leases":
                thread.join(patient(10))
        assert not thread_runs()
    renewals.close()


def test_a_process_forked_off_renews_its_own_and_none_of_its_parent(renewals: Renewals) -> None:
    parents = Lease()
    with renewals.renewed("k", parents):
        parents.wait_for(1)
        child = os.fork()
        if child == 0:
            parents.renewals, own = 0, Lease()
            with renewals.renewed("k2", own):
                own.wait_for(3)
            os._exit(parents.renewals)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_interruption_ends_the_renewal(renewals: Renewals) -> None:
    lease, other = Lease(), Lease()
    with pytest.raises(KeyboardInterrupt), renewals.renewed("k", lease):
        raise KeyboardInterrupt
    with renewals.renewed("k2", other):
        other.wait_for(3)
    assert lease.renewals == 0
