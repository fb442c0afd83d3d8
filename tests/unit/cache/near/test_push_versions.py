"""Versions: what a push voids, and for how long the stream's last answer vouches."""

from __future__ import annotations

import pytest

from tidegate.cache.near.push_versions import ALIVE_S, VersionsByTenant


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_push_gives_its_key_another_version_and_no_other_key() -> None:
    versions = VersionsByTenant()
    before = versions.of(b"a"), versions.of(b"b")
    versions.void(b"a")
    assert versions.of(b"a") != before[0]
    assert versions.of(b"b") == before[1]


def test_no_version_comes_twice() -> None:
    versions = VersionsByTenant(most=3)
    seen = [versions.of(b"a")]
    for other in range(10):
        versions.void(b"a")
        seen.append(versions.of(b"a"))
        versions.void(b"other %d" % other)
        versions.void_all()
        seen.append(versions.of(b"a"))
    assert len(set(seen)) == len(seen)


def test_too_many_keys_get_a_new_version_together() -> None:
    versions = VersionsByTenant(most=2)
    versions.void(b"a")
    versions.void(b"b")
    before = [versions.of(key) for key in (b"a", b"b", b"c")]
    versions.void(b"a")
    assert versions.of(b"b") == before[1]
    versions.void(b"c")
    assert not {versions.of(key) for key in (b"a", b"b", b"c")} & set(before)


def test_it_is_the_sending_of_the_question_that_counts_not_the_answer() -> None:
    clock = Clock()
    versions = VersionsByTenant(clock)
    assert not versions.alive()
    sent_s = clock.now_s
    clock.now_s += ALIVE_S * 0.8
    versions.vouch(sent_s)
    assert versions.alive()
    clock.now_s = sent_s + ALIVE_S * 1.01
    assert not versions.alive()


def test_an_interrupted_stream_vouches_for_nothing() -> None:
    versions = VersionsByTenant(Clock())
    versions.vouch(100.0)
    assert versions.alive()
    versions.silence()
    assert not versions.alive()


@pytest.mark.parametrize(("sent_s", "came"), [(99.0, False), (100.0, False), (100.1, True)])
def test_what_is_waited_for_is_a_question_sent_later(sent_s: float, came: bool) -> None:
    versions = VersionsByTenant(Clock())
    versions.vouch(sent_s)
    assert versions.wait_until_vouched(100.0, 0.0) is came
