"""The slot of a tenant in PL/pgSQL, as :mod:`tidegate.routing.sharding.slots` has it: PostgreSQL has no BLAKE2b.

The words are those of RFC 7693. PostgreSQL's bigint has 64 bits, but a sum that leaves them is an error. So sums are
made of the low 61 bits and of the three above them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tidegate.proxy.database.note_functions import SAFE, qualified

if TYPE_CHECKING:
    from collections.abc import Iterable

SLOT: Final = "tidegate_slot"
_DIGEST_BYTES: Final = 8
_INITIAL: Final = (
    0x6A09E667F3BCC908,
    0xBB67AE8584CAA73B,
    0x3C6EF372FE94F82B,
    0xA54FF53A5F1D36F1,
    0x510E527FADE682D1,
    0x9B05688C2B3E6C1F,
    0x1F83D9ABFB41BD6B,
    0x5BE0CD19137E2179,
)
_ORDERS: Final = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
    (14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3),
    (11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4),
    (7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8),
    (9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13),
    (2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9),
    (12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11),
    (13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10),
    (6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5),
    (10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0),
)
_MIXED: Final = (
    (0, 1, 2, 3, 0, 1, 2, 3),
    (4, 5, 6, 7, 5, 6, 7, 4),
    (8, 9, 10, 11, 10, 11, 8, 9),
    (12, 13, 14, 15, 15, 12, 13, 14),
)
"""Which words are mixed with each other, in the eight steps of a round: the first with the first, and so on."""
_ROUNDS: Final = 12
_LOW: Final = (1 << 61) - 1


def slot_sql(schema: str | None) -> str:
    """Return the statement that makes the function that gives the slot of a tenant, whose id is in canonical form."""
    initial = _array(_signed(word) for word in _INITIAL)
    # The parameters: no key, no tree, and the size of the digest.
    state = _array(_signed(word ^ (0x01010000 ^ _DIGEST_BYTES if at == 0 else 0)) for at, word in enumerate(_INITIAL))
    a, b, c, d = (_array(at + 1 for at in part) for part in _MIXED)
    orders = _array(at + 1 for number in range(_ROUNDS) for at in _ORDERS[number % len(_ORDERS)])
    word = " | ".join(f"(get_byte(block, 8 * i + {byte})::bigint << {8 * byte})" for byte in range(8))
    mix = "\n      ".join(_mix())
    return f"""
CREATE OR REPLACE FUNCTION {qualified(schema, SLOT)}(tenant text) RETURNS int {SAFE} AS $tidegate$
DECLARE
  at_a CONSTANT int[] := {a};
  at_b CONSTANT int[] := {b};
  at_c CONSTANT int[] := {c};
  at_d CONSTANT int[] := {d};
  orders CONSTANT int[] := {orders};
  initial CONSTANT bigint[] := {initial};
  bytes bytea := convert_to(tenant, 'UTF8');
  size int := length(bytes);
  begun int := 0;
  h bigint[] := {state};
  m bigint[] := array_fill(0::bigint, ARRAY[16]);
  v bigint[];
  block bytea;
  a bigint;
  b bigint;
  c bigint;
  d bigint;
  s bigint;
  at int := 1;
BEGIN
  LOOP
    block := substr(bytes, begun + 1, 128);
    block := block || decode(repeat('00', 128 - length(block)), 'hex');
    FOR i IN 0..15 LOOP
      m[i + 1] := {word};
    END LOOP;
    begun := least(begun + 128, size);
    v := h || initial;
    v[13] := v[13] # begun;
    IF begun = size THEN
      v[15] := ~v[15];
    END IF;
    FOR i IN 0..{8 * _ROUNDS - 1} LOOP
      at := (i & 7) + 1;
      a := v[at_a[at]];
      b := v[at_b[at]];
      c := v[at_c[at]];
      d := v[at_d[at]];
      {mix}
      v[at_a[at]] := a;
      v[at_b[at]] := b;
      v[at_c[at]] := c;
      v[at_d[at]] := d;
    END LOOP;
    FOR i IN 1..8 LOOP
      h[i] := h[i] # v[i] # v[i + 8];
    END LOOP;
    EXIT WHEN begun = size;
  END LOOP;
  -- The digest is the first word from its low end; the last two bytes of that, as one number, tell the slot.
  RETURN ((h[1] >> 56) & 255) | ((h[1] >> 40) & 3840);
END $tidegate$""".strip()


def _array(numbers: Iterable[int]) -> str:
    return "'{" + ",".join(str(number) for number in numbers) + "}'"


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _mix() -> list[str]:
    lines = _sum("a", "b", "m[orders[2 * i + 1]]") + _turned("d", "a", 32)
    lines += _sum("c", "d") + _turned("b", "c", 24)
    lines += _sum("a", "b", "m[orders[2 * i + 2]]") + _turned("d", "a", 16)
    return lines + _sum("c", "d") + _turned("b", "c", 63)


def _sum(into: str, *others: str) -> list[str]:
    words = (into, *others)
    low, high = (" + ".join(form.format(word) for word in words) for form in (f"({{}} & {_LOW})", "({} >> 61)"))
    return [f"s := {low};", f"{into} := ((({high} + (s >> 61)) & 7) << 61) | (s & {_LOW});"]


def _turned(into: str, by: str, right: int) -> list[str]:
    mask = (1 << (64 - right)) - 1
    return [f"s := {into} # {by};", f"{into} := ((s >> {right}) & {mask}) | (s << {64 - right});"]
