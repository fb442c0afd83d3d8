"""The outbox: notes of changes that no intent has told the cache of. Any gate applies them.

Until a row is applied, hits elsewhere may be older than the write by that time: the outbox window. Rows are taken with
SKIP LOCKED, and deleted in the transaction that applies them. A gate never takes "the rows after the last one I saw",
because transactions do not commit in the order of their rows. A row that is applied twice bumps twice: that is
harmless.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Text, bindparam, delete, exists, func, insert, literal_column, or_, select, text
from sqlalchemy.exc import DBAPIError, ProgrammingError, SQLAlchemyError

from tidegate.cache.events import TriggerFailed, Voided, ignore
from tidegate.cache.store import OtherHistory, StoreUnavailable
from tidegate.errors import RoutingError
from tidegate.position import NOWHERE, Origin
from tidegate.proxy.database.note_functions import CHANNEL
from tidegate.proxy.database.notifications import Listener, NotifiedThread, listens
from tidegate.proxy.database.placement import execute_own, own
from tidegate.proxy.database.primary import here
from tidegate.proxy.database.schema import CACHE, OUTBOX, STATE
from tidegate.proxy.tracking.failures import keep_failure
from tidegate.proxy.tracking.notes import Found, Note, everything_note, found_in, note_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from sqlalchemy import Connection, Engine, Row, Select

    from tidegate.cache.events import Observer
    from tidegate.cache.store import Change, Store
    from tidegate.cache.untold import UntoldChanges
    from tidegate.position import History, Position
    from tidegate.proxy.database.histories import Histories
    from tidegate.proxy.writes.commit_protocol import Committing

_BATCH: Final = 200
_MOST_WAITING: Final = 1000


# A gate without a cache writes notes only where a cache serves this database: otherwise nobody would ever take them
# out. A cache that begins to serve it at this very moment misses nothing: it has no entry yet, and it makes none before
# this transaction has ended, because its marks are in quarantine until then. A gate with a cache takes them out itself;
# and it knows that others may be served, although somebody has deleted the row that says so.
_SERVED: Final = exists(select(STATE.c.name).where(STATE.c.name == CACHE))
_VALUES: Final = select(bindparam("source", type_=Text), bindparam("rows", type_=Text))
_PUT: Final = insert(OUTBOX).from_select(["source", "rows"], _VALUES.where(_SERVED))
# An old snapshot does not tell whether a cache serves: one may have come since.
_SERVED_BY_NOW: Final = or_(_SERVED, func.current_setting("transaction_isolation") != "read committed")
_PUT_ON_POSTGRESQL: Final = insert(OUTBOX).from_select(["source", "rows"], _VALUES.where(_SERVED_BY_NOW))
_PLACE: Final = literal_column("tidegate_outbox.ctid", Text)
_AT_PLACES: Final = text("ctid = ANY (CAST(:places AS tid[]))")
_CANNOT_PREPARE: Final = func.current_setting("max_prepared_transactions") == "0"
"""A transaction that has notified cannot be prepared: where any can be, the poll must do."""
_NOTIFY: Final = select(func.pg_notify(CHANNEL, "")).where(_SERVED, _CANNOT_PREPARE)
_PUT_ALWAYS: Final = insert(OUTBOX)
_NOTIFY_ALWAYS: Final = select(func.pg_notify(CHANNEL, "")).where(_CANNOT_PREPARE)


class Outbox:
    """Write notes that no trigger has written to the outbox.

    Args:
        notify: whether the database is PostgreSQL, which has NOTIFY.
        untold: is told whose changes are written; None: this gate has no cache.
    """

    def __init__(self, *, notify: bool, untold: UntoldChanges | None = None) -> None:
        self._notify = notify
        self._untold = untold

    def put(self, connection: Committing, changes: Sequence[Change]) -> None:
        """Write *changes* in the connection's transaction: they are there if it is committed, and only then.

        A gate without a cache writes nothing where no cache serves the database.
        """
        self._put(connection, note_of(changes))
        if self._untold is not None:
            self._untold.wrote(c.tenant for c in changes)

    def put_everything(self, connection: Committing, why: str) -> None:
        """Write in the connection's transaction that anything may have changed, for whatever reason."""
        self._put(connection, everything_note(why, told=True))
        if self._untold is not None:
            self._untold.wrote_everything()

    def _put(self, connection: Committing, note: Note) -> None:
        put, notify = (_PUT_ALWAYS, _NOTIFY_ALWAYS)
        if self._untold is None:
            put, notify = (_PUT_ON_POSTGRESQL if self._notify else _PUT), _NOTIFY
        execute_own(connection, put, note._asdict())
        if self._notify:
            execute_own(connection, notify)


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


def _understood(*notes: Note) -> Found:
    try:
        return found_in(notes)
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # of a later release, or written by hand
        return Found((), f"a note cannot be read: {error!r}")


def _read(engine: Engine, rows: Sequence[Row[Any]]) -> dict[Any, Found]:
    """Return what each note says, by its place.

    On SQLite a row that a cascade deletes does not tell whose it was: a later note does, that of its parent. So all
    that lie there are read together.
    """
    if engine.dialect.name != "sqlite":
        return {row.place: _understood(Note(row.source, row.rows)) for row in rows}
    found = dict.fromkeys((row.place for row in rows), Found(()))
    if rows:
        found[rows[-1].place] = _understood(*(Note(row.source, row.rows) for row in rows))
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


class Applier:
    """Run a thread that applies the outbox: when the database notifies it, and every *poll_s* seconds.

    What the cache does not take stays in the outbox, and the thread says whose it is: the cache may answer all the
    same, and must not be asked about these.

    Args:
        engine: the primary's engine.
        store: the cache that serves this database.
        shard: the shard's name.
        untold: is told whose rows wait.
        histories: knows the history of this database.
        look: is called each time, first: it asks the database and the cache what has become of them.
        settle: is called with a tenant whose marks are of another history; it has the newer one stay.
        poll_s: how long to wait for a notification before it looks all the same, in seconds.
        make_root: as for :func:`apply`.
        observe: as for :func:`apply`.
        applied: as for :func:`apply`.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        shard: str,
        untold: UntoldChanges,
        histories: Histories,
        *,
        look: Callable[[], None] = lambda: None,
        settle: Callable[[str], None] = lambda _tenant: None,
        poll_s: float = 0.25,
        make_root: Callable[[str], Origin | None] | None = None,
        observe: Observer = ignore,
        applied: Callable[[Sequence[Note]], None] = lambda _notes: None,
    ) -> None:
        self._observe = observe
        self._applied = applied
        self._engine = engine
        self._store = store
        self._shard = shard
        self._untold = untold
        self._histories = histories
        self._look = look
        self._settle = settle
        self._make_root = make_root
        untold.found(shard, None)  # notes may have waited for as long as no gate ran: nobody is asked for before a look
        self._notified = NotifiedThread(
            "tidegate-outbox",
            (lambda: Listener(engine, CHANNEL, "tidegate-outbox")) if listens(engine) else None,
            self._apply,
            failed="the outbox could not be applied: %s",
            poll_s=poll_s,
            again_s=4 * poll_s,
        )

    def look(self) -> None:
        """Look once, now, what has become of the database and the cache, and apply what waits.

        So a program's first write need not wait, and its first read finds what was changed while no gate ran. What does
        not answer now is asked again by the thread.
        """
        with suppress(StoreUnavailable, RoutingError, SQLAlchemyError):
            self._apply()
        with suppress(RoutingError, SQLAlchemyError):
            self._waiting()

    def wake(self) -> None:
        """Have the thread look now: this process has just left a note."""
        self._notified.wake()

    def ensure_started(self) -> None:
        """Start the thread in this process, if it does not run."""
        self._notified.ensure_started()

    def close(self) -> None:
        """End the thread."""
        self._notified.close()

    def _apply(self) -> bool:
        try:
            return self._look_and_apply()
        except ProgrammingError:  # our tables are gone: nobody knows who would wait
            self._untold.found(self._shard, None)
            raise

    def _look_and_apply(self) -> bool:
        try:
            self._look()
        except StoreUnavailable:
            self._waiting()
            return False
        if not self._waiting():
            return True
        try:
            apply(
                self._engine,
                self._store,
                self._histories,
                shard=self._shard,
                make_root=self._make_root,
                observe=self._observe,
                applied=self._applied,
            )
        except OtherHistory:
            self._settle_histories()
            return False
        except StoreUnavailable:  # the rows stay in the outbox
            return False
        finally:
            # Also the rows that another gate has locked: it may have been refused what this one was not.
            self._waiting()
        return True

    def _settle_histories(self) -> None:
        """Find out whose marks are right, for those that wait: no reader does, since these are not asked for.

        The rows stay in the outbox, and are tried again.
        """
        with suppress(StoreUnavailable):
            for tenant in waiting(self._engine)[1] or ():
                self._settle(tenant)

    def _waiting(self) -> bool:
        """Look who waits in the outbox, and tell whether there is anything to apply."""
        is_any, tenants = waiting(self._engine)
        self._untold.found(self._shard, tenants)
        return is_any
