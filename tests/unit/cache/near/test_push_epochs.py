"""Epochs: what a push voids, and for how long the stream's last answer vouches."""

from __future__ import annotations

import pytest

from tidegate.cache.near.push_epochs import ALIVE_S, Epochs


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_push_gives_its_key_another_epoch_and_no_other_key() -> None:
    epochs = Epochs()
    before = epochs.of(b"a"), epochs.of(b"b")
    epochs.void(b"a")
    assert epochs.of(b"a") != before[0]
    assert epochs.of(b"b") == before[1]


def test_no_epoch_comes_twice() -> None:
    epochs = Epochs(most=3)
    seen = [epochs.of(b"a")]
    for other in range(10):
        epochs.void(b"a")
        seen.append(epochs.of(b"a"))
        epochs.void(b"other %d" % other)
        epochs.void_all()
        seen.append(epochs.of(b"a"))
    assert len(set(seen)) == len(seen)


def test_too_many_keys_get_a_new_epoch_together() -> None:
    epochs = Epochs(most=2)
    epochs.void(b"a")
    epochs.void(b"b")
    before = [epochs.of(key) for key in (b"a", b"b", b"c")]
    epochs.void(b"a")
    assert epochs.of(b"b") == before[1]
    epochs.void(b"c")
    assert not {epochs.of(key) for key in (b"a", b"b", b"c")} & set(before)


def test_it_is_the_sending_of_the_question_that_counts_not_the_answer() -> None:
    clock = Clock()
    epochs = Epochs(clock)
    assert not epochs.alive()
    sent_s = clock.now_s
    clock.now_s += ALIVE_S * 0.8
    epochs.vouch(sent_s)
    assert epochs.alive()
    clock.now_s = sent_s + ALIVE_S * 1.01
    assert not epochs.alive()


def test_an_interrupted_stream_vouches_for_nothing() -> None:
    epochs = Epochs(Clock())
    epochs.vouch(100.0)
    assert epochs.alive()
    epochs.silence()
    assert not epochs.alive()


@pytest.mark.parametrize(("sent_s", "came"), [(99.0, False), (100.0, False), (100.1, True)])
def test_what_is_waited_for_is_a_question_sent_later(sent_s: float, came: bool) -> None:
    epochs = Epochs(Clock())
    epochs.vouch(sent_s)
    assert epochs.wait_until_vouched(100.0, 0.0) is came
