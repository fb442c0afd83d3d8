"""Whose data a connection shows: asked once, when the connection is opened, and noted whenever one is checked out.

What a read may store depends on the server that answered it. A connection stays with its server, and the timeline of a
primary changes only when it ceases to be one; so the answer of the connection's first moment holds for its life.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event

from tidegate.position import Origin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

_KEY: Final = "tidegate.origin"
_seen: ContextVar[set[Origin | None] | None] = ContextVar("tidegate_origins_seen", default=None)
_ASK: Final = (
    "SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END"
)


@contextmanager
def origins_seen() -> Iterator[set[Origin | None]]:
    """The origins of the connections that are checked out meanwhile, here and in what is called from here."""
    seen: set[Origin | None] = set()
    token = _seen.set(seen)
    try:
        yield seen
    finally:
        _seen.reset(token)


def note_origins(engine: Engine, shard: str) -> None:
    """Have every connection of *engine* tell its origin; once an engine."""
    if getattr(engine.pool, "_tidegate_origins", False):
        return
    engine.pool._tidegate_origins = True  # type: ignore[attr-defined]  # noqa: SLF001  # a mark of our own
    postgresql = engine.dialect.name == "postgresql"

    def ask(raw: Any, record: Any) -> None:
        record.info[_KEY] = _ask(raw, shard) if postgresql else Origin(0, 0, shard)

    def note(raw: Any, record: Any, _proxy: Any) -> None:
        if _KEY not in record.info:  # opened before this engine was a gate's
            ask(raw, record)
        if (seen := _seen.get()) is not None:
            seen.add(record.info[_KEY])

    event.listen(engine, "connect", ask)
    event.listen(engine, "checkout", note)


def timeline_of(info: Any) -> int | None:
    """The timeline of the primary that a connection with this record's *info* goes to; None: it goes to a standby."""
    origin: Origin | None = info.get(_KEY)
    return None if origin is None else origin.timeline


def _ask(raw: Any, shard: str) -> Origin | None:
    """None on a standby: what it shows depends on the moment."""
    cursor = raw.cursor()
    try:
        cursor.execute(_ASK)
        (timeline,) = cursor.fetchone()
    finally:
        cursor.close()
        raw.rollback()
    return None if timeline is None else Origin(0, int(timeline, 16), shard)
