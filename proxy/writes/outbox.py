"""The outbox: notes of changes that no intent has told the cache of; and how a gate adds what no trigger notes.

Any gate applies them: see :mod:`tidegate.proxy.writes.apply_notes`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import Text, bindparam, exists, func, insert, or_, select

from tidegate.proxy.database.note_functions import CHANNEL
from tidegate.proxy.database.placement import execute_own
from tidegate.proxy.database.schema import CACHE, OUTBOX, STATE
from tidegate.proxy.tracking.notes import Note, everything_note, note_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.cache.store import Change
    from tidegate.cache.untold import UntoldChanges
    from tidegate.proxy.writes.commit_protocol import Committing


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
