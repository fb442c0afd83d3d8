"""Which tables a piece of SQL text writes.

This reads no more of SQL than that. Where it is not sure, it reports a table too many rather than one too few.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_WRITES: Final = re.compile(r"insert|update|delete|merge|truncate|copy|replace|commit|end|prepare", re.IGNORECASE)
_TOKEN: Final = re.compile(
    r"""
      (?P<skipped> --[^\n]* | /\*.*?\*/ | [eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' )
    | (?P<dollar>  \$(?P<tag>\w*)\$ (?P<body>.*?) \$(?P=tag)\$ )
    | (?P<quoted>  "(?:[^"]|"")*" | `[^`]*` )
    | (?P<word>    [^\W\d][\w$]* )
    | (?P<other>   \S )
    """,
    re.VERBOSE | re.DOTALL,
)
_BETWEEN: Final = frozenset({"INTO", "FROM", "ONLY", "TABLE", "OR", "IGNORE", "REPLACE", "ABORT", "FAIL", "ROLLBACK"})
_VERBS: Final = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE", "COPY", "REPLACE"})


class WrittenTables(NamedTuple):
    """What an SQL text does.

    Args:
        tables: (verb, table) for each write; table names are without schema.
        commits: whether it ends the transaction.
    """

    tables: tuple[tuple[str, str], ...] = ()
    commits: bool = False


class _Token(NamedTuple):
    kind: str
    text: str

    @property
    def keyword(self) -> str:
        return self.text.upper() if self.kind == "word" else ""


@lru_cache(maxsize=1024)
def tables_written(sql: str) -> WrittenTables:
    """Find the tables that *sql* writes, and whether it commits.

    Comments, strings and the bodies of functions are left out. The bodies of DO blocks count.
    """
    if not _WRITES.search(sql):
        return WrittenTables()
    tokens = list(_tokens(sql))
    found = tuple(_found(tokens))
    return WrittenTables(found, any(_commits(tokens, at) for at in _beginnings(tokens)))


def _beginnings(tokens: list[_Token]) -> Iterator[int]:
    """Yield the index of the first token of each statement: 0, and the index after every semicolon."""
    yield 0
    yield from (at + 1 for at, token in enumerate(tokens) if token.text == ";")


def _commits(tokens: list[_Token], at: int) -> bool:
    first = [token.keyword for token in tokens[at : at + 2]]
    return (first[:1] in (["COMMIT"], ["END"]) and first[1:] != ["PREPARED"]) or first == ["PREPARE", "TRANSACTION"]


def _tokens(sql: str) -> Iterator[_Token]:
    is_block = None
    for match in _TOKEN.finditer(sql):
        kind = match.lastgroup or ""
        if match["skipped"] is not None:
            continue
        if match["dollar"] is not None:
            if is_block:
                yield from _tokens(match["body"])
            continue
        text = match[0]
        if match["quoted"] is not None:
            kind, text = "quoted", text[1:-1].replace('""', '"')
        token = _Token(kind, text)
        if is_block is None:
            is_block = token.keyword == "DO"
        yield token


def _found(tokens: list[_Token]) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(tokens):
        verb = tokens[at].keyword
        at += 1
        if verb not in _VERBS:
            continue
        name, at = _name(tokens, at)
        if name is None or (verb == "COPY" and not _copies_in(tokens[at:])):
            continue
        yield verb, name
        while verb == "TRUNCATE" and at < len(tokens) and tokens[at].text in {",", "*"}:
            name, at = _name(tokens, at + 1)
            if name is not None:
                yield verb, name


def _name(tokens: list[_Token], at: int) -> tuple[str | None, int]:
    """Return the last part of the dotted name at *at*, and the index after it.

    Words that may stand before a name are skipped.
    """
    name = None
    while at < len(tokens) and tokens[at].keyword in _BETWEEN:
        at += 1
    while at < len(tokens) and tokens[at].kind in {"word", "quoted"}:
        name = tokens[at].text.lower() if tokens[at].kind == "word" else tokens[at].text
        at += 1
        if at >= len(tokens) or tokens[at].text != ".":
            break
        at += 1
    return name, at


def _copies_in(rest: list[_Token]) -> bool:
    return next((token.keyword == "FROM" for token in rest if token.keyword in {"FROM", "TO"}), False)


def tables_written_besides(compiled: Any) -> WrittenTables:
    """Find the tables that a Core statement writes in its WITH clause, besides its own table."""
    found = list(tables_written(compiled.string).tables)
    own: str = getattr(compiled.statement.table, "name", "")
    verb = "INSERT" if compiled.isinsert else "UPDATE" if compiled.isupdate else "DELETE"
    if (verb, own) in found:
        found.remove((verb, own))
    return WrittenTables(tuple(found))
