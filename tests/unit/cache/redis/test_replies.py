"""Replies as a server sends them, cut anywhere."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.cache.redis.replies import read_replies

if TYPE_CHECKING:
    from collections.abc import Callable

VALUES = st.recursive(
    st.none() | st.integers() | st.binary(max_size=300) | st.just(b"\r\n") | st.just(b"x" * 70_000),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=12,
)


class RefusedError(Exception):
    """What stands for a refusal."""


def sent(value: Any) -> bytes:
    if value is None:
        return b"$-1\r\n"
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, bytes):
        return b"$%d\r\n%b\r\n" % (len(value), value)
    return b"*%d\r\n%b" % (len(value), b"".join(map(sent, value)))


def arriving(data: bytes, sizes: Callable[[], int]) -> Callable[[int], bytes]:
    """Hands out the data in pieces, and then nothing."""
    left = memoryview(data)

    def receive(most: int) -> bytes:
        nonlocal left
        part, left = left[: (size := min(most, sizes()))], left[size:]
        return bytes(part)

    return receive


@given(st.lists(VALUES, min_size=1, max_size=4), st.integers(0, 2**32), st.sampled_from([1, 2, 7, 1_000, 10**6]))
def test_replies_are_read_however_they_are_cut(values: list[Any], seed: int, longest: int) -> None:
    rng = random.Random(seed)  # noqa: S311  # no secret
    data = b"".join(map(sent, values))
    receive = arriving(data, lambda: max(rng.randint(1, longest), len(data) // 500))
    assert read_replies(receive, len(values), RefusedError) == values


def test_a_refusal_is_a_value_and_the_replies_behind_it_are_read() -> None:
    first, second, third = read_replies(
        arriving(b"-NOSCRIPT no\r\n+OK\r\n*1\r\n-ERR x\r\n", lambda: 99), 3, RefusedError
    )
    assert (type(first), str(first), second) == (RefusedError, "NOSCRIPT no", b"OK")
    assert str(third[0]) == "ERR x"


@pytest.mark.parametrize("data", [b"", b"$5\r\nab", b"*2\r\n:1\r\n", b":1"])
def test_a_connection_that_ends_too_early_is_lost(data: bytes) -> None:
    with pytest.raises(ConnectionError):
        read_replies(arriving(data, lambda: 3), 1, RefusedError)


@pytest.mark.parametrize(
    "data",
    [b":1\r\n:2\r\n", b"$1\r\nab\r\n:1\r\n", b"?1\r\n", b":x\r\n", b"$\r\n", b"HTTP/1.1 200 OK\r\n", b"x" * 70_000],
)
def test_what_is_no_reply_or_too_much_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_replies(arriving(data, lambda: 10**6), 1, RefusedError)
