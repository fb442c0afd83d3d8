"""Read replies off a connection: all that were asked for, and not a byte more.

redis-py's own reader takes some calls of Python for each part of a reply; for a hit, that is more than all else. The
form is RESP2: https://redis.io/docs/latest/develop/reference/protocol-spec/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST: Final = 32_768
"""How many bytes to receive at first: most replies are shorter."""
_MOST: Final = 1_048_576
_LONGEST_LINE: Final = 65_536
_TEXT, _NUMBER, _BULK, _ARRAY, _ERROR = b"+:$*-"


def read_replies(  # noqa: C901, PLR0912  # one loop, since a call for each part of a reply would be most of a hit
    receive: Callable[[int], bytes], count: int, refused: Callable[[str], Any], data: bytes = b""
) -> list[Any]:
    """Read *count* replies.

    Args:
        receive: gives at most so many of the next bytes; none: the server has closed the connection.
        count: how many replies were asked for.
        refused: makes a value of the text of a refusal.
        data: what was received of them before.

    Returns:
        For each reply bytes, an int, None, a list of such, or what *refused* has made.

    Raises:
        ConnectionError: the server has closed the connection.
        ValueError: this is no reply, or more than was asked for.
    """
    replies: list[Any] = []
    values, left, at = replies, count, 0
    above: list[tuple[list[Any], int]] = []  # the arrays that the present one stands in
    data = data or receive(FIRST)
    while left or above:
        if not left:
            values, left = above.pop()
            continue
        end = data.find(b"\r\n", at)
        if end < 0:
            data, at = _with_more(receive, data, at), 0
            continue
        kind, line, at, left = data[at], data[at + 1 : end], end + 2, left - 1
        if kind in (_BULK, _ARRAY):
            if line == b"-1":
                values.append(None)
                continue
            if not line.isdigit():
                raise ValueError(f"{line!r} is no size")
            size = int(line)
            if kind == _ARRAY:
                above.append((values, left))
                inner: list[Any] = []
                values.append(inner)
                values, left = inner, size
                continue
            if len(data) < at + size + 2:
                data, at = _with_more(receive, data, at, size + 2), 0
            values.append(data[at : at + size])
            at += size + 2
        elif kind == _NUMBER:
            values.append(int(line))
        elif kind == _TEXT:
            values.append(line)
        elif kind == _ERROR:
            values.append(refused(line.decode("utf-8", "replace")))
        else:
            raise ValueError(f"a reply cannot begin with {bytes([kind])!r}")
    if at != len(data):
        raise ValueError("the server has sent more than it was asked for")
    return replies


def _with_more(receive: Callable[[int], bytes], data: bytes, at: int, size: int = 0) -> bytes:
    """Return the data from *at* on, with at least one byte more, and at least *size* in all."""
    parts, had = [data[at:]], len(data) - at
    if not size and had > _LONGEST_LINE:
        raise ValueError("a line of a reply does not end")
    left = max(size - had, 1)
    while left > 0:
        part = receive(min(max(left, FIRST), _MOST))
        if not part:
            raise ConnectionError("the server has closed the connection")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
