"""Names as the server holds them: a tenant's keys under one hash tag, and texts that may hold any character.

Records are texts of tokens between blanks. A token keeps a letter in front of what it carries, so it is never empty,
and control characters and blanks are written as two characters that sort as the one did.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final
from urllib.parse import quote

_UNSAFE: Final = re.compile(r"[\x00-\x20]")
_ESCAPED: Final = re.compile(r"\x01(.)", re.DOTALL)
_PLAIN: Final = re.compile(r"[0-9A-Za-z_.~-]+").fullmatch
_TENANTS_KEPT: Final = 4096
_NAMESPACE: Final = re.compile(r"[0-9a-f]{1,40}").fullmatch


def encoded(text: str) -> bytes:
    """As bytes; a caller's text may hold lone surrogates, which no database does, and which must not raise."""
    try:
        return text.encode()  # three times as fast as with a handler of errors
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def decoded(data: bytes) -> str:
    """The text that :func:`encoded` took."""
    return data.decode("utf-8", "surrogatepass")


def token(letter: str, text: str) -> str:
    """*letter* and *text*, without blanks and control characters."""
    if _UNSAFE.search(text) is None:
        return letter + text
    return letter + _UNSAFE.sub(lambda found: "\x01" + chr(ord(found[0]) + 0x40), text)


def untoken(text: str) -> str:
    """The text that :func:`token` took."""
    if "\x01" not in text:
        return text[1:]
    return _ESCAPED.sub(lambda found: chr(ord(found[1]) - 0x40), text[1:])


class Keys:
    """The keys of one namespace, as bytes.

    Args:
        ns: the database's, up to 40 hexadecimal digits.

    Raises:
        ValueError: *ns* is something else.
    """

    def __init__(self, ns: str) -> None:
        if _NAMESPACE(ns) is None:
            raise ValueError(f"ns is {ns!r}; it must be 1 to 40 hexadecimal digits in lower case")
        self._ns = ns
        self.tag = lru_cache(maxsize=_TENANTS_KEPT)(self._tag)
        """What every key of a tenant holds, braces included."""
        self.marks = lru_cache(maxsize=_TENANTS_KEPT)(self._marks)
        """A hash: ``r`` the root, ``t<tag>`` a mark, ``x<xid>`` the tags on which a transaction has its intent."""

    def _tag(self, tenant: str) -> str:
        # A tenant with a brace must not end the hash tag early.
        if _PLAIN(tenant) is None:
            tenant = quote(tenant, safe="", errors="surrogatepass")
        return f"{{{self._ns}:{tenant}}}"

    def marks_prefix(self) -> bytes:
        """What the marks of every tenant of the namespace begin with."""
        return f"tg:m:{{{self._ns}:".encode()

    def _marks(self, tenant: str) -> bytes:
        return f"tg:m:{self.tag(tenant)}".encode()

    def entry(self, tenant: str, digest: str) -> bytes:
        """A text: a line of what was noted and the tags, then the body."""
        return encoded(f"tg:e:{self.tag(tenant)}:{digest}")

    def both(self, tenant: str, digest: str) -> tuple[bytes, bytes]:
        """Marks and entry, for a hit."""
        tag = self.tag(tenant)
        return f"tg:m:{tag}".encode(), encoded(f"tg:e:{tag}:{digest}")

    def lease(self, tenant: str, digest: str) -> bytes:
        """A text: what the holder noted, and its token."""
        return encoded(f"tg:l:{self.tag(tenant)}:{digest}")

    def blob(self, tenant: str, name: str) -> bytes:
        """A large value."""
        return encoded(f"tg:b:{self.tag(tenant)}:{name}")

    def switches(self) -> bytes:
        """A text: what is switched off for the whole namespace."""
        return f"tg:off:{{{self._ns}}}".encode()
