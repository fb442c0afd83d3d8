"""Applying the notes of the outbox to the cache.

Until a note is applied, hits elsewhere may be older than the write by that time: the outbox window. Notes are selected
with SKIP LOCKED, and deleted in the transaction that applies them. A gate never takes "those after the last one I saw",
because transactions do not commit in the order of their notes. A note that is applied twice bumps twice: that is
harmless.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Text, delete, literal_column, select, text
from sqlalchemy.exc import DBAPIError

from tidegate.cache.events import TriggerFailed, Voided, ignore
from tidegate.cache.store import StoreUnavailable
from tidegate.errors import RoutingError
from tidegate.position import NOWHERE, Origin
from tidegate.proxy.database.placement import own
from tidegate.proxy.database.primary import here
from tidegate.proxy.database.schema import OUTBOX
from tidegate.proxy.tracking.failures import keep_failure
from tidegate.proxy.tracking.notes import Found, Note, read_notes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from sqlalchemy import Connection, Engine, Row, Select

    from tidegate.cache.events import Observer
    from tidegate.cache.store import Store
    from tidegate.position import History, Position
    from tidegate.proxy.database.histories import Histories


_BATCH: Final = 200
_MOST_WAITING: Final = 1000
_PLACE: Final = literal_column("tidegate_outbox.ctid", Text)
_AT_PLACES: Final = text("ctid = ANY (CAST(:places AS tid[]))")


def apply(
    engine: Engine,
    store: Store,
    histories: Histories,
    *,
    shard: str = "",
    make_root: Callable[[str], Origin | None] | None = None,
    observe: Observer = ignore,
    applied: Callable[[Sequence[Note]], None] = lambda _notes: None,
) -> int:
    """Apply the notes of the outbox to the cache, and delete them.

    Args:
        engine: the primary's engine.
        store: the cache.
        histories: knows the history of its database.
        shard: the shard's name.
        make_root: is needed where there are several shards. It makes the tenant's root that of the shard which has the
            tenant now, and returns of which origin. Only where that is the shard of this outbox, a position of this
            shard's log means anything to the tenant's marks.
        observe: is told of triggers that failed, and when everything is void.
        applied: is told of the notes that were applied, once they are gone from the outbox.

    Returns:
        The number of notes that were applied.

    Raises:
        StoreUnavailable: the cache cannot be told. The notes that were not applied stay in the outbox.
        RoutingError, DBAPIError: the root of a tenant cannot be made now. The notes of that tenant stay; those of the
            other tenants were applied.
    """
    total, last_id = 0, 0
    failed: list[Exception] = []
    while True:
        with own(engine).begin() as connection:
            waiting = _notes(engine).where(OUTBOX.c.id > last_id).order_by(OUTBOX.c.id).limit(_batch(engine))
            rows = connection.execute(waiting.with_for_update(skip_locked=True)).all()
            found = _read(engine, rows)
            taken: Collection[Any] = ()
            if rows:
                place, history = _histories_place(connection, engine, histories, list(found.values()))
                tenants = {change.tenant for each in found.values() for change in each.changes}
                origins = _origins(tenants, Origin(0, history, shard), make_root, failed)
                taken = [at for at, each in found.items() if all(c.tenant in origins for c in each.changes)]
                _delete(connection, taken)
                for origin in dict.fromkeys(origins.values()):
                    some = [c for at in taken for c in found[at].changes if origins[c.tenant] == origin]
                    store.bump(some, origin, NOWHERE if origin is None else place)
        total += len(taken)
        _tell(found.values(), observe)
        gone = frozenset(taken)
        applied([Note(row.source, row.rows) for row in rows if row.place in gone])
        if len(rows) != _batch(engine):
            break
        last_id = rows[-1].id  # for this round only: the next round begins with the first note again
    if failed:
        raise failed[0]
    return total


def _histories_place(
    connection: Connection, engine: Engine, histories: Histories, found: Sequence[Found]
) -> tuple[Position, History]:
    """Return position and history of the connection that has shown the notes; after one that voids all, of a new one.

    Raises:
        StoreUnavailable: nobody knows the history.
    """
    place = here(connection)  # after it has shown the rows
    history = histories.note(place)
    if history is None:
        raise StoreUnavailable("nobody knows yet which history this database has")
    failures = [failure for each in found for failure in each.failed]
    if failures:
        keep_failure(connection, *failures[-1])
    if any(each.everything for each in found):
        histories.renew(engine, history)
        place = here(connection)
        newer = histories.note(place)
        if newer is None or newer.ordinal <= history.ordinal:  # what was cached before would still be served
            raise StoreUnavailable("no new history could be begun, although anything may have changed")
        history = newer
    return place.position, history


def _tell(found: Collection[Found], observe: Observer) -> None:
    for table, error in (failure for each in found for failure in each.failed):
        observe(TriggerFailed(table, error))
    if why := next((each.everything for each in found if each.everything), ""):
        observe(Voided(why))


def waiting(engine: Engine) -> tuple[bool, Collection[str] | None]:
    """Return whether there are notes in the outbox, those that another gate is applying included; and their tenants.

    The tenants are None if there are too many. A note may have none: its rows were nobody's.
    """
    with own(engine).connect() as connection:
        rows = connection.execute(_notes(engine).limit(_MOST_WAITING + 1)).all()
    if len(rows) > _MOST_WAITING:
        return True, None
    notes = _read(engine, rows).values()
    if any(note.everything for note in notes):
        return True, None
    return bool(rows), {change.tenant for note in notes for change in note.changes}


def _batch(engine: Engine) -> int | None:
    return None if engine.dialect.name == "sqlite" else _BATCH


def _notes(engine: Engine) -> Select[Any]:
    """Return what selects notes, each with its place: on PostgreSQL two may have the same id."""
    return select(OUTBOX, (OUTBOX.c.id if engine.dialect.name == "sqlite" else _PLACE).label("place"))


def _delete(connection: Connection, places: Collection[Any]) -> None:
    if connection.dialect.name == "sqlite":
        connection.execute(delete(OUTBOX).where(OUTBOX.c.id.in_(places)))
    else:
        connection.execute(delete(OUTBOX).where(_AT_PLACES), {"places": list(places)})


def _read(engine: Engine, rows: Sequence[Row[Any]]) -> dict[Any, Found]:
    """Return what each note says, by its place.

    On SQLite a row that a cascade deletes does not tell whose it was: a later note does, that of its parent. So all
    that lie there are read together.
    """
    if engine.dialect.name != "sqlite":
        return {row.place: read_notes([Note(row.source, row.rows)]) for row in rows}
    found = dict.fromkeys((row.place for row in rows), Found(()))
    if rows:
        found[rows[-1].place] = read_notes([Note(row.source, row.rows) for row in rows])
    return found


def _origins(
    tenants: Collection[str],
    here: Origin,
    make_root: Callable[[str], Origin | None] | None,
    failed: list[Exception],
) -> dict[str, Origin | None]:
    """Return of which origin the tenants' roots are, None for those of another shard; put the errors into *failed*."""
    if make_root is None:
        return dict.fromkeys(tenants, here)
    found: dict[str, Origin | None] = {}
    for tenant in tenants:
        try:
            origin = make_root(tenant)
        except (RoutingError, DBAPIError) as error:
            failed.append(error)
            continue
        if origin is None or (origin.shard == here.shard and origin.history != here.history):
            failed.append(StoreUnavailable("the history of the tenant's database is not known, or has just changed"))
        else:
            found[tenant] = origin if origin.shard == here.shard else None
    return found
