"""Whose changes the cache was not told of."""

from __future__ import annotations

from tidegate.cache.untold import UntoldChanges


def test_who_waits_in_any_outbox_is_untold_until_that_outbox_says_otherwise() -> None:
    untold = UntoldChanges(lambda: 0.0)
    assert not untold.of("a")
    untold.found("s0", ["a"])
    untold.found("s1", ["a", "b"])
    assert [untold.of(tenant) for tenant in "abc"] == [True, True, False]
    untold.found("s1", [])
    assert [untold.of(tenant) for tenant in "abc"] == [True, False, False]
    untold.found("s0", ["c"])
    assert [untold.of(tenant) for tenant in "abc"] == [False, False, True]
    untold.found("s0", None)
    assert untold.of("anybody")
    untold.found("s0", [])
    assert not untold.of("anybody")


def test_who_was_written_of_here_stays_until_the_outbox_must_show_it() -> None:
    now = [10.0]
    untold = UntoldChanges(lambda: now[0])
    untold.wrote(["a"])
    untold.found("s0", [])  # the transaction may not have ended yet
    assert untold.of("a")
    assert not untold.of("b")
    now[0] += 1
    untold.wrote(["a"])
    now[0] += 1.5
    untold.found("s0", [])
    assert untold.of("a")
    now[0] += 1
    untold.found("s0", [])
    assert not untold.of("a")
