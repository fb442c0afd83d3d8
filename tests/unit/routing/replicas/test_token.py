"""Positions as text for other processes."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate.position import NOWHERE, Position
from tidegate.routing.replicas.token import MOST_BYTES, Token

GREATEST = Token(Position(2**32 - 1, 2**64 - 1), "s" * 32)
TOKENS = {
    "tg1.0.0.": Token(NOWHERE),
    "tg1.1.16b3748.": Token(Position(1, 0x16B3748)),
    "tg1.2.10000000a.east-1": Token(Position(2, 0x1_0000_000A), "east-1"),
    f"tg1.ffffffff.ffffffffffffffff.{'s' * 32}": GREATEST,
}


@pytest.mark.parametrize(("text", "token"), TOKENS.items())
def test_there_and_back(text: str, token: Token) -> None:
    assert token.text() == text
    assert Token.of_text(text) == token


def test_the_longest_is_short_enough_for_a_header() -> None:
    assert len(GREATEST.text().encode("ascii")) <= MOST_BYTES


BAD: list[Any] = [
    "",
    "tg1",
    "tg1.1.16b3748",
    "tg2.1.16b3748.",
    "tg1..16b3748.",
    "tg1.1..",
    "tg1.-1.16b3748.",
    "tg1.1.16B3748.",
    "tg1.1.0x16.",
    "tg1.1.16b3748.s0.s1",
    "tg1.1.16b3748.s0\n",
    "\ntg1.1.16b3748.",
    "tg1.1.16b3748.s 0",
    "tg1.100000000.0.",
    "tg1.1.10000000000000000.",
    "tg1.1.0." + "s" * 33,
    "tg1.\u0661.\u0661.",
    "x" * 1_000_000,
    b"tg1.1.16b3748.",
    None,
    7,
]


@pytest.mark.parametrize("text", BAD, ids=lambda text: repr(text)[:40])
def test_what_is_no_token_is_refused_in_few_words(text: Any) -> None:
    with pytest.raises(ValueError, match=r"not a token: .* expected what gate\.token\(\) gave") as raised:
        Token.of_text(text)
    assert len(str(raised.value)) < 200
