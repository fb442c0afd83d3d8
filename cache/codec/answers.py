"""The answer of a repository's method as bytes, and back: every caller gets the same answer, or none at all.

A body is one byte of format, a CRC-32 of the rest, and msgpack: [tenant, call, shape, ...]. The checksum detects
accidents. Against a writer who means harm there are three other rules: nothing in a body is executed or looked up by
name; sizes are bounded; and the tenant is compared in the body and in every row, so that an entry which was moved under
another key answers nothing.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from datetime import datetime
from sys import getsizeof
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgpack
from sqlalchemy import inspect

from tidegate.cache.codec.decode_rows import Rows, read
from tidegate.cache.codec.encode_rows import MOST_ROWS, Dehydration
from tidegate.cache.codec.layouts import Layouts
from tidegate.cache.codec.records import HostTypes, Records
from tidegate.cache.codec.values import (
    NotThisAnswer,
    Uncacheable,
    Undecodable,
    Unreadable,
    blob_hash,
    is_plain,
    pack,
    to_wire,
    unpack,
)
from tidegate.interruptions import pass_interruption
from tidegate.repositories.pagination import InfiniteScrollPagination

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.orm import Session

_FORMAT: Final = b"\x01"
_HEADER_BYTES: Final = 5
_PLAIN, _ROW, _LIST, _TUPLE, _PAGE, _RECORDS, _ROWS_AND_DATA = range(7)
_NO_BLOBS: Final[frozenset[str]] = frozenset()
_EMPTY: Final[Mapping[str, bytes]] = {}


class RowsAndData(NamedTuple):
    """Hold an answer that is neither rows alone nor plain data alone.

    Args:
        rows: instances of one mapped class, each once; there may be none.
        data: plain data.
    """

    rows: list[Any]
    data: Any


@dataclass(frozen=True, slots=True)
class Encoded:
    """An answer as it is stored: a body, and large texts by the hash of their content."""

    body: bytes
    blobs: Mapping[str, bytes] = field(default_factory=dict)


class Decoded(NamedTuple):
    """A body, parsed and checked. It is never changed, so threads may share it.

    Args:
        shape: what kind of answer it is.
        rows: the rows of the answer; None if it has none.
        rest: the plain answer, or what is beside the rows, packed; of a page, limit, has_more and span.
        blobs: the hashes of the blobs that :meth:`AnswerCodec.build` will need.
    """

    shape: int
    rows: Rows | None
    rest: Any
    blobs: frozenset[str]

    def held_bytes(self) -> int:
        """Return how much memory this takes, in bytes, and never less."""
        rows = 0 if self.rows is None else self.rows.held_bytes()
        return getsizeof(self) + _held_bytes(self.rest) + getsizeof(self.blobs) + sum(map(getsizeof, self.blobs)) + rows


def _held_bytes(plain: Any) -> int:
    """Return how much memory plain data take, in bytes."""
    inside = plain if isinstance(plain, (list, tuple)) else ()
    return getsizeof(plain) + sum(map(_held_bytes, inside))


class AnswerCodec:
    """Encode and decode the answers of repositories over some models.

    Args:
        models: the mapped classes whose instances may be answers.
        blob_bytes: a text of more UTF-8 bytes than this is stored by the hash of its content.
        types: other classes of answers; None: Tidegate's own page.
    """

    def __init__(self, models: Sequence[type[Any]], *, blob_bytes: int = 4096, types: HostTypes | None = None) -> None:
        self._layouts = Layouts(models)
        self._blob_bytes = blob_bytes
        types = types or HostTypes()
        self._page: Final = types.page or InfiniteScrollPagination
        self._spans: Final = types.page is None
        self._records: Final = Records(types.records, self._layouts.enums())

    def encode(self, tenant: str, call: bytes, answer: object) -> Encoded:
        """Encode *answer* as bytes.

        Args:
            tenant: whose answer it is, in canonical form.
            call: the fingerprint of the call.
            answer: what the plain repository returned, unchanged.

        Raises:
            Uncacheable: exactly the same answer would not come back.
        """
        rows = Dehydration(self._layouts, tenant, self._blob_bytes)
        try:
            payload = pack([tenant, call, *self._shape(rows, answer)])
        except Uncacheable:
            raise
        except Exception as error:  # the objects are the host's: nobody knows what they do when they are looked at
            pass_interruption(error)
            raise Uncacheable(f"the answer cannot be encoded: {type(error).__name__}: {error}") from error
        return Encoded(_FORMAT + zlib.crc32(payload).to_bytes(4, "big") + payload, rows.blobs)

    def decode(self, tenant: str, call: bytes, body: bytes) -> Decoded:
        """Parse and check a body.

        Raises:
            NotThisAnswer: the body is the answer to something else, or of another schema.
            Undecodable: the body is damaged.
        """
        payload = body[_HEADER_BYTES:]
        if body[:1] != _FORMAT:
            raise Undecodable(f"the first byte is {body[:1]!r}, not {_FORMAT!r}: another format, or no body at all")
        if zlib.crc32(payload) != int.from_bytes(body[1:_HEADER_BYTES], "big"):
            raise Undecodable("the body is damaged: its checksum does not match")
        try:
            shape, table, rest = _parsed(payload, tenant, call)
            rows = None if table is None else read(self._layouts, table, tenant)
            blobs = rows.blobs() if rows is not None and rows.has_blobs else _NO_BLOBS
            return Decoded(shape, rows, self._checked(shape, rows, rest), blobs)
        except Unreadable:
            raise
        except Exception as error:  # a body that encode did not make may cause any error
            pass_interruption(error)
            raise Undecodable(f"the body was not made by Tidegate: {type(error).__name__}") from error

    def resolve(self, decoded: Decoded, blobs: Mapping[str, bytes]) -> Decoded:
        """Put the blobs in place: a near cache keeps the result, so that hashes are checked once.

        Raises:
            Undecodable: a blob is missing, or its content does not match its hash.
        """
        if decoded.rows is None or not decoded.blobs:
            return decoded
        texts = {name: _text(name, blobs.get(name)) for name in decoded.blobs}
        rows = decoded.rows.resolved(texts)
        return decoded._replace(rows=rows, blobs=_NO_BLOBS)

    def build(
        self,
        decoded: Decoded,
        session_maker: Callable[[], Session],
        blobs: Mapping[str, bytes] = _EMPTY,
        *,
        shared: bool = True,
    ) -> object:
        """Build the answer, new for every caller: callers share nothing that can be changed.

        Args:
            decoded: the body.
            session_maker: opens sessions for lazy columns.
            blobs: the blobs that ``decoded.blobs`` names.
            shared: whether *decoded* will be used again.

        Raises:
            Undecodable: a blob is missing, or its content does not match its hash.
        """
        if decoded.blobs:
            decoded = self.resolve(decoded, blobs)
        if decoded.shape == _PLAIN:
            return unpack(decoded.rest)
        if decoded.shape == _RECORDS:
            return self._records.together(decoded.rest)
        rows = [] if decoded.rows is None else decoded.rows.build(session_maker, shared=shared)
        if decoded.shape == _PAGE:
            limit, has_more, span = decoded.rest
            return self._page(rows, limit, has_more, *((span,) if self._spans else ()))
        if decoded.shape == _ROWS_AND_DATA:
            return RowsAndData(rows, unpack(decoded.rest))
        if decoded.shape == _LIST:
            return rows
        return rows[0] if decoded.shape == _ROW else tuple(rows)

    def _shape(self, rows: Dehydration, answer: object) -> list[Any]:
        """Return [shape, table, rest] of *answer*."""
        if type(answer) is RowsAndData:
            if not is_plain(answer.data):
                raise Uncacheable("the data beside the rows are not plain")
            return [_ROWS_AND_DATA, rows.table(answer.rows) if answer.rows else None, pack(answer.data)]
        if isinstance(answer, self._page):
            return [_PAGE, *self._page_parts(rows, answer)]
        if self._records.are(answer):
            return [_RECORDS, None, self._records.apart(answer)]  # type: ignore[arg-type]  # it is a list
        if isinstance(answer, list | tuple) and answer and inspect(answer[0], raiseerr=False) is not None:
            if type(answer) not in (list, tuple):
                raise Uncacheable(f"the rows are in a {type(answer).__qualname__}, not in a list or a tuple")
            return [_LIST if isinstance(answer, list) else _TUPLE, rows.table(answer), None]
        if is_plain(answer):
            return [_PLAIN, None, pack(answer)]
        if inspect(answer, raiseerr=False) is not None:
            return [_ROW, rows.table([answer]), None]
        raise Uncacheable(f"the answer is a {type(answer).__qualname__}, which cannot be encoded")

    def _page_parts(self, rows: Dehydration, page: Any) -> list[Any]:
        attributes = {"data", "limit", "has_more"} | ({"span"} if self._spans else set())
        if type(page) is not self._page or vars(page).keys() != attributes:
            raise Uncacheable(f"the page is of a subclass, or has attributes besides {', '.join(sorted(attributes))}")
        if type(page.data) is not list or type(page.limit) is not int or type(page.has_more) is not bool:
            raise Uncacheable("the page's data is not a list, its limit not an int, or its has_more not a bool")
        span = None if not self._spans or page.span is None else to_wire("t", page.span)
        return [rows.table(page.data) if page.data else None, [page.limit, page.has_more, span]]

    def _checked(self, shape: Any, rows: Rows | None, rest: Any) -> Any:
        if shape == _PAGE:
            limit, has_more, span = rest
            if type(limit) is not int or type(has_more) is not bool:
                raise Undecodable("the page's limit is not an int, or its has_more not a bool")
            if span is None:
                return limit, has_more, None
            newest, oldest = span
            return limit, has_more, (datetime.fromisoformat(newest), datetime.fromisoformat(oldest))
        if shape == _RECORDS:
            return self._records.checked(rest)
        if shape in (_PLAIN, _ROWS_AND_DATA):
            unpack(rest)
        elif shape not in (_ROW, _LIST, _TUPLE) or rows is None or (shape == _ROW and len(rows.values) != 1):
            raise Undecodable(f"the answer has an unknown shape, or other rows than its shape needs: {shape!r}")
        return rest


def _parsed(payload: bytes, tenant: str, call: bytes) -> Any:
    # Tuples: then no forged body holds an object that two callers could change. For the same reason: no maps, no
    # extensions.
    parsed: Any = msgpack.unpackb(payload, use_list=False, max_array_len=MOST_ROWS, max_map_len=0, max_ext_len=0)
    if parsed[0] != tenant or parsed[1] != call:
        raise NotThisAnswer("the body answers another tenant or another call")
    return parsed[2:]


def _text(name: str, content: bytes | None) -> str:
    if content is None:
        raise Undecodable(f"blob {name} is missing")
    if blob_hash(content).hex() != name:
        raise Undecodable(f"the content of blob {name} does not match its hash")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise Undecodable(f"blob {name} is not UTF-8 text") from error
