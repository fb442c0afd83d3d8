"""Whose data a connection shows: it is asked once, when the connection opens, and noted at each checkout.

What a read may store depends on the server that answered it. A connection stays with its server, and the timeline of a
primary changes only when it stops being one. So the answer that a new connection gives holds for its whole life.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event

from tidegate.position import Origin
from tidegate.routing.replicas.probe_sql import one_row

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
    """Collect the origins of the connections that are checked out meanwhile, here and in what is called from here.

    Yields:
        The set that they are added to; None in it stands for a standby.
    """
    seen: set[Origin | None] = set()
    token = _seen.set(seen)
    try:
        yield seen
    finally:
        _seen.reset(token)


def note_origins(engine: Engine, shard: str) -> None:
    """Have every connection of *engine* note its origin, on *shard*. A second call for one pool does nothing."""
    if getattr(engine.pool, "_tidegate_origins", False):
        return
    engine.pool._tidegate_origins = True  # type: ignore[attr-defined]  # noqa: SLF001  # a mark of our own
    postgresql = engine.dialect.name == "postgresql"

    def ask(raw: Any, record: Any) -> None:
        record.info[_KEY] = _ask(raw, shard) if postgresql else Origin(0, 0, shard)

    def note(raw: Any, record: Any, _proxy: Any) -> None:
        if _KEY not in record.info:  # the connection was opened before a gate took this engine
            ask(raw, record)
        if (seen := _seen.get()) is not None:
            seen.add(record.info[_KEY])

    event.listen(engine, "connect", ask)
    event.listen(engine, "checkout", note)


def timeline_of(info: Any) -> int | None:
    """Return the timeline of the primary that a connection with this record's *info* goes to; None for a standby."""
    origin: Origin | None = info.get(_KEY)
    return None if origin is None else origin.timeline


def _ask(raw: Any, shard: str) -> Origin | None:
    """Ask a new connection for its origin; None on a standby, since what a standby shows depends on the moment."""
    (timeline,) = one_row(raw, _ASK)
    return None if timeline is None else Origin(0, int(timeline, 16), shard)
