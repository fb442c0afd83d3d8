"""The thread that applies the outbox."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from sqlalchemy.exc import ProgrammingError, SQLAlchemyError

from tidegate.cache.events import ignore
from tidegate.cache.store import OtherHistory, StoreUnavailable
from tidegate.errors import RoutingError
from tidegate.proxy.database.note_functions import CHANNEL
from tidegate.proxy.database.notifications import Listener, NotifiedThread, listens
from tidegate.proxy.writes.apply_notes import apply, waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Engine

    from tidegate.cache.events import Observer
    from tidegate.cache.store import Store
    from tidegate.cache.untold import UntoldChanges
    from tidegate.position import Origin
    from tidegate.proxy.database.histories import Histories
    from tidegate.proxy.tracking.notes import Note


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
