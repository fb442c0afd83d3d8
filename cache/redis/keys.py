"""Names as the server holds them: the keys of a tenant under one hash tag, and texts that may hold any character.

A record is a text of tokens between blanks. A token has a letter in front of what it carries, so it is never empty.
Control characters and blanks are written as two characters that sort as the one did.
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
    """Encode *text* as bytes.

    A caller's text may hold lone surrogates: no database does, but they must not raise here.
    """
    try:
        return text.encode()  # three times as fast as with a handler of errors
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def decoded(data: bytes) -> str:
    """Return the text that :func:`encoded` took."""
    return data.decode("utf-8", "surrogatepass")


def token(letter: str, text: str) -> str:
    """Return *letter* and *text* as one token, without blanks and control characters."""
    if _UNSAFE.search(text) is None:
        return letter + text
    return letter + _UNSAFE.sub(lambda found: "\x01" + chr(ord(found[0]) + 0x40), text)


def untoken(text: str) -> str:
    """Return the text that :func:`token` took."""
    if "\x01" not in text:
        return text[1:]
    return _ESCAPED.sub(lambda found: chr(ord(found[1]) - 0x40), text[1:])


class Keys:
    """Make the keys of one namespace, as bytes.

    Args:
        ns: the namespace of the database, 1 to 40 hexadecimal digits in lower case.

    Raises:
        ValueError: *ns* is something else.
    """

    def __init__(self, ns: str) -> None:
        if _NAMESPACE(ns) is None:
            raise ValueError(f"ns is {ns!r}; it must be 1 to 40 hexadecimal digits in lower case")
        self._ns = ns
        self.tag = lru_cache(maxsize=_TENANTS_KEPT)(self._tag)
        """Return the hash tag that every key of a tenant holds, with its braces."""
        self.marks = lru_cache(maxsize=_TENANTS_KEPT)(self._marks)
        """Return the key of a tenant's marks.

        It is a hash: ``r`` is the root, ``t<tag>`` a mark, ``x<xid>`` the tags on which a transaction has an intent.
        """

    def _tag(self, tenant: str) -> str:
        # A tenant with a brace must not end the hash tag early.
        if _PLAIN(tenant) is None:
            tenant = quote(tenant, safe="", errors="surrogatepass")
        return f"{{{self._ns}:{tenant}}}"

    def marks_prefix(self) -> bytes:
        """Return what the keys of the marks begin with, for every tenant of the namespace."""
        return f"tg:m:{{{self._ns}:".encode()

    def _marks(self, tenant: str) -> bytes:
        return f"tg:m:{self.tag(tenant)}".encode()

    def entry(self, tenant: str, digest: str) -> bytes:
        """Return the key of an entry. It is a text: a line with what was noted and the tags, then the body."""
        return encoded(f"tg:e:{self.tag(tenant)}:{digest}")

    def both(self, tenant: str, digest: str) -> tuple[bytes, bytes]:
        """Return the keys of the marks and of an entry: what a hit needs."""
        tag = self.tag(tenant)
        return f"tg:m:{tag}".encode(), encoded(f"tg:e:{tag}:{digest}")

    def lease(self, tenant: str, digest: str) -> bytes:
        """Return the key of a lease. It is a text: what the holder noted, and its token."""
        return encoded(f"tg:l:{self.tag(tenant)}:{digest}")

    def blob(self, tenant: str, name: str) -> bytes:
        """Return the key of a large value; *name* is the hash of its content."""
        return encoded(f"tg:b:{self.tag(tenant)}:{name}")

    def history(self, shard: str) -> bytes:
        """Return the key of a shard's history. It is a text: the newest history that a gate has named."""
        return encoded(f"tg:h:{{{self._ns}}}:{shard}")

    def server(self) -> bytes:
        """Return the key of the server's id, as this namespace knows it."""
        return f"tg:id:{{{self._ns}}}".encode()

    def switches(self) -> bytes:
        """Return the key of the switches. It is a text: the names of what is switched off for the whole namespace."""
        return f"tg:off:{{{self._ns}}}".encode()
