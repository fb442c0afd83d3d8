"""Whose data a connection shows: it is asked once, when the connection opens, and noted at each checkout.

What a read may store depends on the server that answered it. A connection stays with its server and with that server's
life: it does not survive a restart, and a server that is promoted was none to write to before. So the life that a new
connection tells holds for as long as it is open. Which history that life has may become known later.

A pooler that shares connections keeps its clients while the server behind it is restarted. Then a life was noted that
has ended, and nothing that is read there is stored. Who finds that out has every connection asked once more.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event

from tidegate.position import History, Origin
from tidegate.proxy.database.histories import Histories

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from sqlalchemy import Engine

    from tidegate.proxy.database.history_record import Life

_KEY: Final = "tidegate.life"
_MOVES: Final = "tidegate.moves"
_seen: ContextVar[set[Origin | None] | None] = ContextVar("tidegate_origins_seen", default=None)


@contextmanager
def origins_seen() -> Iterator[set[Origin | None]]:
    """Collect the origins of the connections that are checked out meanwhile, here and in what is called from here.

    Yields:
        The set that they are added to; None in it stands for a standby, and for a server whose history is not known.
    """
    seen: set[Origin | None] = set()
    token = _seen.set(seen)
    try:
        yield seen
    finally:
        _seen.reset(token)


def note_origins(engine: Engine, shard: str) -> Histories:
    """Have every connection of *engine* note its origin, on *shard*, and return what knows the history.

    A second call for one engine does nothing, and returns the same.
    """
    known: Histories | None = getattr(engine.dialect, "tidegate_histories", None)
    if known is not None:
        return known
    histories = Histories(engine.dialect, shard)
    engine.dialect.tidegate_histories = histories  # type: ignore[attr-defined]  # a mark of our own
    postgresql = engine.dialect.name == "postgresql"

    def ask(raw: Any, record: Any) -> None:
        if postgresql:
            moves = histories.moves
            try:
                here = histories.ask(raw)
            except BaseException:
                raw.close()  # the pool closes none whose listener has failed
                raise
            record.info[_KEY], record.info[_MOVES] = None if here is None else here.life, moves

    def note(raw: Any, record: Any, _proxy: Any) -> None:
        # The connection was opened before a gate took this engine, or a pooler has moved it.
        if postgresql and record.info.get(_MOVES) != histories.moves:
            ask(raw, record)
        if (seen := _seen.get()) is not None:
            life: Life | None = record.info.get(_KEY)
            history = None if life is None else histories.of(life)
            seen.add(Origin(0, History(), shard) if not postgresql else history and Origin(0, history, shard))

    event.listen(engine, "connect", ask)
    event.listen(engine, "checkout", note)
    return histories


def life_of(info: Any) -> Life | None:
    """Return the life of the primary that a connection with this record's *info* goes to; None for a standby."""
    life: Life | None = info.get(_KEY)
    return life


def is_of_another(info: Any, life: Life) -> bool:
    """Tell whether a connection with this record's *info* has noted another life than its server is in."""
    return _KEY in info and info[_KEY] != life


def is_left(life: Life | None, timeline: int, demoted: Collection[str]) -> bool:
    """Tell whether another server has replaced the primary with this life.

    Args:
        life: the primary's; None: it is a standby.
        timeline: that of the present primary.
        demoted: when the servers were started that are known to have been replaced.
    """
    return life is None or life.timeline < timeline or life.started in demoted
