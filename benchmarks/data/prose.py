"""Text that compresses about as well as what people type: words by a Zipf law, in sentences."""

from __future__ import annotations

from itertools import accumulate
from random import Random
from typing import Final

_KNOWN: Final = (
    "the of and to in a is for that with as are be on by this you your from or answer if it must not when use which "
    "customer order invoice ticket summary language polite context document question reply field value table list "
    "JSON output input step result policy refund account delivery product price date support agent never always only "
    "please return write short clear source quote reason check before after number name address phone mail café naïve"
)
_SYLLABLES: Final = "ba con der el fer gra hi ing jo ker lin mon nal or pre qui ri sta ter un ver wo xi y zen"
_WORDS: Final = 3_000
_POOL_CHARACTERS: Final = 262_144


class Prose:
    """Make a pool of text once; :meth:`cut` gives pieces of it.

    Args:
        seed: the same seed gives the same pool.
    """

    def __init__(self, seed: int) -> None:
        rng = Random(f"{seed}:prose")  # noqa: S311  # data, not secrets
        known, syllables = _KNOWN.split(), _SYLLABLES.split()
        made = ("".join(rng.choices(syllables, k=rng.randint(2, 4))) for _ in range(_WORDS - len(known)))
        words = [*known, *made]
        weights = list(accumulate(1 / rank for rank in range(1, len(words) + 1)))
        parts: list[str] = []
        size = 0
        while size < _POOL_CHARACTERS:
            sentence = " ".join(rng.choices(words, cum_weights=weights, k=rng.randint(5, 18))).capitalize()
            parts.append(sentence + rng.choice((". ", ". ", "? ", ":\n")))
            size += len(parts[-1])
        self._pool = "".join(parts)

    def cut(self, rng: Random, characters: int) -> str:
        """Return a piece of *characters* characters; *rng* decides where it begins.

        Raises:
            ValueError: the pool is not longer than that.
        """
        if characters >= len(self._pool):
            raise ValueError(f"a piece of text must have fewer than {len(self._pool):,} characters, not {characters:,}")
        start = rng.randrange(len(self._pool) - characters)
        return self._pool[start : start + characters]
